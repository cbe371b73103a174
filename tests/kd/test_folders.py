"""A folder of images is read as ImageFolder reads it, upright, square and in RGB.

What is refused is tested in test_datasets.py, through the door that users take.
"""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from torchvision.datasets.folder import IMG_EXTENSIONS

from kd.data.reading import blocks, files
from kd.data.reading.parts import is_split_name
from kd.data.reading.source import Reading, Source
from kd.data.splits import listing_digest, load_source, origins, passed_over
from kd.errors import DataError


def colour(red: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (red, 20, 30))


def save(root: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def load_folder(root: Path, image_size: int = 8) -> Source:
    return load_source(f"folder:{root}", Reading(image_size), root)


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
    assert source.part.tolist() == [""] * 4 + ["test"] * 2
    assert source.inputs.shape == (6, 3, 8, 8)
    corners = source.inputs[:, :, 0, 0].tolist()
    assert corners[:2] == [[77, 77, 77], [1, 2, 3]]
    assert corners[3:] == [[9, 8, 7], [0, 0, 0], [255, 255, 255]]
    np.testing.assert_allclose(corners[2], 128, atol=2)  # JPEG


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_folder_without_test_is_left_to_be_split(tmp_path, prefix):
    for row in range(4):
        save(tmp_path, f"{prefix}{'ab'[row % 2]}/{row}.png", colour(row))
    source = load_folder(tmp_path)
    assert source.official == []
    assert source.inputs[:, 0, 0, 0].tolist() == [0, 2, 1, 3]


SPLITS = [
    "train",
    "Train",
    "TRAIN",
    "training",
    "Test",
    "test_set",
    "test-set",
    "tests",
    "val",
    "valid",
    "Validation",
    "val2017",
    "dev",
    "eval",
    "evaluation",
    "hold-out",
    "Hold_Out",
    "holdout",
    "HeldOut",
    "held_out_test",
    "1.train",
    "test.v2",
    "trainval",
    "train+val",
    "PublicTest",
    "x_train",
    "fold1",
    "TrainImages",
    "testdata",
    "development",
]
CLASSES = [
    "trainer",
    "railway-train",
    "test_tube",
    "contest",
    "value",
    "dove",
    "invalid",
    "validity",
    "device",
    "cat",
    "hold",
    "out",
    "0",
    "train狗",
    "тест",
    "images",
    "data",
    "part_1",
    "training-shoes",
    "train-class",
]


def test_names_of_splits_are_distinguished_from_those_of_classes():
    assert [name for name in SPLITS if not is_split_name(name)] == []
    assert [name for name in CLASSES if is_split_name(name)] == []


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Test"),
        ("train", "test"),  # without folders of classes in them
        ("training", "testing"),
        ("val", "cat", "dog"),
        ("plane", "train"),
        ("train/train", "train/valid"),
    ],
)
def test_classes_named_as_splits_are_refused_in_one_line(tmp_path, names):
    for name in names:
        save(tmp_path, f"{name}/1.png", colour(1))
    with pytest.raises(DataError, match=r"a class must not be named like a split, got \[") as found:
        load_folder(tmp_path)
    said = str(found.value)
    assert "\n" not in said
    assert "PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/" in said
    assert "or rename the class, for example to " in said


@pytest.mark.parametrize("names", [("train", "Test"), ("TRAIN", "test"), ("Training", "testing")])
def test_splits_may_be_named_in_any_case(tmp_path, names):
    for row, name in enumerate(f"{split}/{label}" for split in names for label in "ab"):
        save(tmp_path, f"{name}/1.png", colour(row))
    source = load_folder(tmp_path)
    assert source.part.tolist() == ["", "", "test", "test"]
    assert source.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert origins(f"folder:{tmp_path}", Reading(8)) == {"": f"{names[0]}/", "test": f"{names[1]}/"}
    assert passed_over(f"folder:{tmp_path}", Reading(8)) == ""


