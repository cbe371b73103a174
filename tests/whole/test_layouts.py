"""Whole studies of data as people have them: folders of many layouts, lists, arrays, a Dataset.

Each goes to its report, with the right classes, images and splits, or is refused in one line. What
is no image is in test_arrays.py: spectrograms, tokens, and 16 bits in 12 channels.
"""

import json
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from conductor.command_line.cli import main
from kd.data.examples import Examples
from reports.wording import split_words
from reports.write.page import render_page
from storage.files.artifacts import read_json
from storage.files.datasets import open_part, open_test
from storage.files.layout import Layout
from storage.files.records import StudySettings
from tests.support.tiny import FLAGS, changed, hasten, refuse

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.zip"
DRAW = np.random.default_rng(0)
STEP = 20  # of the red of two classes, in 0-255
CATS = ("cat", "dog")
# Training, validation and test images of each class: as they are drawn from 25, and of `split`.
DRAWN, OWN = (17, 3, 5), (12, 4, 5)


@pytest.fixture(autouse=True)
def _page_is_written_but_nothing_else_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    monkeypatch.setattr("reports.write.report.render_page", render_page)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study of what `make` writes at `place`, and what it must state.

    These are the classes in order, the lines on the data, and how many training, validation and
    test images each class has: one number for all classes, or one for each.
    """

    make: Callable[[Path], object]
    place: str = "photos"
    dataset: str = "folder:PLACE"
    flags: tuple[str, ...] = ()
    classes: tuple[str, ...] = CATS
    counts: tuple[int | tuple[int, ...], ...] = DRAWN
    lines: tuple[str, ...] = ()
    shape: tuple[int, ...] = (3, 8, 8)


def pixels(label: int, width: int = 8, height: int = 8) -> np.ndarray:
    """An image [H, W, 3] whose red is that of its class."""
    noise = DRAW.integers(0, 10, (height, width, 3))
    noise[..., 0] += STEP * label
    return noise.astype(np.uint8)


def save(path: Path, label: int, *size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(label, *size)).save(path)


def plain(place: Path, *names: str, count: int = 25, size: tuple[int, int] = (8, 8)) -> None:
    """A folder for each class."""
    for label, name in enumerate(names or CATS):
        for number in range(count):
            save(place / name / f"{number:02}.png", label, *size)


def split(place: Path, *parts: str, names: tuple[str, ...] = CATS, **how: tuple[int, int]) -> None:
    """Folders of training, validation and test images; an empty name leaves one out."""
    for part, count in zip(parts or ("train", "val", "test"), OWN, strict=True):
        if part:
            plain(place / part, *names, count=count, **how)


def own(train: str = "train/", validation: str = "val/", test: str = "test/") -> tuple[str]:
    """The line on a data set that has all splits."""
    return (
        f"training ({train}), validation ({validation}) and test ({test}) are the data set's own",
    )


def nested(place: Path) -> None:
    plain(place, "cat", "dog/old/er")


def reversed_order(place: Path) -> None:
    for label, name in enumerate(CATS):
        for part, count in (("train", 20), ("test", 5)):
            for number in range(count):
                save(place / name / part / f"{number}.png", label)


def linked(place: Path) -> None:
    plain(place / ".store")
    for name in CATS:
        (place / name).mkdir()
        for path in (place / ".store" / name).iterdir():
            (place / name / path.name).symlink_to(f"../.store/{name}/{path.name}")


def linked_away(place: Path) -> None:
    plain(away := place.with_name("away"))
    plain(place, "cat")
    (place / "dog").symlink_to(away / "dog")


def linked_itself(place: Path) -> None:
    plain(there := place.with_name("there"))
    place.symlink_to(there)


def accents(place: Path) -> None:
    for part, name, count in (("train", "caf\u00e9", 20), ("test", "cafe\u0301", 5)):
        plain(place / part, "bar", name, count=count)


def not_utf8(place: Path) -> None:
    plain(place, "bar", os.fsdecode(b"caf\xe9"))


def beside(place: Path) -> None:
    split(place)
    plain(place / "holdout", count=2)
    save(place / "__MACOSX" / "cat" / "._1.png", 0)
    (place / "notes").mkdir()


def other_files(place: Path) -> None:
    plain(place)
    save(place / "cat/1.gif", 1)
    save(place / "loose.png", 1)
    for name in ("cat/Thumbs.db", "dog/.DS_Store", "README", "dog/.cache/1.png"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("no image")


def kinds(place: Path) -> None:
    plain(place, count=18)
    for label, name in enumerate(CATS):
        for ending in ("jpg", "JPEG", "Png", "ppm", "bmp", "tif", "webp"):
            save(place / name / f"one.{ending}", label)


def damaged(place: Path) -> None:
    split(place)
    (place / "train/cat/bad.png").write_text("no image")


def uneven(place: Path) -> None:
    plain(place, "cat", "dog", "eel", count=9)
    for number in range(90):
        save(place / "dog" / f"more{number}.png", 1)


def deep(place: Path) -> None:
    for label, name in enumerate(CATS):
        (place / name).mkdir(parents=True)
        for number in range(25):
            grey = 257 * pixels(label)[..., 0].astype(np.uint16)
            Image.fromarray(grey).save(place / name / f"{number}.png")


SCRIPTS = tuple(sorted(("собака", "कुत्ता", "犬\u3000小", "🐕\u200d🦺", "سگ\u200cها")))
SIGNS = tuple(sorted(("$HOME `ls`", "%s {x}", "-rf", "<b>&'\"", "[red]", "a,b;c")))
TWELVE = tuple(sorted(map(str, range(12))))
FOLDERS = {
    "classes": Study(make=plain),
    "train, val and test": Study(make=split, counts=OWN, lines=own()),
    "capitals": Study(
        make=lambda place: split(place, "Train", "VAL", "Test"),
        counts=OWN,
        lines=own("Train/", "VAL/", "Test/"),
    ),
    "dev": Study(
        make=lambda place: split(place, "train", "dev", "test"),
        counts=OWN,
        lines=own(validation="dev/"),
    ),
    "training, validation and testing": Study(
        make=lambda place: split(place, "training", "validation", "testing"),
        counts=OWN,
        lines=own("training/", "validation/", "testing/"),
    ),
    "no val": Study(
        make=lambda place: split(place, "train", "", "test"),
        counts=((10, 10), (2, 2), (5, 5)),
        lines=("training (train/) and test (test/) are the data set's own, validation is drawn",),
    ),
    "no test": Study(
        make=lambda place: split(place, "train", "valid", ""),
        counts=((9, 10), (4, 4), (3, 2)),
        lines=("training (train/) and validation (valid/) are the data set's own, test is drawn",),
    ),
    "train alone": Study(make=lambda place: plain(place / "train")),
    "nested": Study(make=nested),
    "splits in classes": Study(
        make=reversed_order,
        lines=("read as parts of their class: cat/test/, cat/train/ and 2 more",),
    ),
    "links inside": Study(make=linked, lines=("passed over in PLACE: .store/ (50 images)",)),
    "links that are followed": Study(make=linked_away, flags=("--follow-links",)),
    "itself a link": Study(make=linked_itself),
    "spaces": Study(
        make=lambda place: plain(place, "a  cat", "a dog"),
        place="My photos: 50 % @ home",
        classes=("a  cat", "a dog"),
    ),
    "names in other scripts": Study(
        make=lambda place: split(place, names=SCRIPTS),
        place="写真",
        classes=SCRIPTS,
        counts=OWN,
        lines=own(),
    ),
    "names with signs": Study(
        make=lambda place: split(place, names=SIGNS), classes=SIGNS, counts=OWN, lines=own()
    ),
    "a line break in a name": Study(
        make=lambda place: plain(place, "a\nb", "c"), classes=(r"'a\nb'", "c")
    ),
    "a name that is not UTF-8": Study(make=not_utf8, classes=("bar", r"'caf\udce9'")),
    "accents that are stored in two ways": Study(
        make=accents,
        classes=("bar", "café"),
        counts=(17, 3, 5),
        lines=("training (train/) and test (test/) are the data set's own, validation is drawn",),
    ),
    "folders beside train": Study(
        make=beside,
        counts=OWN,
        lines=(
            *own(),
            "passed over in PLACE: holdout/ (4 images), __MACOSX/ (0 images), 1 more folder "
            "(0 images); splits are read if named train, val, valid, validation, dev or test",
        ),
    ),
    "other files": Study(
        make=other_files,
        lines=(
            "passed over in PLACE: dog/.cache/ (1 image), 1 .gif file, 1 .db file, 1 other file, "
            "1 hidden file, 1 image outside of classes (loose.png)",
        ),
    ),
    "kinds of files": Study(make=kinds),
    "a damaged image": Study(
        make=damaged,
        flags=("--skip-bad-images",),
        counts=OWN,
        lines=(*own(), "left out 1 image that cannot be read: train/cat/bad.png"),
    ),
    "classes of uneven size": Study(
        make=uneven,
        classes=("cat", "dog", "eel"),
        counts=((6, 67, 7), (1, 12, 1), (2, 20, 1)),
    ),
    "not square": Study(
        make=lambda place: split(place, size=(12, 7)),
        flags=("--fit", "pad"),
        counts=OWN,
        lines=own(),
    ),
    "X-rays of 16 bits": Study(make=deep, shape=(1, 8, 8)),
    "images of one pixel": Study(make=lambda place: plain(place, size=(1, 1))),
    "twelve classes": Study(make=lambda place: plain(place, *TWELVE), classes=TWELVE),
}


def medmnist(place: Path) -> None:
    found = {}
    for part, count in zip(("train", "val", "test"), OWN, strict=True):
        labels = (np.arange(2 * count) % 2).astype(np.uint8)
        images = [pixels(label, 28, 28)[..., 0] for label in labels]
        found |= {f"{part}_images": np.stack(images), f"{part}_labels": labels[:, None]}
    place.mkdir()
    np.savez_compressed(place / "chest.npz", **found)


def twelve_channels(place: Path) -> None:
    labels = np.arange(50) % 2
    images = np.stack([pixels(label, 14, 16).repeat(4, axis=2) for label in labels])
    place.mkdir()
    np.savez(place / "bands.npz", x=images, y=labels, ids=labels)


def listed(place: Path, splits: bool = False) -> None:
    """Images in one folder, and the list of them as Excel writes it."""
    names, parts = np.array(CATS), np.repeat(["Train", "dev", "test"], [24, 8, 10])
    labels = np.arange(len(parts) if splits else 50) % 2
    rows = ["File,Class,by,Split" if splits else "path,label"]
    for number, label in enumerate(labels):
        save(place / "all scans" / f"{number}.png", label, 9, 12)
        more = f",me,{parts[number]}" if splits else ""
        rows.append(f"all scans/{number}.png,{names[label]}{more}")
    (place / "list.csv").write_text("\r\n".join(rows), encoding="utf-8-sig")


FUNCTION = """
import numpy as np
from torch.utils.data import Dataset


