"""The examples of docs/guide.md run as they are printed, on tiny data; its tables are true."""

import json
import logging
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import optuna.cli
import pytest
import scipy.spatial
import scipy.special
import torch
from PIL import Image

from conductor.command_line.cli import main
from conductor.command_line.presets.folder import PROTOCOL as FOLDER
from conductor.request import choose_spaces
from kd.data.reading.source import Reading, Source
from kd.data.sources.folder import read as read_folder
from kd.data.splits import load_source, split
from kd.errors import DataError, ProtocolError
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES
from kd.protocol import Protocol
from kd.recipe import SHAPES, Recipe, Schedule
from search_spaces.space import load_space
from storage.files.layout import Layout, StudyLayout
from storage.files.records import StudySettings
from tests.support.tiny import changed, hasten

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
STUDIES = (ROOT / "docs" / "studies.md").read_text()
README = (ROOT / "README.md").read_text()
TINY = (
    "--trials 2 --seeds 1 --epochs 2 --teacher-epochs 1 --train-size 48 --image-size 8 "
    "--batch-size 16 --workers inline"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    hasten(monkeypatch)
    monkeypatch.chdir(tmp_path)


def section(title: str, page: str = GUIDE) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def save_files(title: str, folder: Path = Path()) -> None:
    """Save the files of a section."""
    for file, block in re.findall(
        r"`(\w+\.py)`[^`\n]*:\n\n```python\n(.*?)^```", section(title), re.M | re.S
    ):
        (folder / file).write_text(block)


def commands(title: str, page: str = GUIDE) -> list[list[str]]:
    """Arguments of every study.py in the indented blocks of a section."""
    text = section(title, page).replace("\\\n", " ")
    lines = re.findall(r"^    (?:\.venv/bin/)?python study\.py ([^\n#]*)", text, re.M)
    assert lines
    return [shlex.split(line) for line in lines]


def follow(title: str, name: str) -> StudyLayout:
    """Save the files of a section, run what writes data, then its commands; return the study."""
    save_files(title)
    for writer in Path().glob("make_*.py"):
        runpy.run_path(str(writer))
    for arguments in commands(title):
        tiny = (TINY if arguments[0].startswith("-") else "--workers inline").split()
        if "--teacher-epochs" in arguments:  # 0: it is taken as it is
            tiny = changed(tiny, ["--teacher-epochs", "0"])
        assert main(changed(arguments, tiny)) == 0
    return Layout(Path("runs")).study(name)


def report_of(paths: StudyLayout) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(paths.report_json.read_text())
    assert report["study"]["missing"] == []
    return report


def table(title: str, first: str) -> list[list[str]]:
    """Cells of the rows of a section's table, which has a row that begins with `first`."""
    tables = re.findall(r"(?:^\|.*\n)+", section(title), re.M)
    [found] = [rows for rows in tables if f"\n| {first} |" in rows]
    return [line.strip("| ").split(" | ") for line in found.splitlines()[2:]]


def test_every_python_block_of_the_guide_is_in_a_section_that_is_followed():
    titles = (
        "Your own images",
        "Your own lists and arrays",
        "Spectrograms, tokens and padding",
        "Your own models",
        "Your own search space",
        "Your own loss",
        "From Python and from a file",  # followed in tests/whole/test_calling.py
        "How to use the result",
    )
    blocks = sum(section(title).count("```python") for title in titles)
    assert blocks == GUIDE.count("```python") == len(titles)


def words_of(line: str) -> str:
    """Return a printed line without seconds and per cent: processors differ in speed and bits."""
    return re.sub(r" · \d+ s left$|(?<=trained in )[\d.]+|\d+\.\d(?= %)", "", line)


def test_what_to_do_first_prints_what_the_pages_show_and_can_be_removed(capsys, monkeypatch):
    [arguments] = commands("Do this first")
    assert arguments in commands("Install and run", README)
    assert main([*arguments, "--workers", "inline"]) == 0
    said = capsys.readouterr().out.splitlines()
    printed = re.findall(r"(?:^    .*\n)+", section("Do this first"), re.M)[1]
    for line, begins in zip(said[-3:], printed.splitlines(), strict=True):
        assert line.startswith(begins.strip().removesuffix(" …"))
    [shown] = re.findall(r"^```text\n(.*?)^```", section("Install and run", README), re.M | re.S)
    assert shown.count("\n") == 6
    known = [words_of(line) for line in said]
    assert [line for line in shown.splitlines() if words_of(line) not in known] == []

    lines = re.findall(r"^    ((?:optuna|rm) .*)$", section("Removing a study", STUDIES), re.M)
    *deletions, removal = map(shlex.split, lines)
    for deletion in deletions:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", deletion)
            patched.setattr(logging.root, "handlers", [])  # to which the command adds its own
            assert optuna.cli.main() == 0
    assert removal[:2] == ["rm", "-r"]
    shutil.rmtree(removal[2])
    assert optuna.get_all_study_names("sqlite:///runs/studies.db") == []
    assert {path.name for path in Path("runs").iterdir() if path.is_dir()} == {"cache", "artifacts"}
    assert len(list(Path("runs/artifacts").iterdir())) == 2 * 2 * 2  # arms, trials, files


def test_lists_and_arrays_of_the_user_and_a_reader_of_rows():
    report = report_of(follow("Your own lists and arrays", "rows"))
    assert report["protocol"]["dataset"].startswith("reader.py:rows@")
    assert [{*modules.values()} for modules in report["taps"].values()] == [{"blocks"}]
    text = section("Your own lists and arrays")
    lines = re.findall(r"(?:^    .*,.*\n)+", text, re.M)[0]
    rows = [line.strip().split(",") for line in lines.splitlines()]
    for path, _, _ in rows[1:]:
        Path(path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    Path("labels.csv").write_text("\n".join(map(",".join, rows)))
    [listed, arrays] = re.findall(r"`--dataset ((?:csv|npz):\S+)`", text)
    source = load_source(listed, Reading(8), Path())
    assert (source.classes, source.part.tolist()) == (("cat", "dog"), ["", "test"])
    images, labels = np.zeros((4, 8, 8, 12), np.uint8), np.array([[0], [1]] * 2)
    np.savez("scans.npz", train_images=images, train_labels=labels, ids=labels)
    source = load_source(arrays, Reading(8), Path())
    assert (source.inputs.shape, source.labels.tolist()) == ((4, 12, 8, 8), [0, 1, 0, 1])


def test_sounds_of_the_user_which_are_padded():
    paths = follow("Spectrograms, tokens and padding", "sounds")
    modules = [{*modules.values()} for modules in report_of(paths)["taps"].values()]
    assert modules == [{"stage2"}, {"stage1"}]
    made = runpy.run_path("sounds.py")
    recorded = made["small"](3, 16).token_mask(torch.from_numpy(made["sounds"]()["x"])).int()
    assert recorded.sum(1).unique().tolist() == [*range(16, 41)]
    assert (recorded.diff(dim=1) <= 0).all()  # nothing was recorded behind padding


def test_images_of_the_user_and_a_photo_for_the_student(capsys, monkeypatch):
    paths = follow("Your own images", "photos")
    dataset = StudySettings.read(paths.settings).dataset
    manifest = json.loads((Layout(Path("runs")).dataset(dataset) / "manifest.json").read_text())
    assert manifest["info"]["classes"] == ["digit-0", "digit-1", "digit-2"]
    assert report_of(paths)["protocol"]["dataset"] == f"folder:{Path('photos').resolve()}"

    assert main(["export", "--workers", "inline"]) == 0
    [folder] = (paths.folder / "export").iterdir()
    save_files("How to use the result", folder)
    noise = np.random.default_rng(0).integers(0, 256, (11, 20, 4), dtype=np.uint8)
    write("album/a/photo.png", Image.fromarray(noise), rotation=6)
    write("album/b/photo.png", Image.new("RGB", (8, 8)))
    monkeypatch.setattr(sys, "argv", ["predict.py", "album/a/photo.png"])
    monkeypatch.syspath_prepend(folder)
    capsys.readouterr()
    made = runpy.run_path(str(folder / "predict.py"))
    del sys.modules["student"]
    read = read_folder(Path("album"), Reading(8), lambda done, total: None).inputs[:1]
    assert torch.equal(made["images"], torch.from_numpy(read) / 255)
    assert capsys.readouterr().out.strip() in manifest["info"]["classes"]


def test_several_teachers_and_a_student_that_becomes_the_teacher_of_another(capsys):
    paths = follow("Several teachers, and an assistant", "small")
    both = report_of(Layout(Path("runs")).study("both"))
    assert [one["model"] for one in both["teachers"]] == ["resnet20", "resnet14-w2"]
    said, [teacher] = capsys.readouterr().out, report_of(paths)["teachers"]
    weights = Path("assistant/student.safetensors").resolve()
    assert f"tensors of {weights} loaded\n" in said
    assert (teacher["model"], teacher["epochs"]) == ("resnet20", 0)
    assistant = report_of(Layout(Path("runs")).study("assistant"))
    card = Path("assistant/README.md").read_text()
    assert "by distillation from resnet56" in card
    tested = [one for one in assistant["finalists"] if one["name"] in card]
    assert teacher["test"]["accuracy"] in [value for one in tested for value in one["test_values"]]
    assert any("starts from student.safetensors" in one for one in report_of(paths)["caveats"])


def write(path: str, image: Image.Image, rotation: int = 1) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = rotation
    image.save(path, exif=exif)


def images_of(folder: str) -> list[np.ndarray]:
    """Images of a folder as it is read, [H, W, 3] each."""
    return list(
        read_folder(Path(folder), Reading(4), lambda done, total: None).inputs.transpose(0, 2, 3, 1)
    )


def test_files_become_what_the_guide_states():
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    write("b/z/first.png", red)
    for ending in ("jpg", "png", "ppm", "bmp", "tiff", "webp"):
        write(f"b/a/deep/er/one.{ending}", red)
    write("b/a/deep/one.pgm", Image.new("L", (4, 4), 77))
    for name in ("a/passed.gif", "a/.hidden.png", "loose.png"):
        write(f"b/{name}", red)
    Path("b/a/passed.heic").write_text("not read")
    assert len(images_of("b")) == 8

    write("c/z/first.png", red)
    wide = np.zeros((4, 8, 4), np.uint8)
    wide[:2, 2:6] = (9, 8, 7, 0)  # transparent, in the upper half of the centre square
    write("c/a/1.png", Image.fromarray(wide), rotation=6)
    write("c/a/2.png", Image.new("L", (4, 4), 77))
    write("c/a/3.tiff", Image.new("CMYK", (4, 4)))
    red.quantize(2).save("c/a/5.png")
    red.save("c/a/4.webp", save_all=True, append_images=[Image.new("RGB", (4, 4))], lossless=True)
    turned, grey, cmyk, frames, palette, _ = images_of("c")
    assert (turned[:, 2:] == (9, 8, 7)).all()
    assert (turned[:, :2] == 0).all()
    assert (grey == 77).all()
    assert (cmyk == 255).all()
    assert (frames == (200, 0, 0)).all()
    assert (palette == (200, 0, 0)).all()


def test_files_are_refused_by_name_as_the_guide_states():
    write("photos/a/fine.png", Image.new("RGB", (4, 4)))
    write("photos/b/fine.png", Image.new("RGB", (4, 4)))
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    for image, kind in ((deep, "PNG"), (Image.new("L", (4, 4)), "GIF")):
        image.save("photos/a/odd.png", kind)
        with pytest.raises(DataError, match=r"odd\.png"):
            images_of("photos")
    Path("photos/a/odd.png").write_bytes(Path("photos/a/fine.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"odd\.png"):
        images_of("photos")


def labelled(sizes: list[int]) -> Source:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = tuple(f"class {label}" for label in range(len(sizes)))
    images = np.zeros((len(labels), 3, 1, 1), np.uint8)
    return Source(inputs=images, labels=labels, classes=names)


def test_as_many_images_of_a_class_as_the_guide_states_suffice_beside_any_others():
    enough = int(re.findall(r"(\d+) images of each suffice", section("Your own images"))[0])
    protocol = Protocol(**{**FOLDER, "dataset": "folder:photos"})
    random = np.random.default_rng(0)
    for _ in range(300):
        sizes = random.integers(enough, 40, random.integers(2, 12)).tolist()
        split(labelled([enough, *sizes]), protocol)
    others = [16] * 8 + [17] * 2  # whose fractions come first where one class must go without
    split(labelled([enough, *others]), protocol)
    with pytest.raises(DataError, match="class 0"):
        split(labelled([enough - 1, *others]), protocol)


def test_parts_keep_the_shares_of_uneven_classes():
    source = labelled([400, 40])
    parts = split(source, Protocol(**{**FOLDER, "dataset": "folder:photos"}))
    for rows in (parts.train, parts.validation, parts.test):
        large, small = np.bincount(source.labels[rows])
        assert large == pytest.approx(10 * small, rel=0.15)


def test_models_of_the_user():
    paths = follow("Your own models", "own")
    report = report_of(paths)
    students = {one["student"] for one in report["finalists"]}
    assert [re.sub("@.*", "", name) for name in students] == ["networks.py:small"]
    assert report["teachers"][0]["model"].startswith("networks.py:large@")
    [folder] = (paths.folder / "export").iterdir()
    student = runpy.run_path(str(folder / "student.py"))["load"]()
    assert student(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


def test_a_search_space_of_the_user():
    report = report_of(follow("Your own search space", "annealed"))
    assert report["study"]["arms"] == ["annealed", "plain"]
    recipes = {
        one["title"]: one["recipe"] for one in report["finalists"] if one["arm"] == "annealed"
    }
    assert {recipe["temperature"]["shape"] for recipe in recipes.values()} == {"cosine"}
    space = load_space("annealed.py")
    found = {
        title: space.suggest(optuna.trial.FixedTrial(dict(parameters)))
        for title, parameters in space.enqueued.items()
    }
    assert found["cosine"].feature_taps == ()
    assert found["cosine and hint"].feature_taps == ("last1",)


def test_a_loss_of_the_user():
    report = report_of(follow("Your own loss", "congruence"))
    own = [one["recipe"]["soft_kind"] for one in report["finalists"] if one["arm"] != "plain"]
    assert {re.sub("@.*", "", kind) for kind in own} == {"congruence.py:congruence"}

    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(size=shape)  # noqa: E731
    ours, theirs, maps, features = draw(5, 3), draw(5, 3), draw(5, 6, 4, 4), draw(5, 2, 2, 2)
    p, q = (scipy.special.softmax(logits / 3, axis=1) for logits in (theirs, ours))
    expected = 9 * np.sum(p * np.log(p / q)) / 5
    for i, j in np.ndindex(5, 5):
        left, right = (
            1 - scipy.spatial.distance.cosine(*one.mean((2, 3))[[i, j]]) for one in (maps, features)
        )
        expected += 10 * (left - right) ** 2 / 25
    student, teacher = (
        SimpleNamespace(logits=torch.from_numpy(logits), taps={"last1": tap})
        for logits, tap in (
            (ours, torch.from_numpy(maps)),
            (theirs, SimpleNamespace(features=torch.from_numpy(features))),
        )
    )
    congruence = runpy.run_path("congruence.py")["congruence"]
    assert congruence(student, teacher, None, 3.0).item() == pytest.approx(expected)


def test_a_space_of_the_user_goes_with_arms_as_the_guide_states():
    assert choose_spaces(None, ["annealed.py"]) == ["annealed.py", "plain"]
    [flags] = re.findall(r"`--arms (\S+) --space (\S+)`", section("Your own search space"))
    assert choose_spaces(flags[0].split(","), [flags[1]]) == ["annealed.py", "scheduled", "plain"]


RECIPE, SCHEDULE = "`lr`", "`shape`"


@pytest.mark.parametrize(("first", "kind"), [(RECIPE, Recipe), (SCHEDULE, Schedule)])
def test_tables_of_recipe_and_schedule_are_the_dataclasses(first, kind):
    rows = table("Your own search space", first)
    known = {"Schedule": Schedule, "required": MISSING}
    found = {
        name.strip("`"): known.get(default) or eval(default.strip("`"), known)  # noqa: S307
        for name, _, default, _ in rows
    }
    assert found == {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(kind)
    }
    assert list(found) == [field.name for field in fields(kind)]


def test_tables_name_losses_that_exist_and_every_shape():
    """A new loss needs no new row."""
    named = {
        name.strip("`"): tuple(re.findall("`([a-z-]+)`", values))
        for first in (RECIPE, SCHEDULE)
        for name, values, _, _ in table("Your own search space", first)
    }
    assert {"none", "kl"} < {*named["soft_kind"]} <= {"none", *LOGIT_LOSSES.names}
    assert {"none", "hint"} < {*named["feature_kind"]} <= {"none", *FEATURE_LOSSES.names}
    assert named["shape"] == SHAPES


def with_value(field: str, value: float) -> object:
    """Return what holds a value in a field, else as the defaults but for a hint."""
    if field == "sharpness":
        return Schedule(initial=1.0, final=1.0, sharpness=value)
    hinted = Recipe(
        soft_kind="kl", feature_kind="hint", feature_weight=1.0, feature_taps=("last1",)
    )
    scheduled = field in ("temperature", "alpha")
    return replace(hinted, **{field: Schedule.constant(value) if scheduled else value})


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((name.strip("`"), *ends[0]), id=name)
        for first in (RECIPE, SCHEDULE)
        for name, values, _, _ in table("Your own search space", first)
        if (ends := re.findall(r"([\[(])([\d.]+), ([\d.]+)([\])])", values))
    ],
)
def test_ranges_in_the_tables_are_those_that_a_recipe_takes(row):
    field, opened, low, high, closed = row
    for end, beyond, included in (
        (float(low), -1e-6, opened == "["),
        (float(high), 1e-6, closed == "]"),
    ):
        with pytest.raises(ProtocolError):
            with_value(field, end + beyond)
        if included:
            with_value(field, end)
        else:
            with_value(field, end - beyond)
            with pytest.raises(ProtocolError):
                with_value(field, end)
