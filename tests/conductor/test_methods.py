"""Samplers and pruners are files: one more file is one more, wherever a name is taken."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

import conductor.search.pruners
import conductor.search.samplers
from conductor.request import Request
from conductor.search.methods import make_pruner, make_sampler
from conductor.search.pruners import PRUNERS
from conductor.search.samplers import SAMPLERS
from kd.errors import ProtocolError
from tests.support import fakes

ROOT = Path(__file__).parents[2]
SAMPLER = '''"""A grid of one point."""
from optuna.samplers import GridSampler


def make(seed, startup, past):
    return GridSampler({"lr": [0.1]}, seed=seed)
'''
PRUNER = '''"""Patient."""
from optuna.pruners import PatientPruner


def make(horizon):
    return PatientPruner(None, patience=horizon)
'''


@pytest.fixture
def more(tmp_path, monkeypatch):
    """A folder with a sampler and one with a pruner, beside those of the project."""
    for package, name, text in (
        (conductor.search.samplers, "one_point", SAMPLER),
        (conductor.search.pruners, "patient", PRUNER),
    ):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    return tmp_path


def request(**changed: str) -> Request:
    return Request(
        name="study",
        root=Path("runs"),
        protocol=fakes.protocol(),
        spaces=["plain"],
        command=[],
        **changed,
    )


def test_one_more_file_is_one_more_sampler_and_one_more_pruner(more):
    assert request(sampler="one-point", pruner="patient").sampler == "one-point"
    assert isinstance(make_sampler("one-point", 0), optuna.samplers.GridSampler)
    assert isinstance(make_pruner("patient", 5), optuna.pruners.PatientPruner)
    with pytest.raises(ProtocolError, match=r"'one-pint'; did you mean one-point\?"):
        request(sampler="one-pint")
    with pytest.raises(ProtocolError, match="known: halving, hyperband, median, none, patient, q"):
        request(pruner="x")


def test_one_more_file_is_listed_in_the_help(more):
    code = (
        "import conductor.search.samplers as samplers\n"
        f"samplers.__path__.append({str(more / 'conductor.search.samplers')!r})\n"
        "from conductor.command_line.cli import main\n"
        "main(['run', '--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "gp, one-point, random, tpe" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", SAMPLERS.names)
def test_every_sampler_is_made_and_described(name):
    assert isinstance(make_sampler(name, 2**40), optuna.samplers.BaseSampler)
    assert SAMPLERS.describe(name)


@pytest.mark.parametrize("name", PRUNERS.names)
def test_every_pruner_is_made_and_described(name):
    assert isinstance(make_pruner(name, 1), optuna.pruners.BasePruner)
    assert PRUNERS.describe(name)
