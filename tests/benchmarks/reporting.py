"""Time and size of the report of a large study, which is fabricated: every trial to its last epoch.

Optuna takes some 20 ms to add a trial to SQLite, so a part of the study is fabricated, and then
multiplied, in the database and on disk.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from reports.write.report import write_report
from storage.studies.studies import study_name
from tests.benchmarks.harness import Figure, seconds, spread
from tests.support.study_fixture import Fabricated, Plan, fabricate

EPOCHS = 30
PART = 250  # trials of an arm that are fabricated
# trials of each of two arms: rounds, and at most so many seconds and MB
SIZES = {500: (3, 10.0, 8.0), 5000: (1, 60.0, 20.0)}
QUICK = {20: (1, 10.0, 8.0)}
TABLES = ("trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes")


def figures(quick: bool) -> Iterator[Figure]:
    """Yield seconds and size of reports of 1,000 and of 10,000 trials."""
    for trials, (rounds, most_seconds, most_megabytes) in (QUICK if quick else SIZES).items():
        with TemporaryDirectory() as folder:
            made = large_study(Path(folder), trials)
            write = partial(write_report, made.layout, made.name, made.url)
            times = [seconds(write) for _ in range(rounds)]
            what = f"report of {2 * trials:,} trials x {EPOCHS} epochs"
            yield spread(what, times, unit="s", goal=most_seconds)
            megabytes = made.study.report_html.stat().st_size / 1e6
            yield spread(f"{what}, its size", [megabytes], unit="MB", goal=most_megabytes)


def large_study(root: Path, trials: int) -> Fabricated:
    """Fabricate a study below `root` with so many trials an arm, a multiple of PART if above it."""
    part = min(trials, PART)
    with mock.patch("tests.support.study_fixture._until_cut", lambda history, before: history):
        made = fabricate(root, Plan(trials=part, epochs=EPOCHS))
    database = sqlite3.connect(root / "studies.db")
    for arm in made.plan.arms:
        there = len(list(made.study.trial(arm, 0).folder.parent.iterdir()))  # one more than counts
        for copy in range(1, trials // part):
            _copy_rows(database, study_name(made.name, arm), there, copy)
            for number in range(there):
                source = made.study.trial(arm, number).folder
                shutil.copytree(source, made.study.trial(arm, copy * there + number).folder)
    database.commit()
    database.close()
    return made


def _copy_rows(database: sqlite3.Connection, study: str, there: int, copy: int) -> None:
    """Add the first `there` trials of an Optuna study again, under the numbers that come next."""
    (study_id,) = database.execute(
        "SELECT study_id FROM studies WHERE study_name = ?", (study,)
    ).fetchone()
    (last,) = database.execute("SELECT max(trial_id) FROM trials").fetchone()
    first = "number < ? AND study_id = ?"
    database.execute(
        "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete)"
        " SELECT trial_id + ?, number + ?, study_id, state, datetime_start, datetime_complete"
        f" FROM trials WHERE {first}",
        (last, copy * there, there, study_id),
    )
    for table in TABLES:
        names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        columns = ", ".join(names[2:])  # what comes first is a key of its own, and trial_id
        database.execute(
            f"INSERT INTO {table} (trial_id, {columns}) SELECT trial_id + ?, {columns}"
            f" FROM {table} WHERE trial_id IN (SELECT trial_id FROM trials WHERE {first})",
            (last, there, study_id),
        )
