"""A study of two own spaces and an own sampler, with `--fix`, `--range` and `--warm-start`."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conductor.command_line.cli import main
from storage.files.layout import Layout
from storage.files.records import Finalists, RunRecord
from tests.support.processes import ROOT
from tests.support.tiny import FLAGS, changed, hasten, results

SECONDS = 300  # that a test waits for what happens soon, on a machine under load
ARMS = ("warm", "mixed", "plain")
FILES = {
    "warm.py": """
from dataclasses import replace

from kd.recipe import Schedule
from search_spaces import plain


def suggest(trial, study):
    warmth = Schedule.constant(trial.suggest_float("temperature", 1, 9))
    alpha = Schedule.constant(0.5)
    return replace(plain.suggest(trial, study), soft_kind="kl", temperature=warmth, alpha=alpha)
""",
    "mixed.py": """
from dataclasses import replace

from kd.recipe import Schedule
from search_spaces import plain


def suggest(trial, study):
    alpha = Schedule.constant(trial.suggest_float("alpha", 0.1, 1))
    kind = trial.suggest_categorical("soft_kind", ["kl", "dist"])
    return replace(plain.suggest(trial, study), soft_kind=kind, alpha=alpha)
""",
    "samplers.py": """
from optuna.samplers import RandomSampler


def make(seed):
    return RandomSampler(seed)
""",
}
SCRIPT = """
import sys

import pytest

from conductor.command_line.cli import main
from tests.support.tiny import hasten

hasten(pytest.MonkeyPatch())
sys.exit(main(sys.argv[1:]))
"""


def words(files: Path, root: Path) -> list[str]:
    """Return the command of the study `new`, which takes recipes from the study `digits`."""
    spaces = [word for file in ("warm.py", "mixed.py") for word in ("--space", str(files / file))]
    flags = ["--fix", "temperature=4", "--range", "alpha=0.2:0.3", "--warm-start", "digits"]
    flags += ["--sampler", f"{files}/samplers.py:make", "--optimizer", "adamw", "--trials", "3"]
    flags += ["--epochs", "4", "--name", "new", *spaces]
    return [*changed(FLAGS.split(), flags), "--root", str(root)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a study of which an arm's tuned recipe is not one that it tried first."""
    root = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert main([*FLAGS.split(), "--sampler", "tpe", "--root", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def undisturbed(earlier: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(earlier, tmp_path_factory.mktemp("whole") / "runs"))
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert main(words(files, root)) == 0
    return root


@pytest.mark.slow
def test_every_arm_trains_with_what_the_flags_say(undisturbed: Path, earlier: Path) -> None:
    paths = Layout(undisturbed).study("new")
    recipes = {
        arm: [RunRecord.read(paths.trial(arm, number).result).recipe for number in range(3)]
        for arm in ARMS
    }
    assert {one.temperature.ends for one in recipes["warm"]} == {(4, 4)}
    alphas = {one.alpha.initial for one in recipes["mixed"]}
    assert len(alphas) == 3
    assert all(0.2 <= alpha <= 0.3 for alpha in alphas)
    there = Finalists.read(Layout(earlier).study("digits").finalists).finalists
    [tuned] = [one.recipe for one in there if (one.arm, one.role) == ("plain", "tuned")]
    assert tuned.lr not in {one.lr for one in recipes["warm"]}
    assert recipes["plain"][1].lr == tuned.lr  # after the arm's own first recipe
    titles = {one.title for one in Finalists.read(paths.finalists).finalists}
    assert "tuned plain of digits" in titles


@pytest.mark.slow
def test_killed_and_continued_it_ends_as_if_it_were_not(
    undisturbed: Path, earlier: Path, files: Path, tmp_path: Path, monkeypatch
) -> None:
    """It reads the other study once: that may be gone when it continues."""
    root = Path(shutil.copytree(earlier, tmp_path / "runs"))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *words(files, root)], cwd=ROOT)
    try:
        deadline = time.monotonic() + SECONDS
        while not [*root.glob("new/trials/*/00001/checkpoint.safetensors")]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not Layout(root).study("new").finalists.exists()
    shutil.rmtree(root / "digits")
    hasten(monkeypatch)
    assert main(words(files, root)) == 0
    assert results(root, "new", ARMS) == results(undisturbed, "new", ARMS)
