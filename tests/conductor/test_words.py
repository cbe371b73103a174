"""Values from a config file, or of `study.run`, give the study that flags give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import study
from conductor.command_line import cli
from conductor.command_line.options import make_request
from conductor.command_line.presets import PRESETS, preset
from conductor.command_line.words import words_of
from conductor.request import Request
from conductor.study import Study
from kd.errors import RetortError
from kd.protocol import Protocol
from storage.files.artifacts import write_json
from tests.support.fakes import quiet

TOML = """
preset = "digits"
train_size = 60
image-size = 8
student = ["resnet8-w0.25", "nets.py:small"]
arms = ["constant", "plain"]
sampler = "nets.py:sampler"
trials = 3
epochs = 2
compile = true
ablate = true
cache-budget = "1GB"
teacher_weight_decay = 1e-5
"""
FLAGS = (
    "--preset digits --train-size 60 --image-size 8 --student resnet8-w0.25,nets.py:small "
    "--arms constant,plain --sampler nets.py:sampler --trials 3 --epochs 2 --compile --ablate "
    "--cache-budget 1GB --teacher-weight-decay 1e-5"
)


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "nets.py").write_text("def small(): ...\ndef sampler(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search_spaces.space.DRAWS", 9)


def requested(*words: str) -> Request:
    return make_request(cli.read_options(list(words)))


def config(text: str) -> str:
    Path("config/study.toml").write_text(text)
    return "config/study.toml"


def identity(request: Request) -> tuple[Any, ...]:
    """Return what a study is recognised by: its protocol, its method, and what its spaces do."""
    digests = {space.name: space.digest for space in Study(request, quiet())._spaces}
    changes = request.fix, request.range, request.warm_start
    return request.protocol.hash, request.sampler, request.pruner, request.lag, changes, digests


def test_a_config_gives_the_study_that_flags_give(monkeypatch):
    """Paths in it are relative to it, and the recorded command needs neither it nor its folder."""
    found = requested("--config", config(TOML))
    with monkeypatch.context() as patch:
        patch.chdir("config")
        wanted = requested(*FLAGS.split())
    assert identity(found) == identity(wanted)
    assert (found.trials, found.ablate) == (3, True)
    assert "--config" not in found.command
    again = requested(*found.command[2:])
    assert (again.protocol.hash, again.command) == (found.protocol.hash, found.command)


LISTS = {
    "fix": ["lr=5e-2", "temperature=4"],
    "range": ["alpha=0.2:0.8", "weight_decay=1e-5:1e-3"],
    "space": ["warm.py", "cold.py"],
    "student": ["resnet8-w0.25", "resnet8"],
}
SPACE = """
from dataclasses import replace
from kd.recipe import Schedule
from search_spaces import plain


def suggest(trial, study):
    temperature = Schedule.constant(trial.suggest_float("temperature", 1, {most}))
    return replace(plain.suggest(trial, study), soft_kind="kl", temperature=temperature)
