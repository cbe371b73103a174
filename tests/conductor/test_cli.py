"""The command line: fast help, a flag for every field, and one line for every mistake."""

import argparse
import dataclasses
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import pytest
from PIL import Image

from conductor.command_line import flags as flag_types
from conductor.command_line.cli import COMMANDS, _parser, main
from conductor.command_line.flags import Repeated, add_protocol_flags, listed
from conductor.request import KEPT, Request
from kd.dataset_names import SOURCES
from kd.errors import StudyError
from kd.names import AUGMENTATIONS
from kd.protocol import Protocol
from storage.files.layout import Layout
from storage.files.records import StudySettings
from tests.support.tiny import leave_kernels_out

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "optuna", "plotly", "rich", "pandas", "numpy", "ray", "sklearn")


@pytest.fixture(autouse=True)
def _signals_as_before():
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS]])
def test_help_needs_no_heavy_library(command):
    code = (
        "import sys\n"
        "from conductor.command_line.cli import main\n"
        "try:\n"
        f"    main({[*command, '--help']})\n"
        "except SystemExit as ending:\n"
        "    assert ending.code in (0, None), ending.code\n"
        f"print('loaded', *[name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "loaded"
    assert "usage: study.py" in done.stdout


def test_a_python_without_the_libraries_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "conductor.display", raising=False)
    monkeypatch.delitem(sys.modules, "conductor.command_line.commands", raising=False)
    assert main(["--trials", "2"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"study.py: rich.console is not installed for {sys.executable}; run: make install"
    )


def test_help_of_the_program_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name, (text, _) in COMMANDS.items():
        assert re.search(rf"^ +{name}\s+{re.escape(text)}$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "seeds"),
    [
        ([], 6),
        (["--seeds", "3"], 3),
        (["--evidence", "quick"], 6),
        (["--evidence", "standard"], 10),
        (["--evidence", "strong"], 29),
    ],
)
@pytest.mark.parametrize("command", ["run", "confirm"])
def test_evidence_names_a_number_of_seeds(command, flags, seeds):
    assert _parser().parse([command, *flags]).seeds == seeds


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--evidence", "strong", "--seeds", "3"], "not allowed with"),
        (["--evidence", "some"], "level of evidence 'some'; known: quick, standard, strong"),
    ],
)
def test_a_mistake_in_the_evidence_costs_one_line(capsys, flags, message):
    assert_one_line(capsys, flags, message)


def flags_of(command: str) -> dict[str, argparse.Action]:
    """The flags of a command, by the field that they set."""
    return {action.dest: action for action in reversed(subparser(command)._actions)}


def test_every_field_of_the_protocol_has_a_flag_with_its_text():
    flags = flags_of("run")
    for name, hint in typing.get_type_hints(Protocol, include_extras=True).items():
        kind, text, *more = typing.get_args(hint)
        assert f"--{name.replace('_', '-')}" in flags[name].option_strings
        members = (part if isinstance(part, str) else listed(part) for part in more)
        assert flags[name].help == text + "".join(members)
        assert text != ""
        assert flags[name].default is None
        readers = {str: str, int: flag_types.whole_number, float: flag_types.number}
        if kind in readers:
            assert flags[name].type is readers[kind]


def test_every_option_of_a_run_has_a_flag_with_its_text_and_its_default():
    flags, hints = flags_of("run"), typing.get_type_hints(Request, include_extras=True)
    options = [
        item
        for item in dataclasses.fields(Request)
        if typing.get_origin(hints[item.name]) is Annotated
    ]
    assert len(options) > 10
    for item in options:
        _, flag, *_ = typing.get_args(hints[item.name])
        assert flags[item.name].help.startswith(flag.help)
        assert flags[item.name].default == (None if item.name in KEPT else item.default)
    wanted = r"gp \(.*\), random \(.*\), tpe \(.*\)$"
    assert re.search(wanted, flags["sampler"].help)


@pytest.mark.parametrize(("field", "kind"), [("dataset", SOURCES), ("augment", AUGMENTATIONS)])
def test_the_help_of_a_flag_lists_the_members_of_its_kind(field, kind):
    for name in kind.names:
        told = flags_of("run")[field].help.replace("%%", "%")
        assert f"{name} ({kind.describe(name)})" in told


def test_flags_read_the_types_of_the_protocol():
    parser = argparse.ArgumentParser()
    add_protocol_flags(parser)
    given = parser.parse_args(["--no-compile", "--taps", "last1,last2", "--warmup", "0.2"])
    assert (given.compile, given.taps, given.warmup) == (False, ("last1", "last2"), 0.2)


