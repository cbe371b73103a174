"""Values from a config file give the study that flags give; mistakes cost one line."""

import json
from pathlib import Path

import pytest

from conductor.command_line import cli
from conductor.command_line.options import make_request
from conductor.command_line.presets import PRESETS, preset
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


def requested(*words: str) -> Request:
    return make_request(cli.read_options(list(words)))


def config(text: str) -> str:
    Path("config/study.toml").write_text(text)
    return "config/study.toml"


def test_a_config_gives_the_study_that_flags_give(monkeypatch):
    """Paths in it are relative to it, and the recorded command needs neither it nor its folder."""
    found = requested("--config", config(TOML))
    with monkeypatch.context() as patch:
        patch.chdir("config")
        wanted = requested(*FLAGS.split())
    assert found.protocol.hash == wanted.protocol.hash
    assert (found.trials, found.sampler, found.ablate) == (3, wanted.sampler, True)
    spaces = [Study(request, quiet())._spaces for request in (found, wanted)]
    assert [one.digest for one in spaces[0]] == [one.digest for one in spaces[1]]
    assert "--config" not in found.command
    again = requested(*found.command[2:])
    assert (again.protocol.hash, again.command) == (found.protocol.hash, found.command)


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
