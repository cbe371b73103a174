"""Sources become uint8 arrays, and splits are stratified, exact and repeatable."""

import gzip
import hashlib
import pickle
import tarfile
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image, PngImagePlugin
from torchvision.datasets import CIFAR10, FashionMNIST
from torchvision.datasets import utils as torchvision_files

from kd import folders
from kd.data import apportion, listing_digest, load_source, split, spread
from kd.errors import DataError
from kd.protocol import Protocol
from kd.sources import Source

PROTOCOL = Protocol(
    dataset="digits",
    image_size=8,
    teacher="resnet20",
    teacher_epochs=1,
    student="resnet8",
    epochs=1,
)


def source_of(sizes: list[int], test_sizes: list[int] | None = None) -> Source:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    test = None
    if test_sizes is not None:
        test = np.repeat([False, True], [len(labels), sum(test_sizes)])
        labels = np.concatenate([labels, np.repeat(np.arange(len(sizes)), test_sizes)])
    images = np.zeros((len(labels), 1, 4, 4), np.uint8)
    classes = tuple("abcdefghij"[: len(sizes)])
    return Source(images=images, labels=labels, classes=classes, test=test)


def colour(red: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (red, 20, 30))


def save(root: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def load_folder(root: Path, image_size: int = 8) -> Source:
    return load_source(f"folder:{root}", image_size, root)


# Splits


def test_digits_have_the_published_size_and_the_full_range(tmp_path):
    source = load_source("digits", 8, tmp_path)
    assert source.images.shape == (1797, 1, 8, 8)
    assert source.images.dtype == np.uint8
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert source.classes == tuple("0123456789")
    assert np.bincount(source.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_resized_only_when_the_size_differs(tmp_path):
    calls = []
    small = load_source("digits", 8, tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == []
    large = load_source("digits", 16, tmp_path, lambda done, total: calls.append((done, total)))
    assert large.images.shape == (1797, 1, 16, 16)
    assert calls[-1] == (1797, 1797)
    expected = Image.fromarray(small.images[5, 0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(large.images[5, 0], expected)


@pytest.mark.parametrize("official", [False, True])
def test_parts_are_disjoint_sorted_and_cover_everything(official):
    source = source_of([40, 33, 57], [5, 6, 7] if official else None)
    parts = split(source, PROTOCOL)
    everything = [*parts.train, *parts.validation, *parts.test]
    assert sorted(everything) == list(range(len(source.labels)))
    assert all((np.diff(rows) > 0).all() for rows in (parts.train, parts.validation, parts.test))
    if official:
        np.testing.assert_array_equal(parts.test, np.flatnonzero(source.test))


def test_parts_are_stratified_within_one_image_and_exact_in_total(tmp_path):
    source = load_source("digits", 8, tmp_path)
    parts = split(source, PROTOCOL)
    assert len(parts.test) == round(0.2 * 1797)
    assert len(parts.validation) == round(0.1 * (1797 - len(parts.test)))
    whole = np.bincount(source.labels)
    test = np.bincount(source.labels[parts.test])
    validation = np.bincount(source.labels[parts.validation])
    assert (abs(test - 0.2 * whole) < 1).all()
    assert (abs(validation - 0.1 * (whole - test)) < 1).all()


def test_split_depends_on_the_fractions_but_not_on_the_seed():
    source = source_of([40, 40])
    first = split(source, PROTOCOL)
    again = split(source, replace(PROTOCOL, seed=7, student="resnet14", epochs=9))
    other = split(source, replace(PROTOCOL, validation_fraction=0.3))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
    np.testing.assert_array_equal(first.test, other.test)
    assert set(first.validation) < set(other.validation)


def test_split_is_a_draw_and_not_the_same_places_of_every_class():
    test = split(source_of([50, 50]), PROTOCOL).test
    assert set(test[test < 50]) != set(range(10))
    assert set(test[test < 50]) != set(test[test >= 50] - 50)


def test_train_size_is_spread_evenly_and_smaller_ones_are_subsets():
    source = source_of([10, 100, 100])
    kept = {}
    for size in (3, 20, 50, 100):
        rows = split(source, replace(PROTOCOL, train_size=size)).train
        assert len(rows) == size
        kept[size] = set(rows)
    assert kept[3] < kept[20] < kept[50] < kept[100]
    counts = [np.bincount(source.labels[sorted(kept[size])]).tolist() for size in (3, 20, 50, 100)]
    assert counts == [[1, 1, 1], [7, 7, 6], [7, 22, 21], [7, 47, 46]]  # 7 of class a can be kept


def test_apportion_takes_exact_totals_by_largest_remainder():
    assert apportion([100], 0.29) == [29]
    assert apportion([10, 15, 25], 0.1) == [1, 2, 2]  # quotas 1, 1.5, 2.5, total 5
    assert apportion([7, 7, 7], 1e-5) == [0, 0, 0]


def test_spread_grows_in_every_class_alike():
    sizes = [1, 9, 4]
    taken = [spread(sizes, total) for total in range(15)]
    assert taken[5] == [1, 2, 2]
    assert taken[14] == sizes
    for less, more in pairwise(taken):
        assert sum(more) == sum(less) + 1
        assert all(a <= b for a, b in zip(less, more, strict=True))


@pytest.mark.parametrize("train_size", [2, 1000])
def test_train_size_must_fit_the_classes_and_the_images(train_size):
    with pytest.raises(DataError, match=rf"3 classes and the 108 images .* got {train_size}"):
        split(source_of([50, 50, 50]), replace(PROTOCOL, train_size=train_size))


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (source_of([50, 1]), "test"),
        (source_of([50, 5]), "validation"),
        (source_of([50, 5], [5, 0]), "test"),
        (source_of([50, 0], [5, 5]), "validation"),
    ],
)
def test_class_that_is_missing_from_a_part_is_named(source, part):
    count = int((source.labels == 1).sum())
    with pytest.raises(
        DataError, match=f"class 'b' has {count} in all and none of them for {part}"
    ):
        split(source, PROTOCOL)


# Folders


def test_folder_with_test_keeps_it_and_every_kind_of_image_becomes_rgb(tmp_path):
    save(tmp_path, "train/a/1.png", Image.new("L", (8, 8), 77))
    save(tmp_path, "train/a/2.png", Image.new("RGBA", (8, 8), (1, 2, 3, 0)))
    save(tmp_path, "train/a/3.JPG", Image.new("RGB", (8, 8), (128, 128, 128)))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    save(tmp_path, "train/b/deep/4.png", palette, transparency=b"\x00\x80")
    save(tmp_path, "test/a/5.webp", Image.new("RGB", (8, 8), (0, 0, 0)))
    save(tmp_path, "test/b/6.bmp", Image.new("1", (8, 8), 1))
    source = load_folder(tmp_path)
    assert source.classes == ("a", "b")
    assert source.labels.tolist() == [0, 0, 0, 1, 0, 1]
    assert source.test.tolist() == [False] * 4 + [True] * 2
    assert source.images.shape == (6, 3, 8, 8)
    corners = source.images[:, :, 0, 0].tolist()
    assert corners[:2] == [[77, 77, 77], [1, 2, 3]]
    assert corners[3:] == [[9, 8, 7], [0, 0, 0], [255, 255, 255]]
    np.testing.assert_allclose(corners[2], 128, atol=2)  # JPEG


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_folder_without_test_is_left_to_be_split(tmp_path, prefix):
    for row in range(4):
        save(tmp_path, f"{prefix}{'ab'[row % 2]}/{row}.png", colour(row))
    source = load_folder(tmp_path)
    assert source.test is None
    assert source.images[:, 0, 0, 0].tolist() == [0, 2, 1, 3]


def test_class_may_be_called_train(tmp_path):
    save(tmp_path, "train/1.png", colour(1))
    save(tmp_path, "plane/2.png", colour(2))
    assert load_folder(tmp_path).classes == ("plane", "train")


def test_other_and_hidden_files_are_passed_over(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    for name in ("README", "a/Thumbs.db", "a/.DS_Store", "b/.2.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert len(load_folder(tmp_path).labels) == 2


def test_images_are_turned_as_their_exif_says(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: white on the right
    save(tmp_path, "a/1.png", image, exif=exif)
    save(tmp_path, "b/2.png", image)
    images = load_folder(tmp_path).images
    assert (images[0, :, :, 4:] == 255).all()
    assert (images[0, :, :, :4] == 0).all()
    assert (images[1, :, :4] == 255).all()


def test_shorter_side_becomes_the_size_and_the_centre_is_kept(tmp_path):
    stripes = Image.new("RGB", (24, 12))
    stripes.paste((250, 250, 250), (6, 0, 18, 12))  # exactly the centre square
    save(tmp_path, "a/1.png", stripes)
    save(tmp_path, "b/2.png", Image.effect_noise((9, 8), 50).convert("RGB"))
    images = load_folder(tmp_path, 8).images
    assert (images[0] == 250).all()
    noise = np.asarray(Image.open(tmp_path / "b/2.png"))[:, :8]
    np.testing.assert_array_equal(images[1], noise.transpose(2, 0, 1))  # cropped, not resampled


def test_downsizing_averages_rather_than_drops_pixels(tmp_path):
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", board)
    images = load_folder(tmp_path, 8).images
    assert ((images > 110) & (images < 145)).all()


def test_progress_reaches_the_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "BLOCK", 2)
    for row in range(5):
        save(tmp_path, f"{'ab'[row % 2]}/{row}.png", colour(row))
    calls = []
    load_source(f"folder:{tmp_path}", 8, tmp_path, lambda *call: calls.append(call))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_warning_filters_are_as_they_were_after_a_folder_was_read(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    before = list(warnings.filters)
    load_folder(tmp_path)
    assert warnings.filters == before


def test_extensions_are_those_of_torchvision():
    assert folders.EXTENSIONS == torchvision.datasets.folder.IMG_EXTENSIONS


def test_link_within_the_folder_is_read(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    (tmp_path / "b/2.png").symlink_to("../a/1.png")
    assert load_folder(tmp_path).labels.tolist() == [0, 1, 1]


def test_listing_digest_follows_files_and_size_but_not_reading(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    dataset = f"folder:{tmp_path}"
    digests = [listing_digest(dataset, 8), listing_digest(dataset, 16)]
    load_folder(tmp_path)
    assert listing_digest(dataset, 8) == digests[0]
    save(tmp_path, "b/2.png", colour(1))
    digests.append(listing_digest(dataset, 8))
    (tmp_path / "b/2.png").rename(tmp_path / "b/3.png")
    digests.append(listing_digest(dataset, 8))
    (tmp_path / "b/3.png").write_bytes(b"other size")
    digests.append(listing_digest(dataset, 8))
    digests += [listing_digest("digits", 8), listing_digest("cifar10", 8)]
    assert len(set(digests)) == len(digests)


def test_image_metadata_that_is_damaged_spoils_no_image(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.tif", colour(40))
    path = save(tmp_path, "a/2.jpg", colour(40))
    whole = path.read_bytes()
    damaged = b"\xff\xe1\x00\x14Exif\0\0II*\0\x08\0\0\0\x09\0\0\0"  # nine entries, none there
    path.write_bytes(whole[:2] + damaged + whole[2:])
    assert len(load_folder(tmp_path).labels) == 3


def test_text_bomb_in_a_png_is_refused(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "x" * 2_000_000, zip=True)
    save(tmp_path, "a/1.png", colour(1), pnginfo=texts)
    save(tmp_path, "b/1.png", colour(1))
    with pytest.raises(DataError, match=r"1\.png' cannot be read as an image"):
        load_folder(tmp_path)


# torchvision's data sets


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
    source = load_source("cifar10", 32, cifar)
    first = pickle.loads((cifar / CIFAR10.base_folder / "one").read_bytes())  # noqa: S301
    assert source.images.shape == (12, 3, 32, 32)
    np.testing.assert_array_equal(source.images[3].ravel(), first["data"][3])
    assert source.labels.tolist() == [0, 1] * 6
    assert source.classes == ("cat", "dog")
    assert source.test.tolist() == [False] * 8 + [True] * 4


def test_cifar_archive_is_read_and_stays_the_only_file(cifar, packed_cifar, no_network):
    source = load_source("cifar10", 16, cifar)
    assert source.images.shape == (12, 3, 16, 16)
    assert list(cifar.iterdir()) == [packed_cifar]


def test_cifar_pickle_of_another_md5_is_never_opened(cifar, tmp_path, no_network):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (cifar / CIFAR10.base_folder / "one").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="does not hold CIFAR10 as published"):
        load_source("cifar10", 32, cifar)
    assert not (tmp_path / "sprung").exists()


def test_cifar_archive_of_another_md5_is_refused_and_left_alone(cifar, packed_cifar, no_network):
    packed_cifar.write_bytes(packed_cifar.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged: its MD5 is not"):
        load_source("cifar10", 32, cifar)
    assert packed_cifar.exists()


def test_download_that_fails_says_which_file_to_put_where(tmp_path, no_network):
    target = tmp_path / "downloads"
    with pytest.raises(DataError) as caught:
        load_source("cifar10", 32, target)
    message = str(caught.value)
    assert "\n" not in message
    assert "Name or service not known" in message
    wanted = f"put cifar-10-python.tar.gz or cifar-10-batches-py/ into {target}, or name another"
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
        load_source("cifar10", 32, cifar)
    assert list(cifar.iterdir()) == []
    assert len(load_source("cifar10", 32, cifar).labels) == 12
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
    source = load_source("fashion-mnist", 28, tmp_path)
    assert source.images[:, 0, 0, 0].tolist() == [6] * 6 + [4] * 4
    assert source.images.shape == (10, 1, 28, 28)
    assert source.test.tolist() == [False] * 6 + [True] * 4
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=rf"put train-images.*t10k-labels.*ubyte\.gz into {raw}"):
        load_source("fashion-mnist", 28, tmp_path)
