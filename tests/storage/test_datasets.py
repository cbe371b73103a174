"""Data sets are kept once, named by what they hold, and their test split is sealed."""

import errno
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd.data import splits
from kd.data.reading import blocks, files
from kd.data.reading.source import Source
from kd.errors import ArtifactError, DataError
from kd.protocol import Protocol
from storage.files import datasets
from storage.files.artifacts import write_json
from storage.files.datasets import find_listing, open_part, open_test, prepare, read_listing
from storage.files.layout import Layout
from storage.files.seal import openings, record_opening
from storage.files.streams import ArrayStream
from storage.files.tensors import write_tensors

DIGITS = Protocol(
    dataset="digits",
    image_size=8,
    teachers=("resnet20",),
    teacher_epochs=1,
    students=("resnet8",),
    epochs=1,
)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "runs")


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of two classes, ten images each, that differ in every pixel."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for row in range(10):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{row}.png")
    return folder


def protocol_of(folder: Path) -> Protocol:
    return replace(DIGITS, dataset=f"folder:{folder}")


@pytest.fixture
def readings(monkeypatch) -> list[str]:
    """The data sets that were read from their source rather than from the cache."""
    seen = []
    load = datasets.load_source

    def counting(dataset: str, *rest: object) -> object:
        seen.append(dataset)
        return load(dataset, *rest)

    monkeypatch.setattr(datasets, "load_source", counting)
    return seen


def test_manifest_tells_classes_counts_and_statistics_of_the_training_images(layout):
    manifest = prepare(layout, DIGITS)
    info = manifest.info
    assert info["classes"] == list("0123456789")
    assert [sum(counts) for counts in info["counts"].values()] == [1294, 144, 359]
    assert info["inputs"]["shape"] == [1, 8, 8]
    assert info["official"] == []
    train = open_part(manifest.folder, "train")
    pixels = train.values.double() / 255
    assert train.inputs.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    deviation = pixels.std((0, 2, 3), correction=0)
    assert train.inputs.deviation == pytest.approx(deviation.tolist(), abs=1e-6)
    assert train.labels.bincount().tolist() == info["counts"]["train"]


def test_parts_hold_every_image_once_under_its_own_label(layout, photos, tmp_path):
    folder = prepare(layout, protocol_of(photos)).folder
    parts = [open_part(folder, "train"), open_part(folder, "validation")]
    parts.append(open_test(folder, "folder:x", tmp_path / "seal.json", "a test"))
    kept = {
        (image.numpy().tobytes(), int(label))
        for part in parts
        for image, label in zip(part.values, part.labels, strict=True)
    }
    drawn = {
        (np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes(), label)
        for label, name in enumerate(("cat", "dog"))
        for path in (photos / name).iterdir()
    }
    assert kept == drawn
    assert sum(len(part) for part in parts) == 20


def test_parts_are_mapped_from_the_file_rather_than_copied(layout):
    folder = prepare(layout, DIGITS).folder
    train = open_part(folder, "train")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    address = train.values.data_ptr()
    for line in maps.read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= address < high:
            assert line.endswith(str(folder / "train.safetensors"))
            return
    pytest.fail("the images lie nowhere in memory")


def test_second_start_reads_nothing_again(layout, photos, readings):
    protocol = protocol_of(photos)
    first = prepare(layout, protocol)
    second = prepare(layout, replace(protocol, seed=3, epochs=7))
    assert first == second
    assert len(readings) == 1


def test_split_fields_and_image_size_make_another_data_set(layout, readings):
    protocols = [
        DIGITS,
        replace(DIGITS, train_size=100),
        replace(DIGITS, validation_fraction=0.2),
        replace(DIGITS, test_fraction=0.3),
        replace(DIGITS, split_seed=1),
        replace(DIGITS, image_size=9),
    ]
    folders = {prepare(layout, protocol).folder for protocol in protocols}
    assert len(folders) == len(readings) == 6
    assert prepare(layout, DIGITS).folder in folders
    assert len(readings) == 6


