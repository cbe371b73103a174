"""Whole studies by promotion, with rungs: grown, killed, on two workers, reproduced, exported."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from conductor.command_line.cli import main
from storage.files.layout import Layout
from storage.files.records import RunRecord, SearchRecord
from tests.support.tiny import (
    FLAGS,
    changed,
    hasten,
    interrupt,
    refuse,
    succeed,
    trials_of,
    without_openings,
)

RUNGS = ["--epochs", "6", "--trials", "4"]  # rungs at 1 and 2
FEWER = ["--epochs", "6", "--trials", "2"]
ARMS = ("scheduled", "plain")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("promoted")
    with pytest.MonkeyPatch.context() as patched:
        hasten(patched)
        assert main([*changed(FLAGS.split(), RUNGS), "--root", str(root)]) == 0
    return root


@pytest.fixture(autouse=True)
def _hastened(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


def attributes_of(root: Path, arm: str) -> list[dict[str, Any]]:
    return [row[6] for row in trials_of(root)[ARMS.index(arm)]]


@pytest.mark.parametrize("arm", ARMS)
def test_each_trial_has_a_record_with_the_whole_history_of_its_run(finished, arm):
    paths, told = Layout(finished).study("digits"), attributes_of(finished, arm)
    assert any("continues" in one for one in told)
    outcomes = set()
    for number, one in enumerate(told):
        record = RunRecord.read(paths.trial(arm, number).result)
        outcomes.add(record.outcome)
        assert [metrics.epoch for metrics in record.history] == [*range(1, one["until"] + 1)]
        if "continues" in one:
            before = RunRecord.read(paths.trial(arm, one["continues"]).result)
            assert record.history[: len(before.history)] == before.history
            assert (record.seed, record.recipe) == (before.seed, before.recipe)
    assert outcomes == {"paused", "complete"}


def test_what_the_search_has_learnt_is_recorded_when_it_ends(finished):
    record = SearchRecord.read(Layout(finished).study("digits").search)
    for arm in ARMS:
        learnt = record.arms[arm]
        assert learnt.trials == len(attributes_of(finished, arm))
        assert learnt.plane.names == [*learnt.importances][:2]


def test_a_trial_that_goes_on_is_reproduced_from_epoch_one(finished, capsys):
    told = attributes_of(finished, "plain")
    number, one = next((n, one) for n, one in enumerate(told) if "continues" in one)
    words = ["--trial", str(number), "--arm", "plain", "--workers", "inline"]
    assert main(["reproduce", "--root", str(finished), *words]) == 0
    end = f"trial {number} of plain: {one['until']} epochs, equal to the last bit\n"
    assert capsys.readouterr().out.endswith(end)


def test_a_study_that_grows_equals_one_of_its_size(finished, tmp_path, capsys):
    for words in (FEWER, RUNGS):
        succeed(tmp_path, capsys, *words)
    assert trials_of(tmp_path) == trials_of(finished)


def test_with_two_workers_it_is_the_same(finished, tmp_path, capsys):
    succeed(tmp_path, capsys, *RUNGS, "--workers", "2")
    assert trials_of(tmp_path) == trials_of(finished)


def test_killed_it_continues_to_the_same(finished, tmp_path, capsys, monkeypatch):
    interrupt(tmp_path, capsys, monkeypatch, *RUNGS)
    succeed(tmp_path, capsys, *RUNGS)
    assert without_openings(tmp_path) == without_openings(finished)


def test_without_its_checkpoints_a_study_grows_to_the_same(finished, tmp_path, capsys):
    """A paused run trains again from epoch 1."""
    succeed(tmp_path, capsys, *FEWER)
    kept = list(tmp_path.glob("digits/trials/*/*/checkpoint.safetensors"))
    assert kept
    for path in kept:
        path.unlink()
    succeed(tmp_path, capsys, *RUNGS)
    assert trials_of(tmp_path) == trials_of(finished)


@pytest.mark.parametrize("flags", [["--sampler", "tpe"], ["--pruner", "none"]])
def test_another_way_to_search_is_refused(finished, tmp_path, capsys, flags):
    root = Path(shutil.copytree(finished, tmp_path / "copied"))
    said = refuse(root, capsys, *RUNGS, *flags)
    assert "was begun with a search by promotion; omit --sampler and --pruner" in said


@pytest.mark.parametrize("epochs", ["1", "2", "4"])
def test_short_horizons_have_no_rungs_and_each_trial_is_a_whole_run(tmp_path, capsys, epochs):
    words = ["--epochs", epochs, "--trials", "2", "--arms", "plain"]
    succeed(tmp_path, capsys, *words)
    rows = trials_of(tmp_path, arms=["plain"])[0]
    assert [(row[1], row[6]["until"]) for row in rows] == 2 * [("COMPLETE", int(epochs))]
    learnt = SearchRecord.read(Layout(tmp_path).study("digits").search)
    assert learnt.arms == {}  # of two runs nothing
