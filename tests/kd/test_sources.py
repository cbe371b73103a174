"""Named data sets come as published, or not at all: MD5 first, downloads whole."""

import dataclasses
import gzip
import hashlib
import pickle
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, FashionMNIST
from torchvision.datasets import utils as torchvision_files

from kd.data.reading.source import Reading, Source
from kd.data.splits import listing_digest, load_source
from kd.errors import DataError

ROOT = Path(__file__).parents[2]


def test_digits_have_the_published_size_and_the_full_range(tmp_path):
    source = load_source("digits", Reading(8), tmp_path)
    assert source.inputs.shape == (1797, 1, 8, 8)
    assert source.inputs.dtype == np.uint8
    assert (source.inputs.min(), source.inputs.max()) == (0, 255)
    assert source.classes == tuple("0123456789")
    published = load_digits()
    np.testing.assert_array_equal(source.labels, published.target)
    np.testing.assert_array_equal(source.inputs[:, 0], np.rint(published.images * (255 / 16)))


def test_one_of_twenty_rare_digits_is_an_eight(tmp_path):
    digits, rare = (load_source(name, Reading(8), tmp_path) for name in ("digits", "digits-rare"))
    assert rare.classes == ("other", "8")
    assert np.bincount(rare.labels).tolist() == [1623, 85]
    others, eights = digits.inputs[digits.labels != 8], digits.inputs[digits.labels == 8]
    np.testing.assert_array_equal(rare.inputs[rare.labels == 0], others)
    np.testing.assert_array_equal(rare.inputs[rare.labels == 1], eights[:85])