def test_copied_folder_has_the_same_fingerprint_until_a_pixel_changes(layout, photos, tmp_path):
    original = prepare(layout, protocol_of(photos))
    copy = Path(shutil.copytree(photos, tmp_path / "elsewhere" / "pictures"))
    assert prepare(layout, protocol_of(copy)) == original
    path = copy / "dog" / "3.png"
    image = Image.open(path)
    red, green, blue = image.getpixel((0, 0))
    image.putpixel((0, 0), (red ^ 1, green, blue))
    image.save(path)
    os.utime(path, ns=(1, 1))  # however coarse the clock of the file system
    assert prepare(layout, protocol_of(copy)).folder != original.folder


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_list_or_file_that_was_moved_has_the_same_fingerprint(layout, photos, tmp_path, kind):
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in photos.glob("*/*.png")]
    (photos / "data.csv").write_text("\n".join(["path,label", *sorted(rows)]))
    images = np.arange(20 * 64, dtype=np.uint16).reshape(20, 8, 8)
    np.savez(photos / "data.npz", x=images, y=np.arange(20) % 2)
    first = prepare(layout, replace(DIGITS, dataset=f"{kind}:{photos}/data.{kind}"))
    moved = photos.rename(tmp_path / "elsewhere")
    assert prepare(layout, replace(DIGITS, dataset=f"{kind}:{moved}/data.{kind}")) == first


def test_class_names_are_part_of_the_fingerprint(layout, photos):
    original = prepare(layout, protocol_of(photos))
    (photos / "dog").rename(photos / "wolf")
    assert prepare(layout, protocol_of(photos)).folder != original.folder


def test_data_set_that_was_deleted_or_left_unfinished_is_made_again(layout, photos, readings):
    protocol = protocol_of(photos)
    folder = prepare(layout, protocol).folder
    (folder / "manifest.json").unlink()
    assert prepare(layout, protocol).folder == folder
    shutil.rmtree(folder)
    assert prepare(layout, protocol).folder == folder
    assert len(readings) == 3


def test_two_that_prepare_at_once_read_once(layout, photos, readings):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(prepare, layout, protocol_of(photos)) for _ in range(4)]
        folders = {job.result().folder for job in jobs}
    assert len(folders) == len(readings) == 1


def test_copies_that_are_prepared_at_once_are_written_once(layout, photos, tmp_path, monkeypatch):
    written = []
    write = datasets._write

    def counting(*args: object) -> object:
        written.append(args)
        return write(*args)

    monkeypatch.setattr(datasets, "_write", counting)
    copies = [Path(shutil.copytree(photos, tmp_path / "copies" / name)) for name in "abcd"]
    with ThreadPoolExecutor(4) as pool:
        manifests = list(pool.map(lambda copy: prepare(layout, protocol_of(copy)), copies))
    assert len(written) == 1
    assert all(manifest == manifests[0] for manifest in manifests)


def test_damaged_file_is_detected(layout):
    manifest = prepare(layout, DIGITS)
    path = manifest.folder / "validation.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"validation\.safetensors differs from its manifest"):
        prepare(layout, DIGITS)
    path.write_bytes(content[:5])
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_part(manifest.folder, "validation")


def test_damaged_listing_is_detected(layout):
    prepare(layout, DIGITS)
    (listing,) = layout.listing("x").parent.glob("*.json")
    write_json(listing, {"fingerprint": "../../elsewhere"})
    with pytest.raises(ArtifactError, match="names no data set; delete it"):
        prepare(layout, DIGITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs, labels: {"inputs": inputs}, "must hold labels"),
        (lambda inputs, labels: {"inputs": inputs[1:], "labels": labels[1:]}, "must hold inputs"),
        (lambda inputs, labels: {"inputs": inputs.float(), "labels": labels}, "torch.uint8, got"),
        (lambda inputs, labels: {"inputs": inputs, "labels": labels.int()}, "torch.int64, got"),
        (lambda inputs, labels: {"inputs": inputs, "labels": labels + 1}, "holds other labels"),
        (lambda inputs, labels: {"inputs": inputs, "labels": labels - 1}, "holds other labels"),
    ],
)
def test_tensors_that_are_not_those_of_the_manifest_are_refused(layout, change, message):
    folder = prepare(layout, DIGITS).folder
    part = open_part(folder, "train")
    inputs, labels = part.values.clone(), part.labels.clone()
    write_tensors(folder / "train.safetensors", change(inputs, labels))
    with pytest.raises(ArtifactError, match=message):
        open_part(folder, "train")


# The seal


def test_open_part_refuses_the_test_split(layout):
    folder = prepare(layout, DIGITS).folder
    with pytest.raises(ArtifactError, match="test split is sealed"):
        open_part(folder, "test")


