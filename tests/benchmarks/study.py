"""Whole studies: two workers against one, what of a study is overhead, and the usual loop.

The default study is run once, with its clock beginning when the first worker has started. Beside
it runs what an engineer would write in an afternoon (`naive.py`): the same models, split, horizon
and number of trials. That loop's spaces are narrower: it has no feature losses and one shape of
schedule.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

from storage.files.layout import Layout
from storage.files.records import RunRecord
from tests.benchmarks.harness import Figure, spread
from tests.benchmarks.recording import Recording, record

ROUNDS = 3
ARMS = ("scheduled", "plain")
STAGES = ("ShardJob", "trials", "selection", "confirm")
WHOLE = ("ShardJob", "selection", "confirm")  # jobs that count from their start to their end
# Of these there is one at a time: no other worker could do anything.
SPENT = ("TeacherJob", "ProjectionJob", "TeacherTestJob", "CostJob")
TINY = ("--epochs", "4", "--teacher-epochs", "2", "--train-size", "200")


def figures(quick: bool) -> Iterator[Figure]:
    """Yield what two workers gain, what the default study spends, and how the usual loop fares."""
    more = TINY if quick else ()
    with TemporaryDirectory() as folder:
        yield _two_workers(Path(folder), 2 if quick else 20, 1 if quick else ROUNDS, more)
    trials, seeds = (2, 1) if quick else (20, 6)
    flags = ("--trials", str(trials), "--seeds", str(seeds), *more)
    with TemporaryDirectory() as folder:
        whole = record(Path(folder), *flags)
        yield from _shares(whole)
        rounds = [_Round(whole, _loop(Path(folder), trials))]
        best = {arm: _best(Path(folder), arm) for arm in ARMS}
    for _ in range(0 if quick else ROUNDS - 1):
        with TemporaryDirectory() as folder:
            searched = record(Path(folder), *flags, search_only=True)
            rounds.append(_Round(searched, _loop(Path(folder), trials)))
    yield from _against_the_loop(rounds, best, trials)


@dataclass(frozen=True, slots=True)
class _Round:
    """One search by Retort, and the usual loop's that followed it."""

    ours: Recording
    loop: dict[str, Any]

    def times(self, *, teacher: bool) -> tuple[float, float]:
        """Seconds of both, with or without what comes before the search."""
        if teacher:
            return self.ours.searched_from_nothing, self.loop["teacher"] + self.loop["search"]
        return self.ours.search, self.loop["search"]


def _two_workers(root: Path, trials: int, rounds: int, more: tuple[str, ...]) -> Figure:
    """Compare two workers of one thread with one of two, in turn, on trials that none prunes.

    With the random sampler both train the same recipes, though their bits differ.
    """
    values, times = [], []
    flags = ("--sampler", "random", "--pruner", "none", "--trials", str(trials), *more)
    for number in range(rounds):
        pair = {}
        for workers, threads in ((2, 1), (1, 2)) if number % 2 else ((1, 2), (2, 1)):
            name = ("--name", f"{workers}-{number}", "--threads", str(threads))
            done = record(root, *flags, *name, workers=workers, search_only=True)
            pair[workers] = done.search
        values.append(pair[1] / pair[2])
        times.append([trials * len(ARMS) * 3600 / pair[workers] for workers in (2, 1)])
    two, one = (mean(column) for column in zip(*times, strict=True))
    note = f"{two:.0f} against {one:.0f} trials an hour, none pruned"
    what = "trials an hour: 2 workers of 1 thread / 1 worker of 2 threads, default study"
    return spread(what, values, goal=1.6, at_least=True, note=note)


def _shares(study: Recording) -> Iterator[Figure]:
    """Yield shares of the workers' time in which nothing is done that a study is for.

    A worker that is without a job since a stage has none left, while another trains, is no
    overhead, but is not busy either: it is told apart.
    """
    total = study.workers * (study.ended - study.begun)
    alone = study.workers * sum(one.seconds for one in study.spans if one.kind in SPENT)
    whole = sum(one.seconds for one in study.spans if one.kind in WHOLE)
    trained = sum(one.trained for one in study.trials)
    beside = sum(one.seconds - one.trained for one in study.trials)
    tails = sum(_tail(study, stage) for stage in STAGES)
    report = study.workers * (study.ended - max(one.ended for one in study.spans))
    overhead = total - alone - whole - trained - tails
    note = f"of {study.workers} workers for {total / study.workers:.1f} s; start-up aside"
    yield _share("worker time of the default study: overhead", overhead / total, 5.0, note)
    yield _share("of it: in trials, but not in an epoch", beside / total)
    yield _share("of it: the report, with its imports", report / total)
    rest = (overhead - beside - report) / total
    yield _share("of it: data, supervisor, records", rest)
    note = "at the end of shards, search, selection and confirmation"
    yield _share("beside it: no job left, while another worker trains", tails / total, note=note)


def _share(what: str, share: float, goal: float | None = None, note: str = "") -> Figure:
    return spread(what, [100 * share], unit="%", goal=goal, note=note)


def _tail(study: Recording, stage: str) -> float:
    """Seconds of workers without a job, from the start of a stage's last job to its end."""
    spans = [one for one in study.spans if one.kind == stage]
    if not spans:
        return 0.0
    last, end = spans[-1].begun, max(one.ended for one in spans)
    busy = sum(max(0.0, one.ended - max(one.begun, last)) for one in spans)
    return study.workers * (end - last) - busy


def _against_the_loop(
    rounds: list[_Round], best: dict[str, float], trials: int
) -> Iterator[Figure]:
    for what, teacher, goal in (
        ("search / the usual Optuna loop, teacher aside", False, 1 / 5),
        ("teacher, cache and search / the usual loop with its teacher", True, 1 / 3),
    ):
        times = [one.times(teacher=teacher) for one in rounds]
        ours, theirs = (median(column) for column in zip(*times, strict=True))
        note = f"{ours:.1f} s against {theirs:.1f} s; both arms, {trials} trials each"
        yield spread(what, [over / under for over, under in times], goal=goal, note=note)
    for arm in ARMS:
        yield spread(
            f"best validation accuracy, {arm}",
            [100 * best[arm]],
            unit="%",
            note=f"the usual loop: {100 * rounds[0].loop['best'][arm]:.1f} %",
        )


def _loop(root: Path, trials: int) -> dict[str, Any]:
    """Run the usual loop in a process of its own, beside the default study below `root`."""
    command = [sys.executable, "-m", "tests.benchmarks.naive", str(root), "digits", str(trials)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _best(root: Path, arm: str) -> float:
    folder = Layout(root).study("digits").trial(arm, 0).folder.parent
    records = [RunRecord.read(path) for path in folder.glob("*/result.json")]
    return max(one.objective(0.0) for one in records if one.outcome == "complete")