"""


def from_config(name: str, values: list[str], monkeypatch: pytest.MonkeyPatch) -> Request:
    return requested("--config", config(f"{name} = {json.dumps(values)}"))


def from_python(name: str, values: list[str], monkeypatch: pytest.MonkeyPatch) -> Request:
    taken: list[Request] = []

    def take(request: Request, display: object) -> None:
        taken.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("conductor.study.Study", take)
    with monkeypatch.context() as patch:
        patch.chdir("config")
        with pytest.raises(KeyboardInterrupt):
            study.run(**{name: values})
    return taken[0]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("door", [from_config, from_python])
def test_a_list_gives_the_study_that_a_repeated_flag_gives(
    name: str, door: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, most in (("warm.py", 20), ("cold.py", 2)):
        (Path("config") / file).write_text(SPACE.format(most=most))
    found = door(name, LISTS[name], monkeypatch)
    with monkeypatch.context() as patch:
        patch.chdir("config")
        wanted = requested(*(word for one in LISTS[name] for word in (f"--{name}", one)))
        one = requested(f"--{name}", LISTS[name][0])
    assert identity(found) == identity(wanted) != identity(one)
    assert found.command[-4:] == wanted.command[-4:]


def test_flags_that_repeat_or_have_commas_take_a_list_and_no_others_do() -> None:
    parser = cli.parser_of("run")
    taken = {"arms", "space", "fix", "range", "student", "students", "taps"}
    taken |= {"teacher", "teachers", "teacher-weights"}
    for name in taken:
        [dest] = {one.dest for one in parser._actions if f"--{name}" in one.option_strings}
        found = parser.parse_args(words_of(parser, {name: ["1", "2"]}))
        assert [*getattr(found, dest)] == ["1", "2"]
    valued = [action.option_strings for action in parser._actions if action.nargs != 0]
    for name in {flag.removeprefix("--") for flags in valued for flag in flags} - taken:
        with pytest.raises(RetortError, match=rf"^{name} takes one value, got \['1', '2'\]$"):
            words_of(parser, {name: ["1", "2"]})


@pytest.mark.parametrize("words", ["--trials 9 --config FILE", "--config=FILE --trials=9"])
def test_a_flag_wins_over_the_config(words):
    request = requested(*words.replace("FILE", config("trials = 3\nlag = 2")).split())
    assert (request.trials, request.lag) == (9, 2)


def test_a_flag_wins_by_any_of_its_names():
    request = requested("--students", "resnet14", "--config", config('student = "resnet8"'))
    assert request.protocol.students == ("resnet14",)
    assert requested("--evidence", "strong", "--config", config("seeds = 2")).seeds == 29
    assert not requested("--no-compile", "--config", config("compile = true")).protocol.compile


@pytest.mark.parametrize("name", sorted(PRESETS.names))
def test_the_protocol_of_a_study_is_a_config(name):
    """All its fields are given, so that no preset adds any."""
    fields = {"dataset": "folder:images", **preset(name), "compile": True, "margin": 0.25}
    protocol = Protocol(**fields)
    write_json(Path("protocol.json"), protocol.to_json())
    other = requested("--config", "protocol.json").protocol
    moved = {"dataset": protocol.dataset.replace("folder:", f"folder:{Path.cwd()}/")}
    assert other == Protocol(**{**fields, **moved})


REFUSED = [
    ("trails = 2", "unknown key of .*study.toml 'trails'; did you mean trials?"),
    ("config = 'a'", "unknown key of .*study.toml 'config'; known: name"),
    ("compile = 'yes'", "study.toml: compile must be true or false, got 'yes'"),
    ("trials = [1, 2]", r"study.toml: trials takes one value, got \[1, 2\]"),
    ("trials = true", "study.toml: trials takes a text or a number, got True"),
    ("warm-start = ['a', 'b']", r"study.toml: warm-start takes one value, got \['a', 'b'\]"),
    ("fix = [['lr=1']]", r"study.toml: fix takes a text or a number, got \['lr=1'\]"),
    ("fix = ['lr=1', 'lr=2']", "--fix lr is given twice, got '1' and '2'; give it once"),
    ("trials = ", "study.toml is not valid TOML: Invalid value"),
    ("trials = 0", "--trials must be at least 1, got 0"),
    ("[lr]\nlow = 1", "unknown key of .*study.toml 'lr'"),
    ("[trials]\nlow = 1", "study.toml: trials takes a text or a number"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_mistake_in_a_config_costs_one_line(text, message):
    with pytest.raises(RetortError, match=message) as refused:
        requested("--config", config(text))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config", "--config takes a file, as in --config study.toml"),
        ("--config --trials 3", "--config takes a file"),
        ("--config none.toml", "none.toml cannot be read: No such file"),
        ("--config none.json", "none.json is not a file"),
        ("--config a --config b", "--config takes one file, got a and b; give it once"),
    ],
)
def test_a_mistake_in_naming_a_config_costs_one_line(words, message):
    with pytest.raises(RetortError, match=message):
        requested(*words.split())


def test_a_record_of_another_kind_is_no_config():
    Path("study.json").write_text(json.dumps({"arms": []}))
    with pytest.raises(RetortError, match="was edited; give what differs as flags"):
        requested("--config", "study.json")
