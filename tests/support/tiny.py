"""The tiniest whole study, run by its command in this process, and what must not change in it."""

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from conductor.command_line.cli import main
from storage.files.layout import Layout
from storage.studies.databases import close_storage, open_storage
from tests.support.fakes import rows
from workers.events import EpochDone
from workers.pools.inline import InlinePool

FLAGS = (
    "--train-size 60 --image-size 8 --teacher resnet8-w0.25 --student resnet8-w0.25 "
    "--teacher-epochs 1 --epochs 2 --batch-size 16 --seeds 1 --trials 2 --workers inline"
)
ARMS = ("scheduled", "plain")
TIMES = ("seconds", "started", "created", "time", "median_ms", "p95_ms", "latency", "written")


def changed(flags: Sequence[str], more: Sequence[str]) -> list[str]:
    """The words of a command without the flags, and their values, that `more` gives; then these."""
    kept, flag = [], ""
    for word in flags:
        flag = word if word.startswith("--") else flag
        kept += [word] * (flag not in more)
    return [*kept, *more]


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes time and is tested elsewhere: syncs, latency, figures, kernels."""
    leave_kernels_out(monkeypatch)
    monkeypatch.setattr("workers.runners.measuring.REPEATS", 2)
    monkeypatch.setattr("reports.write.report.render_page", lambda *found: "a page")


def leave_kernels_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all kernels for right, without the process that tests them for each new protocol."""
    monkeypatch.setattr("workers.runners.kernels._run_test", lambda job, instruction_set: ("", ""))


def run(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    """Run the study under `root`; return the exit code and what it said on standard error."""
    capsys.readouterr()
    code = main([*changed(FLAGS.split(), more), "--root", str(root)])
    return code, capsys.readouterr().err


def succeed(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    code, said = run(root, capsys, *more)
    assert (code, said) == (0, "")


def refuse(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run the study, which must end with one line of error; return that line."""
    code, said = run(root, capsys, *more)
    assert_one_line(code, said)
    return said


def assert_one_line(code: int, said: str) -> None:
    assert code == 2, said
    assert said.startswith("study.py: "), said
    assert said.count("\n") == 1, said


def interrupt(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str
) -> None:
    """Leave the study as a kill does after an epoch of its second trial."""

    class KilledError(BaseException):
        """Nothing in the project catches it."""

    events, epochs = InlinePool.events, iter(range(1000))

    def die(self: InlinePool, timeout: float | None = None) -> Any:
        heard = events(self, timeout)
        if heard and isinstance(heard[0][1], EpochDone) and next(epochs) == 3:
            raise KilledError
        return heard

    with monkeypatch.context() as patch:
        patch.setattr(InlinePool, "events", die)
        with pytest.raises(KilledError):
            run(root, capsys, *more)
    settle(root)


def settle(root: Path) -> None:
    """Write SQLite's log into its file, as closing the last connection does."""
    with closing(sqlite3.connect(root / "studies.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def results(root: Path, name: str = "digits", arms: Sequence[str] = ARMS) -> dict[str, Any]:
    """Return the trials and the report of a finished study, without times."""
    text = Layout(root).study(name).report_json.read_text()
    report = json.loads(re.sub(r"--root \S+", "--root ROOT", text))
    return {"trials": trials_of(root, name, arms), "report": timeless(report)}


def without_openings(root: Path) -> dict[str, Any]:
    """Return the results; a run that is tested again opens the seal again, and the report says so.

    What it says of how much was cached depends on the free disk.
    """
    found = results(root)
    found["openings"] = {opening["purpose"] for opening in found["report"].pop("seal")}
    for key in ("caveats", "ledger"):
        found["report"].pop(key)
    return found


def trials_of(root: Path, name: str = "digits", arms: Sequence[str] = ARMS) -> Any:
    """Return the rows of the arms, without times."""
    storage = open_storage(Layout(root).studies_url)
    try:
        names = [f"{name}.{arm}" for arm in arms]
        studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
        return timeless([rows(study) for study in studies])
    finally:
        close_storage(storage)


def timeless(value: Any) -> Any:
    """Return a value without the entries that differ from run to run."""
    if isinstance(value, dict):
        return {
            key: timeless(kept)
            for key, kept in value.items()
            if key not in TIMES and not str(key).startswith("artifacts:") and key != "digest"
        }
    if isinstance(value, list | tuple):
        return [timeless(item) for item in value]
    return value