def test_a_split_without_folders_of_classes_is_refused(tmp_path):
    for name in ("train/a", "train/b", "Test"):
        save(tmp_path, f"{name}/1.png", colour(1))
    with pytest.raises(DataError, match=r"1\.png' is not in a class folder: .*/Test' must hold"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "DEV"])
def test_a_folder_for_validation_is_the_validation_split(tmp_path, name):
    for row, place in enumerate((f"{name}/a", "train/b", f"{name}/b", "train/a")):
        save(tmp_path, f"{place}/1.png", colour(row))
    source = load_folder(tmp_path)
    assert source.part.tolist() == ["", "", "validation", "validation"]
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.inputs[:, 0, 0, 0].tolist() == [3, 1, 0, 2]
    assert passed_over(f"folder:{tmp_path}", Reading(8)) == ""
    save(tmp_path, f"{name}/c/1.png", colour(1))
    said = rf"train/ and {name}/ of .* only in train/: \[\], only in {name}/: \['c'\]"
    with pytest.raises(DataError, match=said):
        load_folder(tmp_path)


def test_a_folder_has_one_validation_split(tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/b", "valid/a", "valid/b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    with pytest.raises(DataError, match="one folder for validation, got val/ and valid/: merge"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["eval", "holdout", "extra"])
def test_folders_beside_train_are_passed_over_in_a_sentence(tmp_path, name):
    for part in ("train", "test", name):
        for label in "ab":
            save(tmp_path, f"{part}/{label}/1.png", colour(1))
    assert len(load_folder(tmp_path).labels) == 4
    hint = "; splits are read if named train, val, valid, validation, dev or test" * (
        name != "extra"
    )
    wanted = f"passed over in {tmp_path}: {name}/ (2 images){hint}"
    assert passed_over(f"folder:{tmp_path}", Reading(8)) == wanted


def test_hidden_files_do_not_count_as_images_of_a_folder_beside_train(tmp_path):
    for label in "ab":
        save(tmp_path, f"train/{label}/1.png", colour(1))
        save(tmp_path, f"__MACOSX/train/{label}/._1.png", colour(1))
    line = passed_over(f"folder:{tmp_path}", Reading(8))
    assert line == f"passed over in {tmp_path}: __MACOSX/ (0 images)"


def not_read(tmp_path: Path, *names: str) -> str:
    """Return what the line states on a folder of two classes that also holds these files."""
    for name in ("a/1.png", "b/1.png"):
        save(tmp_path, name, colour(1))
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("not read")
    assert load_folder(tmp_path).labels.tolist() == [0, 1]
    line = passed_over(f"folder:{tmp_path}", Reading(8))
    assert "\n" not in line
    return line.removeprefix(f"passed over in {tmp_path}: ")


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (("a/1.gif", "a/deep/2.GIF", "loose.gif"), "3 .gif files"),
        (("a/1.txt", "a/2.txt", "b/1.heic", "b/2.svg"), "1 .heic file, 1 .svg file, 2 .txt files"),
        (("README",), "1 other file"),
        (("a/1.gif", "a/1.a", "a/2.a", "a/1.b", "a/1.c", "x.no ending", "README"),
         "1 .gif file, 2 .a files, 1 .b file, 3 other files"),
        (("a/.DS_Store", "b/._1.png", ".hidden.gif"), "3 hidden files"),
        ((".git/HEAD", "a/.idea/x/y", ".trash/1.png", "a/.old/1.gif"),
         ".trash/ (1 image), a/.old/ (1 image), 2 hidden folders"),
        (("b.jpg",), "1 image outside of classes (b.jpg)"),
        (("d.png", "c.jpg", "e.bmp", "f.png"),
         "4 images outside of classes (c.jpg, d.png and 2 more)"),
        ((f"{'x' * 99}{'y' * 35}.jpg",), f"1 image outside of classes (…{'y' * 35}.jpg)"),
    ],
)  # fmt: skip
def test_everything_that_is_passed_over_is_counted_in_one_line(tmp_path, names, counts):
    assert not_read(tmp_path, *names) == counts


