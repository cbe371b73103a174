"""A study with two teachers, from the command line: shared, continued, reported, reproduced."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conductor.command_line.cli import main
from conductor.stages.provenance import read_context
from kd.recipe import Recipe
from storage.files.layout import Layout, StudyLayout
from storage.files.records import RunRecord
from storage.files.seal import openings
from tests.support.ground import history
from tests.support.processes import ROOT
from tests.support.small import PLAIN
from tests.support.tiny import FLAGS, changed, hasten
from workers.events import Result
from workers.execute import execute
from workers.jobs import TrainJob

ONE, TWO = "resnet8-w0.25", "resnet14-w0.25"
BOTH = ["--teacher", ONE, "--teacher", TWO]
SECONDS = 300  # that a test waits for what happens soon, on a machine under load
HINT = Recipe(
    soft_kind="kl",
    alpha=replace(PLAIN.alpha, initial=0.5, final=0.5),
    feature_kind="hint",
    feature_weight=1.0,
    feature_taps=("last1",),
)


@pytest.fixture(scope="module", autouse=True)
def _without_what_only_takes_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        yield


def words(root: Path, *more: str) -> list[str]:
    return [*changed(shlex.split(FLAGS), [*BOTH, "--trials", "3", *more]), "--root", str(root)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyLayout:
    root = tmp_path_factory.mktemp("both")
    assert main(words(root)) == 0
    return Layout(root).study("digits")


def report(study: StudyLayout) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(study.report_json.read_text())
    assert found["study"]["missing"] == []
    return found


def test_the_report_has_both_teachers_and_every_recipe_s_shares(finished: StudyLayout) -> None:
    found = report(finished)
    assert [one["model"] for one in found["teachers"]] == [ONE, TWO]
    assert all(one["test"] and one["interval"] for one in found["teachers"])
    best = max(found["teachers"], key=lambda one: one["validation_accuracy"])
    assert [one for one in found["teachers"] if one["is_reference"]] == [best]
    costs = json.loads(finished.costs.read_text())["models"]
    assert [costs[role]["model"] for role in ("teacher", "teacher 2")] == [ONE, TWO]
    for one in found["finalists"]:
        shares = one["recipe"]["teacher_shares"]
        assert len(shares) == (0 if one["arm"] == "plain" else 2)
    assert found["finalists"][1]["recipe"]["teacher_shares"] == [0.5, 0.5]  # classic
    purposes = [one.purpose for one in openings(finished.seal)]
    assert purposes[-2:] == ["the teacher", "teacher 2"]


def test_a_study_with_one_of_them_finds_teacher_and_cache(
    finished: StudyLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    root = finished.folder.parent
    alone = ["--teacher", TWO, "--name", "alone", "--trials", "1"]
    assert main([*changed(words(root), alone)]) == 0
    said = capsys.readouterr().out
    assert f"teacher: {TWO}, found, " in said
    assert re.search(r"teacher cache: 2 views, .*, 2 found", said)


def trained(study: StudyLayout, folder: Path, recipe: Recipe, **changes: Any) -> list[Any]:
    """Train a run of the study in `folder`; return its epochs."""
    context = replace(read_context(study), **changes)
    run = {"seed": 3, "horizon": 2, "views": [0, 1], "folder": str(folder)}
    job = context.job(TrainJob, recipe=recipe, **run)
    events = list(execute(job, torch.device("cpu"), lambda: False))
    assert isinstance(events[-1], Result), events[-1]
    return history(events)


def test_a_share_of_1_is_that_teacher_alone_to_the_last_bit(
    finished: StudyLayout, tmp_path: Path
) -> None:
    chosen = trained(finished, tmp_path / "chosen", replace(HINT, teacher_shares=(0.0, 1.0)))
    alone = read_context(finished).with_teacher(1)
    same = {"protocol": alone.protocol, "teachers": alone.teachers, "shards": alone.shards}
    assert chosen == trained(finished, tmp_path / "alone", HINT, **same)
    other = trained(finished, tmp_path / "other", replace(HINT, teacher_shares=(1.0, 0.0)))
    assert other != chosen


def test_shares_arrive_and_the_cached_average_is_that_of_live_teachers(
    finished: StudyLayout, tmp_path: Path
) -> None:
    recipe = replace(HINT, teacher_shares=(0.3, 0.7))
    cached = trained(finished, tmp_path / "cached", recipe)
    live = trained(finished, tmp_path / "live", recipe, cache="none")
    for one, other in zip(cached, live, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert cached != trained(finished, tmp_path / "equal", HINT)


def test_both_caches_are_verified_and_a_damaged_one_is_found(
    finished: StudyLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    root = finished.folder.parent
    places = ["--root", str(root), "--name", "digits", "--workers", "inline"]
    assert main(["verify", *places]) == 0
    said = capsys.readouterr().out
    assert f"2 views agree with the teacher {ONE} to " in said
    assert f"2 views agree with the teacher {TWO} to " in said
    assert main(["reproduce", "--trial", "1", *places]) == 0
    assert "equal to the last bit" in capsys.readouterr().out


def runs(study: StudyLayout) -> dict[str, Any]:
    """Return by folder what every run of a study must repeat."""
    found = {}
    for path in study.folder.glob("*/*/*/result.json"):  # of trials and of confirmation
        one = RunRecord.read(path)
        curve = [(each.epoch, each.accuracy, each.loss) for each in one.history]
        found[str(path.relative_to(study.folder))] = (one.recipe, one.seed, curve, one.test)
    return found


@pytest.mark.slow
def test_a_study_killed_between_its_teachers_and_amid_its_search_ends_as_an_uninterrupted_one(
    finished: StudyLayout, tmp_path: Path
) -> None:
    study = Layout(tmp_path).study("digits")
    command = [sys.executable, str(ROOT / "study.py"), *words(tmp_path, "--workers", "1")]
    for moment in (f"^teacher: {ONE}, trained", "^scheduled 1: "):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            try:
                assert process.stdout
                assert any(re.search(moment, line) for line in process.stdout)
                process.send_signal(signal.SIGKILL)
                process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert main(words(tmp_path)) == 0
    assert runs(study) == runs(finished)