class Scans(Dataset):
    classes = ("cat", "dog")

    def __init__(self, part):
        found = np.load(PLACE)
        self.images, self.labels = (found[f"{part}_{what}"] for what in ("images", "labels"))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.images[row], self.labels[row].item()


def scans():
    return {part: Scans(part) for part in ("train", "val", "test")}
"""


def walked(place: Path) -> None:
    medmnist(place)
    text = FUNCTION.replace("PLACE", repr(str(place / "chest.npz")))
    (place / "data.py").write_text(text)


NUMBERS = ("0", "1")
LISTS = {
    "npz in MedMNIST's form": Study(
        make=medmnist,
        dataset="npz:PLACE/chest.npz",
        classes=NUMBERS,
        counts=OWN,
        lines=own("train_images", "val_images", "test_images"),
        shape=(1, 8, 8),
    ),
    "npz of 12 channels": Study(
        make=twelve_channels,
        dataset="npz:PLACE/bands.npz",
        classes=NUMBERS,
        lines=("passed over in PLACE/bands.npz: ids",),
        shape=(12, 8, 8),
    ),
    "csv": Study(make=listed, dataset="csv:PLACE/list.csv"),
    "csv with splits": Study(
        make=lambda place: listed(place, splits=True),
        dataset="csv:PLACE/list.csv",
        counts=OWN,
        lines=(
            *own("split Train", "split dev", "split test"),
            "passed over in PLACE/list.csv: by",
        ),
    ),
    "a Dataset": Study(
        make=walked,
        dataset="PLACE/data.py:scans",
        counts=OWN,
        lines=("validation and test are the data set's own",),
        shape=(1, 8, 8),
    ),
}


def goes_to_its_report(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, Examples]:
    """Run a study, which must state what it is to state, and return the parts of its data."""
    place, root = tmp_path / study.place, tmp_path / "runs"
    study.make(place)
    dataset = study.dataset.replace("PLACE", str(place))
    given = ["--name", "s", "--train-size", "0", "--trials", "1", "--dataset", dataset]
    flags = changed(FLAGS.split(), changed(given, study.flags))
    assert main([*flags, "--root", str(root)]) == 0
    said = capsys.readouterr()
    assert said.err == ""

    classes = len(study.classes)
    counts = [(count,) * classes if isinstance(count, int) else count for count in study.counts]
    train, validation, test = map(sum, counts)
    parts = f"{train} training, {validation} validation and {test} sealed test images"
    begin, summary, *lines = [line for line in said.out.splitlines() if line.startswith("data: ")]
    assert begin.endswith(" …")
    assert f", {classes} classes, {parts}" in summary
    assert lines == [f"data: {line}".replace("PLACE", str(place)) for line in study.lines]

    paths = Layout(root).study("s")
    folder = Layout(root).dataset(StudySettings.read(paths.settings).dataset)
    held = {
        "train": open_part(folder, "train"),
        "validation": open_part(folder, "validation"),
        "test": open_test(folder, "folder:x", tmp_path / "seal.json", "a test"),
    }
    info = read_json(folder / "manifest.json")["info"]
    assert info["classes"] == list(study.classes)
    before, own_parts, _ = " ".join(study.lines).partition("the data set's own")
    official = [part for part in ("validation", "test") if own_parts and part in before]
    assert info["official"] == official
    assert info["counts"] == dict(zip(held, map(list, counts), strict=True))
    assert {tuple(examples.values.shape[1:]) for examples in held.values()} == {study.shape}

    report = json.loads(paths.report_json.read_text())
    assert report["study"]["missing"] == []
    assert report["study"]["test_images"] == test
    assert {len(one["test_values"]) for one in report["finalists"]} == {1}
    page = paths.report_html.read_text(encoding="utf-8")
    assert f"({train} train, {validation} validation, {test} test images)" in page
    assert escape(split_words(official)) in page
    return held


def assert_labels_are_those_of_the_images(held: dict[str, Examples]) -> None:
    for examples in held.values():
        reds = examples.values[:, 0, 3:5, 3:5].double().mean((1, 2))
        assert ((reds - 4.5) / STEP).round().tolist() == examples.labels.tolist()


def everything(place: Path) -> None:
    """A folder with all of it at once."""
    names = ("cane nero", "собака", "犬")
    split(place, "Train", "Dev", "test", names=names, size=(12, 7))
    (place / "test" / "犬").rename(place.with_name("away"))
    (place / "test" / "犬").symlink_to(place.with_name("away"))
    save(place / "Train" / "犬" / "1.gif", 2)
    save(place / "loose.png", 2)
    (place / "README").write_text("no image")
    plain(place / "holdout", count=3)


def test_a_folder_with_everything_goes_to_its_report(tmp_path, capsys):
    study = Study(
        make=everything,
        place="My photos 写真",
        flags=("--follow-links", "--fit", "pad"),
        classes=("cane nero", "собака", "犬"),
        counts=OWN,
        lines=(
            *own("Train/", "Dev/", "test/"),
            "passed over in PLACE: holdout/ (6 images), 1 .gif file, 1 other file, 1 image outside "
            "of classes (loose.png); splits are read if named train, val, valid, validation, dev "
            "or test",
        ),
    )
    assert_labels_are_those_of_the_images(goes_to_its_report(study, tmp_path, capsys))


@pytest.mark.thorough
@pytest.mark.parametrize("what", [*FOLDERS, *LISTS])
def test_data_of_this_layout_go_to_their_report(what, tmp_path, capsys):
    study = {**FOLDERS, **LISTS}[what]
    assert_labels_are_those_of_the_images(goes_to_its_report(study, tmp_path, capsys))


def missing_class(place: Path) -> None:
    split(place)
    (place / "val" / "dog").rename(place.with_name("elsewhere"))


def emptied(place: Path) -> None:
    plain(place, "cat")
    (place / "dog").mkdir()


def without_labels(place: Path) -> None:
    split(place, "train", "val", "")
    save(place / "test" / "1.png", 0)


def link_away(place: Path) -> None:
    plain(place)
    save(place.with_name("away.png"), 0)
    (place / "cat" / "x.png").symlink_to(place.with_name("away.png"))


def link_to_a_folder(place: Path) -> None:
    plain(place)
    (place / "cat" / "x").symlink_to("../dog")


def link_to_nothing(place: Path) -> None:
    plain(place)
    (place / "cat" / "x.png").symlink_to("gone.png")


def one_file_twice(place: Path) -> None:
    split(place)
    (place / "test" / "cat" / "x.png").symlink_to("../../train/cat/00.png")


def circle(place: Path) -> None:
    plain(place)
    (place / "cat" / "x").symlink_to("..")


def gifs(place: Path) -> None:
    emptied(place)
    save(place / "dog" / "1.gif", 1)


def deep_among_others(place: Path) -> None:
    plain(place)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(place / "cat" / "x.png")


def floating_point(place: Path) -> None:
    plain(place)
    Image.fromarray(np.ones((8, 8), np.float32)).save(place / "cat" / "x.tif")


def two_encodings(place: Path) -> None:
    plain(place, "caf\u00e9", "cafe\u0301")


def few(place: Path) -> None:
    plain(place, "cat")
    plain(place, "dog", count=2)


TWO = "must hold a folder of images for each of at least 2 classes, got"
ENDINGS = "(.jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp); add images, or remove it"
BAD = "repair or remove it, or pass --skip-bad-images"
SPLITS = (
    "name splits PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/ (a missing val/ or "
    "test/ is drawn), or rename the class, for example to"
)
REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no folder": (
        lambda place: None, (), "folder:PATH must name an existing folder, got 'PLACE'"
    ),
    "a file": (
        lambda place: place.touch(), (), "folder:PATH must name an existing folder, got 'PLACE'"
    ),
    "empty": (Path.mkdir, (), f"'PLACE' {TWO} []"),
    "one class": (lambda place: plain(place, "cat"), (), f"'PLACE' {TWO} ['cat']"),
    "a folder too many": (
        lambda place: split(place / "v1"),
        (), f"'PLACE' {TWO} ['v1']; did you mean folder:PLACE/v1?"
    ),
    "no class folders": (
        lambda place: save(place / "1.png", 0),
        (), f"'PLACE/1.png' is not in a class folder: 'PLACE' {TWO} []; or list images and labels "
        "in a CSV file: --dataset csv:labels.csv"
    ),
    "test without labels": (
        without_labels,
        (), f"'PLACE/test/1.png' is not in a class folder: 'PLACE/test' {TWO} []; or move test/ "
        "elsewhere: test images are drawn then"
    ),
    "an empty class": (emptied, (), f"class folder 'PLACE/dog' holds no image {ENDINGS}"),
    "a folder of a Mac's archive": (
        lambda place: (plain(place), save(place / "__MACOSX" / "cat" / "._1.png", 0)),
        (), f"class folder 'PLACE/__MACOSX' holds no image {ENDINGS}"
    ),
    "other images alone": (gifs, (), f"class folder 'PLACE/dog' holds no image {ENDINGS}"),
    "a class that val lacks": (
        missing_class, (), f"'PLACE/val' {TWO} ['cat']; or move val/ elsewhere: validation images "
        "are drawn then"
    ),
    "classes of other names": (
        lambda place: (plain(place / "train"), plain(place / "test", "Cat", "dog")),
        (), "train/ and test/ of 'PLACE' must hold the same classes, got only in train/: ['cat'], "
        "only in test/: ['Cat']"
    ),
    "test without train": (
        lambda place: split(place, "", "", "test"),
        (), "'PLACE' holds test/ but no train/ with a folder for each class"
    ),
    "val twice": (
        lambda place: (split(place), plain(place / "Valid")),
        (), "'PLACE' must hold one folder for validation, got Valid/ and val/: merge them, or move "
        "one elsewhere"
    ),
    "splits without classes": (
        lambda place: plain(place, "train", "test"),
        (), f"a class must not be named like a split, got ['test', 'train'] in 'PLACE': {SPLITS} "
        "test-class"
    ),
    "folds": (
        lambda place: split(place, "fold1", "fold2", "fold3"),
        (), "a class must not be named like a split, got ['fold1', 'fold2', 'fold3'] in 'PLACE': "
        f"{SPLITS} fold1-class"
    ),
    "one name in two encodings": (
        two_encodings,
        (), "folders of classes in 'PLACE' must have different names, got ['café'] twice, with "
        "accents stored in two ways: merge them, or rename one"
    ),
    "a link away": (
        link_away,
        (), "'PLACE/cat/x.png' is a symbolic link that leaves 'PLACE'; replace it with a copy, or "
        "pass --follow-links"
    ),
    "a link to a folder": (
        link_to_a_folder,
        (), "'PLACE/cat/x' is a symbolic link to a folder; replace it with a copy, or pass "
        "--follow-links"
    ),
    "a link to nothing": (link_to_nothing, (), "'PLACE/cat/x.png' is not a file; remove it"),
    "one file in train and test": (
        one_file_twice,
        (), "'PLACE/train/cat/00.png' and 'PLACE/test/cat/x.png' are one file: remove a link"
    ),
    "a link in a circle": (
        circle,
        ("--follow-links",),
        "'PLACE/cat/x/cat' leads back by a link to a folder that it is in; remove the link"
    ),
    "a damaged image": (
        damaged,
        (), "'PLACE/train/cat/bad.png' cannot be read as an image (it is none of JPEG, PNG, PPM, "
        f"BMP, TIFF, WEBP); {BAD}"
    ),
    "16 bits among 8": (
        deep_among_others,
        (), "'PLACE/cat/x.png' cannot be read as an image (mode I;16 has more than 8 bits a "
        f"channel, which most have not); {BAD}"
    ),
    "floating-point numbers": (
        floating_point,
        (), "'PLACE/cat/x.tif' cannot be read as an image (mode F has floating-point numbers: "
        f"convert it to 16 bits, or use npz:PATH); {BAD}"
    ),
    "few images of a class": (
        few,
        (), "every class needs an image in each part, but class 'dog' has 2 in all and none for "
        "test: add images, remove the class, or change validation_fraction or test_fraction"
    ),
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("what", REFUSED)
def test_folders_of_this_layout_are_refused_in_one_line(what, tmp_path, capsys):
    make, more, line = REFUSED[what]
    place, root = tmp_path / "photos", tmp_path / "runs"
    make(place)
    flags = ["--dataset", f"folder:{place}", "--train-size", "0", *more]
    assert refuse(root, capsys, *flags) == f"study.py: {line}\n".replace("PLACE", str(place))
    assert not root.exists()


def some_of_cifar(place: Path) -> None:
    """60 images of each class for training and 10 to test with."""
    with zipfile.ZipFile(CIFAR) as archive:
        wanted = re.compile(r"train/.*/00[0-5]\d\.jpg|test/.*/000\d\.jpg")
        archive.extractall(place, filter(wanted.fullmatch, archive.namelist()))


@pytest.mark.thorough
def test_cifar10_as_jpeg_files_goes_to_its_report(tmp_path, capsys):
    if not CIFAR.exists():
        pytest.skip(f"there is no {CIFAR}")
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse")
    study = Study(
        make=some_of_cifar,
        flags=("--train-size", "300", "--image-size", "32", "--augment", "crop=4,flip"),
        classes=(*names, "ship", "truck"),
        counts=(30, 9, 10),
        lines=FOLDERS["no val"].lines,
        shape=(3, 32, 32),
    )
    held = goes_to_its_report(study, tmp_path, capsys)
    files = {
        (np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes(), path.parent.name)
        for path in (tmp_path / "photos").rglob("*.jpg")
    }
    read = [
        (image.numpy().tobytes(), study.classes[label])
        for part in held.values()
        for image, label in zip(part.values, part.labels, strict=True)
    ]
    assert len({*read} & files) == len(read) == 490