def test_every_opening_of_the_test_split_is_recorded_before_it_is_opened(layout):
    folder = prepare(layout, DIGITS).folder
    seal = layout.study("s").seal
    assert openings(seal) == ()
    assert len(open_test(folder, "digits", seal, "confirm plain-default 00")) == 359
    (folder / "test.safetensors").unlink()
    with pytest.raises(ArtifactError):
        open_test(folder, "digits", seal, "confirm plain-default 00")
    assert [entry.purpose for entry in openings(seal)] == ["confirm plain-default 00"] * 2
    assert all(entry.time.endswith("+00:00") for entry in openings(seal))


def test_openings_at_once_are_all_recorded(tmp_path):
    seal = tmp_path / "seal.json"
    purposes = [f"run {number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda purpose: record_opening(seal, purpose), purposes))
    assert sorted(entry.purpose for entry in openings(seal)) == sorted(purposes)


@pytest.mark.parametrize(
    "content", ["", "{}", '[{"time": "now"}]', '[{"time": 1, "purpose": "x"}]']
)
def test_damaged_record_is_refused_and_never_begun_again(tmp_path, content):
    seal = tmp_path / "seal.json"
    seal.write_text(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        record_opening(seal, "x")
    assert seal.read_text() == content


# Bad input


def _missing(photos: Path) -> None:
    shutil.rmtree(photos)


def _empty(photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()


def _one_class(photos: Path) -> None:
    shutil.rmtree(photos / "dog")


def _class_without_image(photos: Path) -> None:
    (photos / "emu").mkdir()
    (photos / "emu" / "notes.txt").write_text("no emu")


def _test_without_train(photos: Path) -> None:
    photos.rename(photos.parent / "old")
    shutil.copytree(photos.parent / "old", photos / "test")


def _other_classes_in_test(photos: Path) -> None:
    photos.rename(photos.parent / "old")
    shutil.copytree(photos.parent / "old", photos / "train")
    shutil.copytree(photos.parent / "old", photos / "test")
    (photos / "test" / "dog").rename(photos / "test" / "emu")


def _text_as_image(photos: Path) -> None:
    (photos / "cat" / "a\nb.png").write_text("not an image")


def _gif_as_png(photos: Path) -> None:
    Image.new("P", (8, 8)).save(photos / "cat" / "a.png", format="GIF")


def _truncated(photos: Path) -> None:
    path = photos / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:-40])


def _sixteen_bits(photos: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(photos / "cat" / "0.png")


def _pipe_as_image(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")


def _link_out(photos: Path) -> None:
    outside = photos.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(outside)
    (photos / "cat" / "link.png").symlink_to(outside)


def _link_to_parent(photos: Path) -> None:
    (photos / "cat" / "up").symlink_to(photos / "dog")


def _broken_link(photos: Path) -> None:
    (photos / "cat" / "gone.png").symlink_to("nowhere.png")


def _too_few(photos: Path) -> None:
    for row in range(1, 10):
        (photos / "dog" / f"{row}.png").unlink()


BAD_FOLDERS: list[tuple[Callable[[Path], None], str]] = [
    (_missing, "must name an existing folder"),
    (_empty, "at least 2 classes, got []"),
    (_one_class, "at least 2 classes, got ['cat']"),
    (_class_without_image, "emu' holds no image"),
    (_test_without_train, "holds test/ but no train/"),
    (_other_classes_in_test, "only in train/: ['dog'], only in test/: ['emu']"),
    (_text_as_image, r"a\nb.png' cannot be read as an image (it is none of JPEG, PNG"),
    (_gif_as_png, "a.png' cannot be read as an image (it is none of JPEG, PNG"),
    (_truncated, "0.png' cannot be read as an image"),
    (_sixteen_bits, "more than 8 bits a channel"),
    (_pipe_as_image, "pipe.png' is not a file"),
    (_link_out, "link.png' is a symbolic link that leaves"),
    (_link_to_parent, "up' is a symbolic link to a folder"),
    (_broken_link, "gone.png' is not a file"),
    (_too_few, "class 'dog' has 1 in all and none for"),
]


def files_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def fails_on_one_line(layout: Layout, protocol: Protocol, message: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare(layout, protocol)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert files_under(layout.root) == []


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS)
def test_bad_folder_is_one_clear_line_and_leaves_nothing(layout, photos, spoil, message):
    spoil(photos)
    fails_on_one_line(layout, protocol_of(photos), message)


def test_bad_folder_can_be_used_once_it_is_repaired(layout, photos):
    _text_as_image(photos)
    fails_on_one_line(layout, protocol_of(photos), "cannot be read as an image")
    (photos / "cat" / "a\nb.png").unlink()
    assert prepare(layout, protocol_of(photos)).info["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("limit", [20, 40])  # Pillow raises above twice the limit, and warns below
def test_decompression_bomb_is_refused(layout, photos, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    fails_on_one_line(layout, protocol_of(photos), "decompression bomb")


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "fashion-mnist"])
def test_download_that_fails_is_one_line_and_leaves_nothing(layout, monkeypatch, dataset):
    def refuse(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no\nroute")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    fails_on_one_line(layout, replace(DIGITS, dataset=dataset), f"into {layout.downloads}")


def test_images_that_do_not_fit_in_memory_are_refused(layout, tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise MemoryError

    np.savez(tmp_path / "wide.npz", x=np.zeros((20, 8, 9, 3), np.uint8), y=np.arange(20) % 2)
    monkeypatch.setattr(np, "empty", refuse)
    protocol = replace(DIGITS, dataset=f"npz:{tmp_path / 'wide.npz'}")
    fails_on_one_line(layout, protocol, "20 images of 3x8x8 bytes do not fit in memory")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_interrupted_decoding_is_continued(layout, photos, monkeypatch, tmp_path, skip_bad):
    """With a bad image before the interruption, or none."""
    monkeypatch.setattr(blocks, "BLOCK", 2)
    monkeypatch.setattr(blocks, "RECORDED", 1)
    if skip_bad:
        (photos / "cat/3.png").write_bytes(b"no image")
    protocol = replace(protocol_of(photos), skip_bad_images=skip_bad)
    read, images = files._read_image, []

    def interrupted(path: Path, *rest: object) -> object:
        images.append(f"{path.parent.name}/{path.name}")
        if images[-1] == "dog/4.png":
            raise KeyboardInterrupt
        return read(path, *rest)

    monkeypatch.setattr(files, "_read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(layout, protocol)
    images.clear()
    monkeypatch.setattr(
        files, "_read_image", lambda path, *rest: images.append(path.name) or read(path, *rest)
    )
    calls: list[tuple[int, int]] = []
    continued = prepare(layout, protocol, lambda *call: calls.append(call))
    assert images == [f"{row}.png" for row in range(4, 10)]  # those from the interrupted block on
    assert calls[:3] == [(16, 60), (18, 60), (20, 60)]  # reading is one of three passes
    assert calls[-1] == (60 - 3 * skip_bad,) * 2
    other = Layout(tmp_path / "other")
    whole = prepare(other, protocol)
    assert continued.files == whole.files
    told = [read_listing(find_listing(one, protocol)) for one in (layout, other)]
    assert told[0] == told[1]
    assert told[0]["left_out"] == ["cat/3.png"] * skip_bad
    assert [path for path in layout.cache.rglob("*") if "decoding" in path.name] == []


def anonymous_bytes() -> int:
    """The memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [size] = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(size) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts it in /proc")
def test_preparing_takes_far_less_memory_than_the_data_set_has(layout, photos):
    for number in range(280):
        shutil.copyfile(
            photos / "cat/0.png", photos / f"{('cat', 'dog')[number % 2]}/n{number}.png"
        )
    seen = [anonymous_bytes()]
    protocol = replace(protocol_of(photos), image_size=512)
    manifest = prepare(layout, protocol, lambda *call: seen.append(anonymous_bytes()), threads=2)
    size = sum(path.stat().st_size for path in manifest.folder.iterdir())
    assert size > 230e6
    assert max(seen) - seen[0] < size / 3


def test_full_disk_is_one_line_and_what_was_decoded_stays(layout, photos, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 2)
    monkeypatch.setattr(blocks, "RECORDED", 1)
    write, written = os.pwrite, []

    def full(descriptor: int, data: object, place: int) -> int:
        written.append(place)
        if room == len(written):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, place)

    room = 7
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ArtifactError, match=r"cannot be written to .*No space left.* make room"):
        prepare(layout, protocol_of(photos))
    written.clear()
    room = 0
    prepare(layout, protocol_of(photos))
    assert min(written) == 6 * 3 * 8 * 8


def test_a_write_that_takes_a_part_is_completed(layout, photos, monkeypatch, tmp_path):
    """As near the end of a disk, where other files have just made room."""
    whole = prepare(Layout(tmp_path / "other"), protocol_of(photos))
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda to, data, place: write(to, data[:50], place))
    assert prepare(layout, protocol_of(photos)).files == whole.files


def decodings(monkeypatch) -> list[str]:
    """Return a list to which the name of each image is added that is decoded from now on."""
    read, images = files._read_image, []
    monkeypatch.setattr(
        files, "_read_image", lambda path, *rest: images.append(path.name) or read(path, *rest)
    )
    return images


@pytest.mark.parametrize("skip_bad", [False, True])
def test_what_was_decoded_stays_until_it_is_stored(layout, photos, monkeypatch, tmp_path, skip_bad):
    """And a part of the data set that a killed process began to write goes."""
    if skip_bad:
        (photos / "cat/3.png").write_bytes(b"no image")
    protocol = replace(protocol_of(photos), skip_bad_images=skip_bad)
    append, folders = ArrayStream.append, []

    def killed(stream: ArrayStream, *given: object) -> None:
        folders.append(Path(stream._file.name).parent)
        raise KeyboardInterrupt

    monkeypatch.setattr(ArrayStream, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(layout, protocol)
    monkeypatch.setattr(ArrayStream, "append", append)
    (folders[0] / ".train.safetensors.0123456789ab.tmp").write_bytes(b"of a killed process")
    images = decodings(monkeypatch)
    manifest = prepare(layout, protocol)
    assert images == []
    assert manifest.files == prepare(Layout(tmp_path / "other"), protocol).files
    assert {*manifest.files} == {path.name for path in folders[0].iterdir()} - {"manifest.json"}


def test_images_that_were_decoded_before_the_folder_changed_go(layout, photos, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 2)
    read = files._read_image

    def interrupted(path: Path, *rest: object) -> object:
        if path.name == "4.png":
            raise KeyboardInterrupt
        return read(path, *rest)

    monkeypatch.setattr(files, "_read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(layout, protocol_of(photos))
    monkeypatch.setattr(files, "_read_image", read)
    os.utime(photos / "dog/7.png", (1, 1))
    images = decodings(monkeypatch)
    prepare(layout, protocol_of(photos))
    assert len(images) == 20
    assert [path for path in layout.cache.rglob("*") if "decoding" in path.name] == []


def test_a_folder_that_changes_while_it_is_read_is_one_line(layout, photos, monkeypatch):
    load = datasets.load_source

    def changed(*given: object) -> Source:
        source = load(*given)
        os.utime(photos / "cat/0.png", (1, 1))
        return source

    monkeypatch.setattr(datasets, "load_source", changed)
    with pytest.raises(DataError, match="has changed while it was read; run the same command"):
        prepare(layout, protocol_of(photos))
    monkeypatch.undo()
    prepare(layout, protocol_of(photos))


@pytest.mark.parametrize("damaged", ["", "{", "[3]", "7", "null"])
def test_a_damaged_record_of_decoding_begins_anew(tmp_path, damaged):
    path = tmp_path / "record.json"
    path.write_text(damaged)
    record = blocks._Record(path)
    record.read()
    assert (record.done, record.refused, record.moved) == (0, [], False)


def test_what_a_function_of_the_users_own_returns_is_never_continued(layout, tmp_path, monkeypatch):
    """It may return something else each time."""
    monkeypatch.setattr(blocks, "BLOCK", 2)
    monkeypatch.setattr(blocks, "RECORDED", 1)
    labels = np.arange(20) % 2
    makes = iter(
        Source(inputs=np.full((20, 3, 4, 4), value, np.uint8), labels=labels, classes=("a", "b"))
        for value in (1, 2)
    )
    monkeypatch.setattr(splits, "read_own_source", lambda *given: next(makes))
    protocol = replace(DIGITS, dataset=f"data.py:images@{'0' * 12}")

    def interrupt(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(layout, protocol, interrupt)
    train = open_part(prepare(layout, protocol).folder, "train")
    assert train.values.unique().tolist() == [2]


def test_what_the_file_system_refuses_is_one_line(layout):
    fails_on_one_line(layout, protocol_of(Path("a" * 5000)), "File name too long")