@pytest.mark.parametrize(
    "flags",
    [
        ["--student", "resnet8", "--student", "resnet14", "--student", "resnet20"],
        ["--students", "resnet8,resnet14", "--student", "resnet20"],
    ],
)
def test_students_are_named_one_by_one_or_with_commas(flags):
    parser = argparse.ArgumentParser()
    add_protocol_flags(parser)
    assert parser.parse_args(flags).students == ["resnet8", "resnet14", "resnet20"]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown flag": (["--epoch", "3"], "unknown argument '--epoch'; did you mean --epochs?"),
    "unknown flag with =": (["--trails=3"], "unknown argument '--trails'; did you mean --trials?"),
    "hopeless flag": (["--zzz"], "unknown argument '--zzz'; known: --help, --name, --root,"),
    "flag of a command without any": (
        ["presets", "--rum", "x"],
        "unknown argument '--rum'; known: --help",
    ),
    "stray word": (["run", "now"], "run takes flags alone, got 'now'; list them with --help"),
    "second value": (["--seeds", "6", "7"], "run takes flags alone, got '7'; list them with"),
    "command last": (
        ["--name", "x", "confirm"],
        "the command confirm must come first, before its flags",
    ),
    "unknown command": (["reprot"], "unknown command 'reprot'; did you mean report?"),
    "hopeless command": (["zzz"], "unknown command 'zzz'; known: run, confirm, report, "),
    "no trials": (["--trials", "0"], "--trials must be at least 1, got 0"),
    "trials of letters": (["--trials", "x"], "argument --trials: must be a whole number, got 'x'"),
    "a share of letters": (
        ["--gpus-per-trial", "x"],
        "--gpus-per-trial: must be a number, got 'x'",
    ),
    "flag without value": (["--trials"], "argument --trials: expected one argument"),
    "no epochs": (["--epochs", "0"], "epochs must lie in 1-100000, got 0"),
    "negative margin": (["--margin", "-1"], "margin must lie in 0-100, got -1"),
    "nan": (["--warmup", "nan"], "warmup must be a finite number, got nan"),
    "dataset": (["--dataset", "cifar11"], "unknown dataset 'cifar11'; did you mean cifar10"),
    "folder without path": (["--dataset", "folder:"], "folder: requires a path"),
    "teacher": (["--teacher", "resnet19"], "unknown model 'resnet19'; did you mean resnet"),
    "student": (["--student", "wrn-16-3"], "unknown model 'wrn-16-3'; did you mean wrn-16-"),
    "student twice": (["--student", "resnet8,resnet8"], "students must not repeat a name, got "),
    "gp with a budget": (
        ["--sampler", "gp", "--pruner", "none", "--student=resnet8,resnet14", "--max-params=9"],
        "the gp sampler learns from completed trials alone",
    ),
    "width": (["--student", "resnet18-w2"], "resnet18 has no width factor"),
    "sampler": (["--sampler", "rando"], "unknown sampler 'rando'; did you mean random?"),
    "pruner": (["--pruner", "hyperbant"], "unknown pruner 'hyperbant'; did you mean hyperband?"),
    "gp with pruning": (
        ["--sampler", "gp", "--pruner", "median"],
        "the gp sampler ignores pruned trials",
    ),
    "arm": (["--arms", "plain,schedule"], "unknown arm 'schedule'; did you mean scheduled?"),
    "arm twice": (["--arms", "plain,plain"], "each arm must be named once"),
    "no arm": (["--arms", ","], "argument --arms: takes names separated by commas, got ','"),
    "preset": (["--preset", "cifar20"], "unknown preset 'cifar20'; did you mean cifar10"),
    "preset without a near neighbour": (
        ["--preset", "imagenet"],
        "unknown preset 'imagenet'; known: cifar10, cifar10-small, cifar100, digits, fashion-mnist",
    ),
    "pruner without a near neighbour": (
        ["--pruner", "asha"],
        "unknown pruner 'asha'; known: halving, hyperband, median, none, quartile",
    ),
    "sampler without a near neighbour": (
        ["--sampler", "cmaes"],
        "unknown sampler 'cmaes'; known: gp, random, tpe",
    ),
    "arm without a near neighbour": (
        ["--arms", "mine"],
        "unknown arm 'mine'; known: constant, plain, scheduled",
    ),
    "format": (["report", "--format", "pdf"], "unknown format 'pdf'; known: html, markdown, json"),
    "near format": (["report", "--format", "htm"], "unknown format 'htm'; did you mean html?"),
    "preset without data": (
        ["--preset", "folder"],
        "the preset folder requires --dataset folder:PATH",
    ),
    "stem": (["--stem", "imagenett"], "unknown stem 'imagenett'; did you mean imagenet?"),
    "tap": (
        ["--taps", "last9"],
        "resnet20 has no tap 'last9'; use --taps last1,last2,last3",
    ),
    "augmentation behind one that mixes": (
        ["--augment", "mixup,flip"],
        "augment must name mixup last, which mixes images that are augmented already, got 'mixup,f",
    ),
    "no lag": (["--lag", "0"], "--lag must be at least 1, got 0"),
    "no workers": (["--workers", "0"], "--workers must be auto, inline, ray or a number, got '0'"),
    "negative workers": (["--workers", "-1"], "--workers"),
    "workers of letters": (["--workers", "x"], "--workers must be auto, inline, ray or a number"),
    "cache budget": (["--cache-budget", "20XB"], "a size is a number and a unit"),
    "no space file": (["--space", "nowhere.py"], "got nowhere.py, which is not a file"),
    "space that is no file of Python": (["--space", "x.txt"], "--space takes a Python file"),
    "storage of no kind": (["--storage", "nonsense"], "--storage takes an SQLAlchemy URL"),
    "storage of unknown kind": (["--storage", "abc://x/y"], "--storage takes an SQLAlchemy URL"),
    "name that climbs": (["--name", "../../x"], "a study's name must be 1-64 letters"),
    "name with markup": (["--name", "<script>"], "a study's name must be 1-64 letters"),
    "name of the cache": (["--name", "cache"], "a study's name must be 1-64 letters"),
    "weights that do not exist": (
        ["--teacher-weights", "pretrained"],
        "there are no ImageNet weights for resnet20; use --teacher-weights none",
    ),
    "report of nothing": (["report"], "there are 0 studies under"),
    "report of no such study": (["report", "--name", "x"], "there is no study x under"),
    "report of a study that is named in two ways": (
        ["report", "one", "--name", "two"],
        "a study must be named once: omit --name two or one",
    ),
    "confirm of no such study": (["confirm", "--name", "x"], "there is no study x under"),
    "verify of nothing": (["verify"], "there are 0 studies under"),
    "dashboard of nothing": (["dashboard"], "there are"),
    "dashboard's port": (
        ["dashboard", "--port", "x"],
        "argument --port: must be a whole number, got 'x'",
    ),
}