def test_the_line_names_the_folders_with_most_images_and_stays_short(tmp_path):
    names = [f"train/{label}/{row}.png" for label in "ab" for row in range(2)]
    for name in names:
        save(tmp_path, name, colour(1))
    beside = {"extra": 3, "holdout": 30, "more": 2, "notes": 0, "old": 1}
    unread = [f"{folder}/x/{row}.jpg" for folder, count in beside.items() for row in range(count)]
    unread += [f"train/a/{row}{ending}" for ending in (".gif", ".xml", ".csv") for row in range(99)]
    unread += [f"train/{row}.jpg" for row in range(20)] + ["notes/x.gift", "train/b/.x", "README"]
    for name in unread:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    line = passed_over(f"folder:{tmp_path}", Reading(8))
    assert line == (
        f"passed over in {tmp_path}: holdout/ (30 images), extra/ (3 images), 3 more folders "
        "(3 images), 99 .gif files, 99 .csv files, 99 .xml files, 1 other file, 1 hidden file, "
        "20 images outside of classes (train/0.jpg, train/1.jpg and 18 more); splits are read if "
        "named train, val, valid, validation, dev or test"
    )


def test_an_empty_folder_in_a_class_is_not_mentioned(tmp_path):
    (tmp_path / "b/empty").mkdir(parents=True)
    assert not_read(tmp_path) == ""


def test_nothing_is_printed_about_a_folder_that_is_read_completely(tmp_path):
    for name in ("a/1.png", "b/deep/1.png"):
        save(tmp_path, name, colour(1))
    assert passed_over(f"folder:{tmp_path}", Reading(8)) == passed_over("digits", Reading(8)) == ""


def test_splits_within_a_class_are_printed_to_be_read_as_the_class(tmp_path):
    for name in ("a/train/1.png", "a/test/2.png", "b/1.png"):
        save(tmp_path, name, colour(1))
    assert load_folder(tmp_path).labels.tolist() == [0, 0, 1]
    said = passed_over(f"folder:{tmp_path}", Reading(8))
    assert said == "read as parts of their class: a/test/, a/train/"


@pytest.mark.parametrize("name", ["two\nlines.png", "two.\nlines"])
def test_a_name_that_is_no_text_stays_on_one_line(tmp_path, name):
    image = name.endswith(".png")
    counts = r"1 image outside of classes ('two\nlines.png')" if image else "1 other file"
    assert not_read(tmp_path, name) == counts


