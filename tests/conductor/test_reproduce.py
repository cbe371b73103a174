"""Runs trained again from their records: equal to the last bit, or the first figure that is not."""

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from conductor.command_line.cli import main
from conductor.stages.provenance import kernels_change, kernels_so_far, versions_change
from conductor.tools.reproducing import first_difference
from kd.protocol import Protocol
from storage.files.artifacts import read_record
from storage.files.layout import Layout, RunLayout, StudyLayout
from storage.files.records import Finalists, RunRecord, StudySettings
from tests.support.tiny import assert_one_line, hasten


@pytest.fixture(autouse=True)
def _hastened(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture
def copied(tiny_study, tmp_path) -> StudyLayout:
    """A copy of that study, whose record a test may change."""
    shutil.copytree(tiny_study, tmp_path / "runs")
    return Layout(tmp_path / "runs").study("digits")


def reproduce(root: Path, capsys, *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, and what was said on both outputs."""
    capsys.readouterr()
    code = main(["reproduce", "--root", str(root), "--workers", "inline", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def contents(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def trial(paths: StudyLayout, number: int = 1) -> tuple[RunLayout, RunRecord]:
    run = paths.trial("scheduled", number)
    return run, RunRecord.read(run.result)


@pytest.mark.parametrize("arm", ["scheduled", "plain"])
def test_a_trial_is_repeated_to_the_last_bit_and_nothing_of_the_study_changes(
    tiny_study, capsys, arm
):
    before = contents(tiny_study)
    code, said, _ = reproduce(tiny_study, capsys, "--trial", "1", "--arm", arm)
    assert code == 0
    assert said.endswith(f"trial 1 of {arm}: 2 epochs, equal to the last bit\n")
    assert contents(tiny_study) == before
    assert not list(tiny_study.glob("digits/.reproduce-*"))


def test_a_confirmation_run_is_repeated_without_opening_the_test_split(tiny_study, capsys):
    before = contents(tiny_study)
    chosen = Finalists.read(Layout(tiny_study).study("digits").finalists)
    name = chosen.finalists[0].name
    code, said, _ = reproduce(tiny_study, capsys, "--finalist", name)
    assert (code, said.splitlines()[-1]) == (
        0,
        f"replicate 0 of {name}: 2 epochs, equal to the last bit",
    )
    assert contents(tiny_study) == before


def test_a_pruned_trial_is_trained_to_the_epoch_where_it_was_cut(copied, capsys, monkeypatch):
    run, record = trial(copied)
    replace(record, outcome="pruned", history=record.history[:1]).write(run.result)
    from workers.runners import training as runs

    write, trained = runs.write_checkpoint, []
    monkeypatch.setattr(runs, "write_checkpoint", lambda *given: (trained.append(1), write(*given)))
    code, said, _ = reproduce(copied.folder.parent, capsys, "--trial", "1")
    assert code == 0
    assert "1 epoch, equal to the last bit" in said
    assert len(trained) == 1


def test_the_first_figure_that_differs_is_named_with_what_may_explain_it(copied, capsys):
    run, record = trial(copied)
    first, last = record.history
    changed = replace(last, nll=last.nll + 0.25, loss=last.loss + 1)
    replace(record, history=[replace(first, seconds=99.0), changed]).write(run.result)
    settings = StudySettings.read(copied.settings)
    old = replace(settings, versions={**settings.versions, "torch": "2.9.0"})
    old.write(copied.settings)
    code, said, _ = reproduce(copied.folder.parent, capsys, "--trial", "1")
    assert code == 1
    assert f"differs from epoch 2 on: nll was {changed.nll}, is {last.nll} (0.25 apart)" in said
    assert "so do loss\n" in said
    assert "possible reasons: torch was 2.9.0, is " in said


def test_without_a_known_reason_the_cache_is_to_be_checked(copied, capsys):
    run, record = trial(copied)
    changed = replace(record.history[0], alpha=0.123)
    replace(record, history=[changed, record.history[1]]).write(run.result)
    code, said, _ = reproduce(copied.folder.parent, capsys, "--trial", "1")
    assert code == 1
    assert "differs from epoch 1 on: alpha was 0.123" in said
    advice = f"python study.py verify --root {copied.folder.parent} --name digits"
    assert said.splitlines()[-1].endswith(advice)


def test_a_run_diverges_again_in_the_same_step_or_it_differs(tiny_study):
    _, record = trial(Layout(tiny_study).study("digits"))
    reason = "the loss is not finite at step 2 of epoch 2"
    diverged = replace(record, outcome="diverged", reason=reason, history=record.history[:1])
    assert first_difference(diverged, record.history[:1], reason) is None
    later = first_difference(diverged, record.history, "")
    assert later == (
        f"its common epochs are equal, but it had 1 epoch, then: {reason}; now it has 2 epochs"
    )
    assert first_difference(diverged, record.history[:1], reason.replace("2 of", "3 of"))
    assert first_difference(record, record.history[:1], reason)
    assert first_difference(record, record.history, "") is None


REFUSED = {
    "a trial that is not there": (["--trial", "7"], "trial 7 of scheduled has not ended"),
    "an arm": (["--trial", "0", "--arm", "x"], "unknown arm of study digits 'x'; known: scheduled"),
    "a finalist": (["--finalist", "x"], "unknown finalist of study digits 'x'; known: "),
    "a finalist without a name": (
        ["--finalist", ""],
        "unknown finalist of study digits ''; known: ",
    ),
    "a replicate": (["--finalist", "scheduled-00000", "--replicate", "5"], "replicate 5 of sched"),
    "nothing": ([], "one of the arguments --trial --finalist is required"),
    "both": (["--trial", "0", "--finalist", "x"], "not allowed with argument"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_repeated_costs_one_line(tiny_study, capsys, what):
    arguments, message = REFUSED[what]
    code, _, said = reproduce(tiny_study, capsys, *arguments)
    assert_one_line(code, said)
    assert message in said


def test_a_trial_that_a_machine_failed_is_not_repeated(copied, capsys):
    run, record = trial(copied)
    replace(record, outcome="failed", reason="worker 12 died", history=[]).write(run.result)
    code, _, said = reproduce(copied.folder.parent, capsys, "--trial", "1")
    assert_one_line(code, said)
    assert "failed because of the machine: worker 12 died" in said


@pytest.mark.parametrize(
    ("was", "now", "kept"),
    [
        ("", "wide", "wide"),
        ("wide", "wide", "wide"),
        ("narrow", "wide", "narrow; then wide"),
        ("narrow; then wide", "wide", "narrow; then wide"),
        ("narrow; then wide", "narrow", "narrow; then wide; then narrow"),
        ("narrow", "", ""),
    ],
)
def test_a_study_that_continues_with_other_kernels_names_those_of_every_session(was, now, kept):
    assert kernels_so_far(was, now) == kept


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("one", "two", "kernels: this study was computed with one, and continues with two: "),
        ("one; then two", "one", "kernels: this study was computed with two, and continues with "),
        ("one; then two", "two", ""),
        ("one", "", ""),
    ],
)
def test_a_study_that_continues_with_other_kernels_prints_it(tiny_study, was, now, said):
    kept = StudySettings.read(Layout(tiny_study).study("digits").settings)
    line = kernels_change(replace(kept, machine={**kept.machine, "kernels": was}), now)
    assert line.startswith(said)
    assert bool(line) == bool(said)


def test_a_study_that_continues_with_other_libraries_prints_it(tiny_study):
    paths = Layout(tiny_study).study("digits")
    kept, now = StudySettings.read(paths.settings), read_record(paths.protocol, Protocol)
    assert versions_change(kept, now) == ""
    older = replace(kept, versions={**kept.versions, "optuna": "4.0", "gone": "1"})
    line = versions_change(older, now)
    assert line.startswith(
        f"versions: this study was begun with optuna 4.0, now {version('optuna')}: "
    )
    assert "gone" not in line


def test_the_same_command_with_other_kernels_reports_it_and_keeps_both(copied, capsys, monkeypatch):
    kept = StudySettings.read(copied.settings)
    replace(kept, machine={**kept.machine, "kernels": "oneDNN 1"}).write(copied.settings)
    monkeypatch.setattr("workers.runners.kernels.kernels_used", lambda: "oneDNN 2")
    assert main(["--root", str(copied.folder.parent), "--workers", "inline"]) == 0
    line = "\nkernels: this study was computed with oneDNN 1, and continues with oneDNN 2: "
    assert line in capsys.readouterr().out
    machine = StudySettings.read(copied.settings).machine
    assert machine["kernels"] == "oneDNN 1; then oneDNN 2"