def subparser(command: str) -> argparse.ArgumentParser:
    commands = next(action for action in _parser()._actions if action.dest == "command")
    return commands.choices[command]


def values_of(action: argparse.Action) -> tuple[str, str]:
    """Two values that the flag takes."""
    if action.dest == "seeds" and action.option_strings == ["--evidence"]:
        return "quick", "strong"
    if action.dest == "timeout":
        return "7s", "8s"
    if action.dest == "storage":
        return "journal:7", "journal:8"
    if action.dest == "format":
        return ("html", "json") if "html" in action.help else ("safetensors", "onnx")
    return "7", "8"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_given_once_but_those_that_take_further_values(command):
    """Of two values argparse takes the last, in silence."""
    needed = ["--trial=1"] if command == "reproduce" else []
    for action in subparser(command)._actions:
        flag = action.option_strings[0] if action.option_strings else "-h"
        if flag == "-h":
            continue
        given = [] if flag in ("--trial", "--finalist") else needed
        one, other = values_of(action)
        lines = [[flag, one, flag, other], [f"{flag}={one}", f"{flag}={one}"]]
        for words in [[flag, flag]] if action.nargs == 0 else lines:
            if isinstance(action, Repeated):
                assert len(getattr(_parser().parse([command, *words]), action.dest)) == 2
                continue
            with pytest.raises(argparse.ArgumentError, match="; give it once") as refused:
                _parser().parse([command, *given, *words])
            takes = "is given twice" if action.nargs == 0 else f"takes one value, got '{one}' and '"
            assert str(refused.value).startswith(f"{flag} {takes}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "a", "--dataset=b"], "--dataset takes one value, got 'a' and 'b'; give it"),
        (["--lag=3", "--lag=4"], "--lag takes one value, got '3' and '4'; give"),
        (["--arms", "plain", "--arms", "scheduled"], "give it once, with commas between names"),
        (["--no-compile", "--compile"], "--compile is not allowed with --no-compile; give one of"),
        (["--seeds", "6", "--evidence", "strong"], "--evidence is not allowed with --seeds, got"),
        (["--ablate", "--ablate"], "--ablate is given twice; give it once"),
    ],
)
def test_a_flag_that_is_given_again_is_named_with_both_values(
    tmp_path, capsys, monkeypatch, words, said
):
    monkeypatch.chdir(tmp_path)
    assert_one_line(capsys, words, said)