def test_other_and_hidden_files_are_passed_over(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    for name in ("README", "a/Thumbs.db", "a/.DS_Store", "b/.2.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert len(load_folder(tmp_path).labels) == 2


def test_images_are_turned_as_their_exif_states(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: white on the right
    save(tmp_path, "a/1.png", image, exif=exif)
    save(tmp_path, "b/2.png", image)
    images = load_folder(tmp_path).inputs
    assert (images[0, :, :, 4:] == 255).all()
    assert (images[0, :, :, :4] == 0).all()
    assert (images[1, :, :4] == 255).all()


def test_shorter_side_becomes_the_size_and_the_centre_is_kept(tmp_path):
    stripes = Image.new("RGB", (24, 12))
    stripes.paste((250, 250, 250), (6, 0, 18, 12))  # exactly the centre square
    save(tmp_path, "a/1.png", stripes)
    save(tmp_path, "b/2.png", Image.effect_noise((9, 8), 50).convert("RGB"))
    images = load_folder(tmp_path, 8).inputs
    assert (images[0] == 250).all()
    noise = np.asarray(Image.open(tmp_path / "b/2.png"))[:, :8]
    np.testing.assert_array_equal(images[1], noise.transpose(2, 0, 1))  # cropped, not resampled


@pytest.mark.parametrize("turned", [False, True])
def test_an_image_that_is_not_square_is_padded_or_stretched_as_wanted(tmp_path, turned):
    halves = Image.new("RGB", (24, 12), (100, 0, 0))
    halves.paste((200, 0, 0), (12, 0, 24, 12))
    image = halves.transpose(Image.Transpose.ROTATE_270) if turned else halves
    save(tmp_path, "a/1.png", image)
    save(tmp_path, "b/2.png", Image.new("RGB", (12, 12), (50, 0, 0)))
    found = {}
    for fit in ("crop", "pad", "stretch"):
        source = load_source(f"folder:{tmp_path}", Reading(8, fit), tmp_path)
        reds = source.inputs[0, 0].T if turned else source.inputs[0, 0]
        found[fit] = reds.tolist()
        assert (source.inputs[1, 0] == 50).all()
    assert found["pad"][:2] == found["pad"][6:] == [[0] * 8] * 2
    assert [row[0] for row in found["pad"][2:6]] == [100] * 4
    assert [row[7] for row in found["pad"][2:6]] == [200] * 4
    assert [row[:3] + row[5:] for row in found["stretch"]] == [[100] * 3 + [200] * 3] * 8
    assert [row[:3] + row[5:] for row in found["crop"]] == [[100] * 3 + [200] * 3] * 8
    assert found["stretch"] != found["pad"] != found["crop"]
    digests = {listing_digest(f"folder:{tmp_path}", Reading(8, fit)) for fit in found}
    assert len(digests) == 3


def test_a_long_thin_image_does_not_grow(tmp_path):
    image = Image.new("RGB", (9000, 1), (100, 0, 0))
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", image)
    for fit, filled in (("crop", 64), ("pad", 8), ("stretch", 64)):
        source = load_source(f"folder:{tmp_path}", Reading(8, fit), tmp_path)
        assert (source.inputs[0, 0] == 100).sum() == filled


def test_a_folder_of_16_bits_is_grey_and_keeps_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    save(tmp_path, "a/1.png", Image.fromarray(values))
    save(tmp_path, "a/2.tif", Image.fromarray(values))
    save(tmp_path, "a/3.png", Image.fromarray(values))
    save(tmp_path, "b/1.png", Image.new("L", (8, 8), 77))
    source = load_folder(tmp_path)
    assert (source.deep, source.inputs.shape) == (True, (4, 1, 8, 8))
    for row in (0, 1, 2):
        np.testing.assert_allclose(source.inputs[row, 0] * 257, values, atol=0.01)
    assert (source.inputs[3] == 77).all()
    assert load_folder(tmp_path, 4).inputs.shape == (4, 1, 4, 4)
    save(tmp_path, "b/2.png", colour(1))
    with pytest.raises(DataError, match=r"2\.png' .*mode RGB is not grey of 16 bits, as most im"):
        load_folder(tmp_path)
    (tmp_path / "b/2.png").unlink()
    save(tmp_path, "a/0.png", Image.new("L", (8, 8), 77))
    with pytest.raises(
        DataError, match=r"3 images cannot be read: .* has more than 8 bits a channel"
    ):
        load_folder(tmp_path)


def test_downsizing_averages_rather_than_drops_pixels(tmp_path):
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", board)
    images = load_folder(tmp_path, 8).inputs
    assert ((images > 110) & (images < 145)).all()


def test_images_that_cannot_be_read_are_counted_and_the_first_five_named(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/0.png", colour(1))
    for row in range(1, 8):
        (tmp_path / "a" / f"{row}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^7 images cannot be read: .*/a/1\.png'") as caught:
        load_folder(tmp_path)
    said = str(caught.value)
    assert all(said.count(f"a/{row}.png'") == 1 for row in range(2, 6))
    assert "a/6.png" not in said
    assert " and others; repair or remove them, or pass --skip-bad-images (the first: " in said


def test_bad_images_are_left_out_and_listed_if_wanted(tmp_path):
    for row, name in enumerate(("a/0", "a/2", "b/0", "b/1")):
        save(tmp_path, f"{name}.png", colour(row))
    (tmp_path / "a/1.png").write_bytes(b"no image")
    source = load_source(f"folder:{tmp_path}", Reading(8, skip_bad=True), tmp_path)
    assert source.left_out == ("a/1.png",)
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert load_source("digits", Reading(8, skip_bad=True), tmp_path).left_out == ()
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="5 images cannot be read"):
        load_source(f"folder:{tmp_path}", Reading(8, skip_bad=True), tmp_path)


def test_images_outside_a_class_folder_are_named(tmp_path):
    save(tmp_path, "a.png", colour(1))
    with pytest.raises(DataError, match=r"/a\.png' is not in a class folder: .* at least 2 class"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (("pets/cat/1.png", "pets/dog/1.png"), "; did you mean folder:PLACE/pets?"),
        (("pets/train/cat/1.png", "pets/test/cat/1.png"), "; did you mean folder:PLACE/pets?"),
        (("cat/1.png",), ""),
        (("1.png",), "; or list images and labels in a CSV file: --dataset csv:labels.csv"),
        (("cat/1.png", "1.png"), ""),
        (("train/a/1.png", "train/b/1.png", "test/1.png"),
         "; or move test/ elsewhere: test images are drawn then"),
        (("train/a/1.png", "train/b/1.png", "Val/a/1.png"),
         "; or move Val/ elsewhere: validation images are drawn then"),
        (("train/a/1.png", "test/a/1.png"), ""),
    ],
)  # fmt: skip
def test_a_folder_without_two_classes_names_what_else_to_do(tmp_path, names, remedy):
    for name in names:
        save(tmp_path, name, colour(1))
    with pytest.raises(DataError, match="of at least 2 classes, got ") as found:
        load_folder(tmp_path)
    _, _, after = str(found.value).rpartition("classes, got ")
    assert after.partition("]")[2] == remedy.replace("PLACE", str(tmp_path))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("گربه\u200cها", "گربه\u200cها"),  # a joiner of Persian
        ("東京\u3000駅", "東京\u3000駅"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("a\nb", r"'a\nb'"),
        ("a\u2028b", r"'a\u2028b'"),
        ("a\udcff", r"'a\udcff'"),  # which is not UTF-8
        ("\u202eb", r"'\u202eb'"),  # which turns the line round
    ],
)
def test_names_of_classes_are_kept_in_every_script_and_stand_on_one_line(tmp_path, folder, name):
    for label in (folder, "z"):
        save(tmp_path, f"{label}/1.png", colour(1))
    classes = load_folder(tmp_path).classes
    assert set(classes) == {name, "z"}
    "".join(classes).encode()


def test_accents_that_are_stored_in_two_ways_are_one_class_of_two_splits(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for row, name in enumerate((f"train/{composed}", "train/cafz", f"test/{apart}", "test/cafz")):
        save(tmp_path, f"{name}/1.png", colour(row))
    source = load_folder(tmp_path)
    assert source.classes == ("cafz", composed)
    assert source.inputs[:, 0, 0, 0].tolist() == [1, 0, 3, 2]
    save(tmp_path, f"test/{composed}/1.png", colour(1))
    said = r"test' must have different names, got \['café'\] twice, with accents stored in two ways"
    with pytest.raises(DataError, match=said):
        load_folder(tmp_path)


def test_images_of_floating_point_numbers_are_refused_with_what_to_do(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.tif", Image.fromarray(np.ones((8, 8), np.float32)))
    with pytest.raises(DataError, match="mode F has floating-point numbers: convert it to 16 bits"):
        load_folder(tmp_path)


def test_progress_reaches_the_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 2)
    for row in range(5):
        save(tmp_path, f"{'ab'[row % 2]}/{row}.png", colour(row))
    calls = []
    load_source(f"folder:{tmp_path}", Reading(8), tmp_path, lambda *call: calls.append(call))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_warning_filters_are_as_they_were_after_a_folder_was_read(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    before = list(warnings.filters)
    load_folder(tmp_path)
    assert warnings.filters == before


def test_extensions_are_those_of_torchvision():
    assert files.EXTENSIONS == IMG_EXTENSIONS


def test_link_within_the_folder_is_read(tmp_path):
    for name in ("a/1.png", "b/1.png", ".store/1.png"):
        save(tmp_path, name, colour(1))
    (tmp_path / "b/2.png").symlink_to("../.store/1.png")
    assert load_folder(tmp_path).labels.tolist() == [0, 1, 1]
    (tmp_path / "b/3.png").symlink_to("../a/1.png")
    with pytest.raises(DataError, match=r"a/1.png' and .*/b/3.png' are one file: remove a link"):
        load_folder(tmp_path)


def test_links_lead_out_of_the_folder_only_if_they_are_to_be_followed(tmp_path):
    root, away = tmp_path / "photos", tmp_path / "away"
    for row, name in enumerate(("cats/1.png", "dogs/1.png", "dogs/2.png")):
        save(away, name, colour(row))
    root.mkdir()
    (root / "cats").symlink_to(away / "cats")
    (root / "dogs").mkdir()
    for name in ("1.png", "2.png"):
        (root / "dogs" / name).symlink_to(away / "dogs" / name)
    with pytest.raises(DataError, match=r"that leaves .*; replace it with a copy, or pass --fol"):
        load_folder(root)
    follow = Reading(8, follow_links=True)
    source = load_source(f"folder:{root}", follow, tmp_path)
    assert source.labels.tolist() == [0, 1, 1]
    assert source.inputs[:, 0, 0, 0].tolist() == [0, 1, 2]
    before = listing_digest(f"folder:{root}", follow)
    save(away, "cats/2.png", colour(3))
    assert listing_digest(f"folder:{root}", follow) != before
    (root / "dogs/3.png").symlink_to(away / "none.png")
    with pytest.raises(DataError, match=r"3\.png' is not a file; remove it"):
        load_source(f"folder:{root}", follow, tmp_path)


def test_links_in_circles_and_into_two_splits_are_refused(tmp_path):
    for name in ("train/a", "train/b", "test/b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    (tmp_path / "test/a").symlink_to("../train/a")
    follow = Reading(8, follow_links=True)
    with pytest.raises(DataError, match=r"train/a/1.png' and .*/test/a/1.png' are one file: re"):
        load_source(f"folder:{tmp_path}", follow, tmp_path)
    (tmp_path / "test/a").unlink()
    save(tmp_path, "test/a/2.png", colour(1))
    (tmp_path / "train/a/deep").symlink_to("..")
    with pytest.raises(DataError, match=r"train/a/deep/a' leads back by a link to a fold"):
        load_source(f"folder:{tmp_path}", follow, tmp_path)


def test_listing_digest_follows_files_and_size_but_not_reading(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"{name}/1.png", colour(1))
    dataset = f"folder:{tmp_path}"
    digests = [listing_digest(dataset, Reading(8)), listing_digest(dataset, Reading(16))]
    load_folder(tmp_path)
    assert listing_digest(dataset, Reading(8)) == digests[0]
    save(tmp_path, "b/2.png", colour(1))
    digests.append(listing_digest(dataset, Reading(8)))
    (tmp_path / "b/2.png").rename(tmp_path / "b/3.png")
    digests.append(listing_digest(dataset, Reading(8)))
    (tmp_path / "b/3.png").write_bytes(b"other size")
    digests.append(listing_digest(dataset, Reading(8)))
    digests += [listing_digest("digits", Reading(8)), listing_digest("cifar10", Reading(8))]
    assert len(set(digests)) == len(digests)


def test_listing_digest_does_not_take_one_folder_for_another(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, f"one/{name}/1.png", colour(1))
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # names, sizes and times are the same
    digests = [listing_digest(f"folder:{tmp_path / name}", Reading(8)) for name in ("one", "two")]
    assert digests[0] != digests[1]


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