def test_reading_digits_imports_no_scikit_learn(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from kd.data.reading.source import Reading\n"
        "from kd.data.splits import load_source\n"
        f"assert len(load_source('digits', Reading(8), Path({str(tmp_path)!r})).labels) == 1797\n"
        "assert 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_listing_is_another_one_once_the_code_that_reads_has_changed(tmp_path, monkeypatch):
    folder = tmp_path / "reading"
    shutil.copytree(ROOT / "kd/data/reading", folder)
    monkeypatch.setattr("kd.data.reading.__file__", str(folder / "__init__.py"))
    before = listing_digest("digits", Reading(8))
    assert listing_digest("digits", Reading(8)) == before
    with (folder / "images.py").open("a") as file:
        file.write("# changed\n")
    assert listing_digest("digits", Reading(8)) != before


def test_digits_without_scikit_learn_name_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("kd.data.sources.digits.find_spec", lambda name: None)
    with pytest.raises(DataError, match="come with scikit-learn, which is not installed"):
        load_source("digits", Reading(8), tmp_path)


def test_digits_are_resized_only_when_the_size_differs(tmp_path):
    calls = []
    small = load_source(
        "digits", Reading(8), tmp_path, lambda done, total: calls.append((done, total))
    )
    assert calls == []
    large = load_source(
        "digits", Reading(16), tmp_path, lambda done, total: calls.append((done, total))
    )
    assert large.inputs.shape == (1797, 1, 16, 16)
    assert calls == [*((done, 1797) for done in range(64, 1797, 64)), (1797, 1797)]
    expected = Image.fromarray(small.inputs[5, 0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(large.inputs[5, 0], expected)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """A folder with cifar-10-batches-py/ of 8 + 4 images, which are CIFAR10's as published."""
    folder = tmp_path / "data" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("one", 8), ("two", 4)):
        data = generator.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        labels = [row % 2 for row in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    monkeypatch.setattr(CIFAR10, "train_list", [["one", md5(folder / "one")]])
    monkeypatch.setattr(CIFAR10, "test_list", [["two", md5(folder / "two")]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return folder.parent


@pytest.fixture
def packed_cifar(cifar, monkeypatch) -> Path:
    """The same, as the published archive."""
    archive = cifar / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as members:
        members.add(cifar / CIFAR10.base_folder, CIFAR10.base_folder)
    (cifar / CIFAR10.base_folder).rename(cifar.parent / "unpacked")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    return archive


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_cifar_folder_is_read_with_its_own_test_split(cifar, no_network):
    source = load_source(f"cifar10:{cifar}", Reading(32), cifar / "no downloads")
    first = pickle.loads((cifar / CIFAR10.base_folder / "one").read_bytes())  # noqa: S301
    assert source.inputs.shape == (12, 3, 32, 32)
    np.testing.assert_array_equal(source.inputs[3].ravel(), first["data"][3])
    assert source.labels.tolist() == [0, 1] * 6
    assert source.classes == ("cat", "dog")
    assert source.part.tolist() == [""] * 8 + ["test"] * 4


def test_cifar_archive_is_read_and_stays_the_only_file(cifar, packed_cifar, no_network):
    source = load_source("cifar10", Reading(16), cifar)
    assert source.inputs.shape == (12, 3, 16, 16)
    assert list(cifar.iterdir()) == [packed_cifar]


def test_cifar_pickle_of_another_md5_is_never_opened(cifar, tmp_path, no_network):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (cifar / CIFAR10.base_folder / "one").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="does not hold CIFAR10 as published"):
        load_source("cifar10", Reading(32), cifar)
    assert not (tmp_path / "sprung").exists()


def test_cifar_archive_of_another_md5_is_refused_and_left_alone(cifar, packed_cifar, no_network):
    packed_cifar.write_bytes(packed_cifar.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged: its MD5 is not"):
        load_source("cifar10", Reading(32), cifar)
    assert packed_cifar.exists()


def test_download_that_fails_states_which_file_to_put_where(tmp_path, no_network):
    target = tmp_path / "downloads"
    with pytest.raises(DataError) as caught:
        load_source("cifar10", Reading(32), target)
    message = str(caught.value)
    assert "\n" not in message
    assert "Name or service not known" in message
    wanted = f"put cifar-10-python.tar.gz or cifar-10-batches-py/ into {target}, or name the "
    wanted += "folder that holds the files: --dataset cifar10:DIR"
    assert wanted in message
    assert list(target.iterdir()) == []


def test_download_is_kept_when_whole_and_not_when_cut(cifar, packed_cifar, monkeypatch):
    published = packed_cifar.rename(cifar.parent / "published").read_bytes()
    sent = [published[:100], published]

    def deliver(url: str, path: str, *args: object) -> None:
        Path(path).write_bytes(sent.pop(0))

    monkeypatch.setattr(torchvision_files, "_get_redirect_url", lambda url, **options: url)
    monkeypatch.setattr(torchvision_files, "_urlretrieve", deliver)
    with pytest.raises(DataError, match="File not found or corrupted"):
        load_source("cifar10", Reading(32), cifar)
    assert list(cifar.iterdir()) == []
    assert len(load_source("cifar10", Reading(32), cifar).labels) == 12
    assert list(cifar.iterdir()) == [packed_cifar]


def test_fashion_mnist_is_read_from_its_archives(tmp_path, monkeypatch, no_network):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for half, count in (("train", 6), ("t10k", 4)):
        pixels = np.full((count, 28, 28), count, np.uint8)
        labels = (np.arange(count) % 2).astype(np.uint8)
        for kind, magic, array in (("images-idx3", 2051, pixels), ("labels-idx1", 2049, labels)):
            header = np.array([magic, *array.shape], ">i4").tobytes()
            path = raw / f"{half}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
            resources.append((path.name, md5(path)))
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    source = load_source("fashion-mnist", Reading(28), tmp_path)
    assert source.inputs[:, 0, 0, 0].tolist() == [6] * 6 + [4] * 4
    assert source.inputs.shape == (10, 1, 28, 28)
    assert source.part.tolist() == [""] * 6 + ["test"] * 4
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=rf"put train-images.*t10k-labels.*ubyte\.gz into {raw}"):
        load_source("fashion-mnist", Reading(28), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inputs": np.zeros((4, 1, 8, 8))},
            "must be uint8 [N, C, H, H], or float32 or int64 [N, ...], got float64 [4, 1, 8, 8]",
        ),
        ({"inputs": np.zeros((4, 8, 8), np.uint8)}, "float32 or int64 [N, ...], got uint8 [4, 8,"),
        ({"inputs": np.zeros((4, 1, 8, 9), np.uint8)}, "got uint8 [4, 1, 8, 9]"),
        ({"labels": np.array([0, 1, 0])}, "labels of a data set must be int64 [4], got int64 [3]"),
        ({"labels": np.array([0, 1, 0, 2])}, "labels must lie in 0-1, one per class, got 0-2"),
        ({"part": np.array([0, 1, 0, 1])}, "part of a data set must be str [4], got int64 [4]"),
        ({"part": np.array(["test"])}, "part of a data set must be str [4], got str [1]"),
        (
            {"part": np.array(["", "test", "val", "train"])},
            "part must be train, validation, test or empty, got 'val'",
        ),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(change, message):
    images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    good = Source(inputs=images, labels=labels, classes=("a", "b"))
    with pytest.raises(DataError) as raised:
        dataclasses.replace(good, **change)
    assert message in str(raised.value)