def test_a_flag_that_is_given_again_costs_no_password(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    urls = [f"--storage=postgresql://ann:{word}@host/db" for word in ("secret", "secre/t")]
    assert_one_line(capsys, urls, "--storage takes one value, got 'postgresql://ann@host/db' and")
    assert_one_line(capsys, [urls[0], "--storage", urls[1].removeprefix("--storage=")], "storage")
    assert main(urls) == 2
    assert "secre" not in capsys.readouterr().err


def assert_one_line(capsys, arguments: list[str], message: str) -> None:
    """Run a command that must fail by a single line on standard error."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("study.py: ")
    assert message in said.err
    assert "secret" not in said.err
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert len(said.err) < 1000  # a command has some 45 flags, which are listed where none is near


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_creates_nothing(tmp_path, capsys, monkeypatch, mistake):
    arguments, message = MISTAKES[mistake]
    command = arguments if arguments[0] in COMMANDS else ["run", *arguments]
    if "command" in mistake:
        command = arguments
    if command[0] == "run":
        command = [*command, "--workers", "inline"] if "workers" not in mistake else command
    monkeypatch.chdir(tmp_path)
    assert_one_line(capsys, [*command, "--root", "runs"], message)
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_costs_one_line(tmp_path, capsys):
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"postgresql+psycopg://ann:secret@127.0.0.1:{port}/studies"
    root = tmp_path / "runs"
    assert_one_line(capsys, ["run", "--storage", url, "--root", str(root)], "does not answer")
    assert not root.exists()


PASSWORDS = [
    "secret",
    "se@cret",
    "se@cr/et",
    "se/cr@et",
    "se?cr@et",
    "se#cr@et",
    "se@cr?et",
    "s:cr@et",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "presets"])
def test_no_part_of_a_password_is_printed_or_stored(
    tmp_path, capsys, monkeypatch, command, password
):
    """What it holds must be percent-encoded, or its end would be taken for the host."""
    monkeypatch.chdir(tmp_path)
    url = f"postgresql://ann:{password}@127.0.0.1:1/studies"
    more = ["--trial", "1"] if command == "reproduce" else []
    assert main([command, *more, "--storage", url, "--root", "runs"]) in (1, 2)
    said = capsys.readouterr()
    assert not re.search("se[@/?#c]|cr[@/?e]|et@", said.err + said.out)
    assert said.err.count("\n") <= 1
    if password.count("@"):
        assert "postgresql://***" in said.err
        assert "percent-encode" in said.err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--storge=postgresql://ann:secret@host/db"],
        ["run", "postgresql://ann:secret@host/db"],
        ["postgresql://ann:secret@host/db"],
        ["--storage", "ann:secret@host/db"],
        ["--storage=postgresql:ann:secret@host/db"],
        ["--storage=ann:secret@host", "--storage=ann:secret@host"],
    ],
)
def test_a_password_in_a_mistyped_command_is_not_printed(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "secret" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:studies?mode=memory&cache=shared&uri=true",
        "sqlite:///file:/studies?vfs=memdb&uri=true",
        "sqlite:///.",
        "sqlite+aiosqlite:///studies.db",
        "sqlite+pysqlcipher://:secret@/studies.db",
        "journal:",
        "journal:.",
        "journal:redis://u:secret@host/0",
    ],
)
@pytest.mark.parametrize("command", ["run", "doctor", "dashboard"])
def test_a_storage_that_is_no_file_leaves_no_lock(tmp_path, capsys, monkeypatch, command, url):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    assert_one_line(capsys, [command, "--storage", url], "studies.")
    assert [*place.iterdir(), *tmp_path.iterdir()] == [place]


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("run", "."),
        ("run", "runs/cache"),
        *((name, "runs") for name in ("run", "report", "confirm", "verify", "dashboard")),
    ],
)
def test_a_file_where_a_folder_should_be_costs_one_line(tmp_path, capsys, command, place):
    """Of the root, above it, or below it: also what a missing right or a full disk would be."""
    file = tmp_path / "root" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    root = tmp_path / "root" / "runs"
    more = ["--workers", "inline"] if command == "run" else []
    assert_one_line(capsys, [command, *more, "--root", str(root)], str(root))
    assert file.read_text() == "mine"


def test_a_mistake_leaves_what_was_there_before(tmp_path, capsys):
    root = tmp_path / "runs"
    (root / "mine").mkdir(parents=True)
    assert_one_line(capsys, run_on_folder(tmp_path), "folder:PATH must name an existing folder")
    assert (root / "mine").is_dir()


def image(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def run_on_folder(tmp_path: Path) -> list[str]:
    folder, root = tmp_path / "photos", tmp_path / "runs"
    dataset = ["--dataset", f"folder:{folder}"]
    return ["run", *dataset, "--workers", "inline", "--root", str(root)]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "folder:PATH must name an existing folder"),
        ((), "must hold a folder of images"),
        (("Train/1.png", "Test/1.png"), "a class must not be named like a split, got"),
        (("a/1.png", "a/2.png", "b/1.png", "b/broken.png"), "broken.png' cannot be read as an im"),
        (("a/1.png", "b/1.png"), "images"),
    ],
)
def test_a_folder_without_enough_images_costs_one_line(tmp_path, capsys, images, said):
    if images is not None:
        (tmp_path / "photos").mkdir()
    for name in images or ():
        image(tmp_path / "photos", name)
        if "broken" in name:
            (tmp_path / "photos" / name).write_bytes(b"no image")
    assert_one_line(capsys, run_on_folder(tmp_path), said)
    assert not (tmp_path / "runs").exists()


def test_a_folder_named_without_its_kind_is_recognised(tmp_path, capsys, monkeypatch):
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    said = "unknown dataset 'shapes'; did you mean folder:shapes?"
    assert_one_line(capsys, ["--dataset", "shapes"], said)


def test_weights_that_are_not_there_cost_one_line_and_no_study(tmp_path, capsys):
    root, weights = tmp_path / "runs", tmp_path / "gone.safetensors"
    given = ["--root", str(root), "--teacher-weights", str(weights)]
    assert_one_line(capsys, given, f"must be an existing .safetensors file, got {weights}")
    assert not root.exists()


@pytest.fixture
def prepared(tmp_path, capsys, monkeypatch) -> Callable[..., list[str]]:
    """Prepare a folder of images twice, the second time from the cache; return what is printed."""

    def end(*given: object) -> NoReturn:
        raise StudyError("the teacher is not trained here")

    def prepare(*splits: str, flags: tuple[str, ...] = ()) -> list[str]:
        for split, label, number in itertools.product(splits, "ab", range(9)):
            image(tmp_path / "photos", f"{split}/{label}/{number}.png")
        said = []
        for _ in range(2):
            assert main([*run_on_folder(tmp_path), *flags]) == 2
            said.append(capsys.readouterr().out)
        return said

    leave_kernels_out(monkeypatch)
    monkeypatch.setattr("conductor.stages.preparing.Preparation.run", end)
    return prepare


def test_a_split_of_the_folder_s_own_is_printed(prepared):
    for said in prepared("train", "val"):
        own = "training (train/) and validation (val/) are the data set's own, test is drawn"
        assert f"\ndata: {own}\n" in said
        assert " 18 validation and " in said


def test_what_is_passed_over_of_a_folder_is_printed_and_kept_with_the_study(tmp_path, prepared):
    sentence = (
        f"passed over in {tmp_path / 'photos'}: holdout/ (18 images); splits are read if named "
        "train, val, valid, validation, dev or test"
    )
    for said in prepared("train", "holdout"):
        assert said.count(f"\ndata: {sentence}\n") == 1
        assert "sealed test images" in said
        assert "; of class a only " in said
    settings = StudySettings.read(Layout(tmp_path / "runs").study("photos").settings)
    assert settings.passed_over == sentence


def test_images_that_are_left_out_have_a_line_beside_what_is_passed_over(tmp_path, prepared):
    photos = tmp_path / "photos"
    for name in ("train/a/broken.png", "train/b/1.gif", "train/b/.hidden"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"no image")
    lines = (
        f"passed over in {photos}: 1 .gif file, 1 hidden file",
        "left out 1 image that cannot be read: train/a/broken.png",
    )
    for said in prepared("train", flags=("--skip-bad-images",)):
        assert "".join(f"\ndata: {line}" for line in lines) + "\n" in said
    settings = StudySettings.read(Layout(tmp_path / "runs").study("photos").settings)
    assert settings.passed_over == "; ".join(lines)


def test_a_mistake_in_a_process_of_its_own_is_one_line_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "study.py", "--trials", "0", "--root", tmp_path / "runs"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "study.py: --trials must be at least 1, got 0\n"


def test_presets_are_listed_with_what_they_run(capsys):
    assert main(["presets"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [
        "cifar10",
        "cifar10-small",
        "cifar100",
        "digits",
        "fashion-mnist",
        "folder",
        "timm",
    ]
    assert "cifar10 at 32 pixels: resnet50 to resnet18, 30 epochs" in said[0]
    assert "folder:PATH" in said[5]


def test_a_port_that_cannot_be_served_costs_one_line(tmp_path, capsys):
    (tmp_path / "studies.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        for port, said in (
            (taken, "choose another --port"),
            (-1, "1-65535, got -1"),
            (65536, "65536"),
        ):
            arguments = ["dashboard", "--port", str(port), "--root", str(tmp_path)]
            assert_one_line(capsys, arguments, said)


def test_an_interrupt_prints_how_to_continue(capsys, monkeypatch):
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("conductor.command_line.commands.run", interrupted)
    assert main(["--trials", "7", "--name", "a b"]) == 130
    said = capsys.readouterr().err
    assert said.endswith("to continue, run: python study.py --trials 7 --name 'a b'\n")
    assert said.count("\n") == 1


def test_a_fault_of_ours_is_one_line_that_names_the_file_with_its_traceback(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "conductor.command_line.commands.existing_study", lambda *given: {}["absent"]
    )
    assert main(["report", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    found = re.fullmatch(
        r"study\.py: a bug of Retort: KeyError: 'absent'; the traceback is in (\S+)\n",
        said,
    )
    assert found
    assert Path(found[1]).parent == tmp_path / "logs"
    assert "KeyError: 'absent'" in Path(found[1]).read_text()
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").write_text("mine")  # the disk does not take it
    assert main(["report", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "KeyError: 'absent'; the traceback could not be kept: " in said
    assert said.count("\n") == 1


def test_a_request_to_terminate_is_taken_as_an_interrupt(capsys, monkeypatch):
    def terminated(options: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("nobody listens"))
    monkeypatch.setattr("conductor.command_line.commands.run", terminated)
    assert main(["--trials", "7"]) == 130
    assert "to continue, run: python study.py --trials 7" in capsys.readouterr().err


ODD = "my runs; echo $HOME 'now' #1"


def test_the_line_for_the_dashboard_can_be_pasted_whatever_the_root(tmp_path, capsys, monkeypatch):
    from reports.write.report import ReportPaths

    monkeypatch.chdir(tmp_path)
    written = ReportPaths(headline="", html=Path(), json=Path(), csv=Path(), report=None)
    monkeypatch.setattr("reports.write.report.write_report", lambda *given: written)
    monkeypatch.setattr("conductor.study.Study.run", lambda study: None)
    for storage, named in (([], []), (["--storage", "journal:x"], ["--name", "digits"])):
        assert main(["--root", ODD, *storage]) == 0
        line = capsys.readouterr().out.splitlines()[-1].removeprefix("dashboard: ")
        assert shlex.split(line) == ["python", "study.py", "dashboard", "--root", ODD, *named]


def test_a_command_in_an_error_can_be_pasted_whatever_the_root(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--root", ODD]) == 2
    line = capsys.readouterr().err.partition("run: ")[2]
    assert shlex.split(line) == ["python", "study.py", "--root", ODD]
    study = Layout(Path(ODD)).study("one")
    wanted = ["python", "study.py", "confirm", "--root", ODD, "--name", "one", "--seeds", "9"]
    assert shlex.split(study.command("confirm", "--seeds", "9")) == wanted
    assert (
        Layout(Path("runs")).study("one").command("verify") == "python study.py verify --name one"
    )


def test_no_printed_command_is_put_together_without_quotes():
    """They come from `storage.files.layout.command_line` or from shlex."""
    rooms = ("conductor", "kd", "reports", "search_spaces", "storage", "workers")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    bare = re.compile(r"""study\.py(?!:)[^"'\n]*\{|" "\.join\([^\n]*(command|arguments)\b""")
    found = {path.name: match[0] for path in files if (match := bare.search(path.read_text()))}
    assert found == {}


def test_a_terminal_that_knows_few_letters_gets_them_escaped(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "study.py", "--dataset", "folder:/tmp/nö", "--root", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        r"study.py: folder:PATH must name an existing folder, got '/tmp/n\xf6'"
    ]
