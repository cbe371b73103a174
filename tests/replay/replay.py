"""Replays searches over recorded learning curves, without training.

    make replay        writes docs/replay.md, by which the defaults are chosen; takes about an hour

`searches.py` has the methods, `tables.py` the curves, which `record.py` trained.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import GPSampler, TPESampler
from scipy.stats import kendalltau

from conductor.search.methods import STARTUP_TRIALS
from conductor.search.promotion.rungs import rungs_of
from tests.benchmarks.machine import described
from tests.replay.searches import Learning, Method, Promotion, Proposer, Searched, Whole, search
from tests.replay.tables import MEAN, SEEDS, SIGNALS, Floats, Table, complete_tasks, read_table
from tests.support.processes import commit

BUDGET = 40  # trainings' worth of epochs
LOOKS = (10, 20, 40)  # budgets at which regret is told
SELECTIONS = (20, 40)  # budgets in all, with a selection
SELECTED = 3  # recipes, and fresh seeds of each
SEARCHES = 200
FEWER = 40  # of a method whose decisions take long
PAGE = Path(__file__).parents[2] / "docs" / "replay.md"


@dataclass(frozen=True, slots=True)
class Entry:
    """A method of the comparison, in words; `make` makes it for a table and a seed."""

    name: str
    make: Callable[[Table, int], Method]
    lags: tuple[int, ...] = (4,)
    searches: int = SEARCHES


def _tpe(table: Table, seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        startup = STARTUP_TRIALS
        return TPESampler(n_startup_trials=startup, multivariate=True, group=True, seed=seed)


def _gp(seed: int) -> GPSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return GPSampler(
            n_startup_trials=STARTUP_TRIALS, seed=seed, warn_independent_sampling=False
        )


ENTRIES = (
    Entry("random", lambda table, seed: Whole()),
    Entry(
        "TPE, median pruner (default until now)",
        lambda table, seed: Whole(Proposer(table, _tpe(table, seed)), "median"),
    ),
    Entry(
        "TPE, halving by the early signal (BOHB)",
        lambda table, seed: Whole(Proposer(table, _tpe(table, seed)), "halving"),
    ),
    Entry(
        "Optuna's GPSampler",
        lambda table, seed: Whole(Proposer(table, _gp(seed))),
        searches=FEWER,
    ),
    Entry("promotion, random recipes (ASHA)", lambda table, seed: Promotion(), lags=(1, 4, 16)),
    Entry(
        "promotion, surrogate and repeats (the default)",
        lambda table, seed: Learning(table),
        lags=(1, 4, 16),
    ),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One search. Regrets and what selection leaves are in points of accuracy.

    `epochs` until the pick was good, or all of the budget if it never was.
    """

    regrets: tuple[float, ...]
    selected: tuple[float, ...]
    epochs: int
    reached: bool


def replay(task: str, arm: str, place: int, lag: int, repetition: int) -> Figures:
    """Search once, with entry `place`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table, entry = read_table(task, arm), ENTRIES[place]
    generator = np.random.default_rng([repetition, lag])
    found = search(table, entry.make(table, repetition), generator, lag, BUDGET * table.horizon)
    return figures(table, found, generator)


def figures(table: Table, found: Searched, generator: np.random.Generator) -> Figures:
    """Return what a search would have picked at some budgets, and what that is worth."""
    worth, horizon = table.worth, table.horizon
    best = float(worth.max())
    good = [best - worth[picks[0]] <= table.deviation for picks in found.picks]
    first = next((k for k, one in enumerate(good) if one), None)
    reached = first is not None and found.spent[first] <= BUDGET * horizon

    def picks(trainings: int) -> list[int]:
        place = int(np.searchsorted(found.spent, trainings * horizon, side="right")) - 1
        return found.picks[max(0, place)]

    spread = _spread(table)
    left = []
    for trainings in SELECTIONS:
        chosen = picks(trainings - SELECTED * SELECTED)
        means = [
            worth[point] + generator.normal(0, spread[point] / math.sqrt(SELECTED))
            for point in chosen
        ]
        left.append(100 * (best - float(worth[chosen[int(np.argmax(means))]])))
    return Figures(
        regrets=tuple(100 * (best - float(worth[picks(look)[0]])) for look in LOOKS),
        selected=tuple(left),
        epochs=int(found.spent[first]) if reached and first is not None else BUDGET * horizon,
        reached=reached,
    )


def _spread(table: Table) -> Floats:
    """Return the deviation between seeds of each recipe, pooled over those of similar worth."""
    order = np.argsort(-table.worth)
    near = max(5, len(table) // 20)
    spread = np.empty(len(table))
    for rank, point in enumerate(order):
        window = order[max(0, rank - near) : rank + near + 1]
        spread[point] = math.sqrt(table.variances[window].mean())
    return spread


def compare(
    pool: ProcessPoolExecutor, task: str, arm: str
) -> Iterator[tuple[str, Sequence[Figures]]]:
    """Yield the name of each method, with its lag, and its searches."""
    jobs = {}
    for place, entry in enumerate(ENTRIES):
        for lag in entry.lags:
            repetitions = range(entry.searches if lag == 4 else entry.searches // 2)
            once = partial(replay, task, arm, place, lag)
            jobs[f"{entry.name}, lag {lag}"] = [pool.submit(once, one) for one in repetitions]
    for name, searches in jobs.items():
        yield name, [one.result() for one in searches]


def section(task: str, arm: str, rows: Sequence[tuple[str, Sequence[Figures]]]) -> str:
    """Return a table in Markdown; standard errors follow ±."""
    table = read_table(task, arm)
    good = int(np.sum(table.worth.max() - table.worth <= table.deviation))
    heads = [f"regret at {look}" for look in LOOKS]
    heads += ["epochs until good", "fewer than random", "got there"]
    heads += [f"after selection, {trainings} in all" for trainings in SELECTIONS]
    base = _mean([one.epochs for one in rows[0][1]])[0]
    lines = [
        f"## {task}, {arm}\n\n{len(table)} recipes, {table.horizon} epochs. The best is worth "
        f"{100 * table.worth.max():.2f} %, the median {100 * np.median(table.worth):.2f} %, the "
        f"enqueued {', '.join(f'{100 * one:.2f}' for one in table.worth[: table.enqueued])} %; "
        f"{good} are good: within {100 * table.deviation:.2f} points of the best.\n",
        f"| method | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for name, found in rows:
        epochs, error = _mean([one.epochs for one in found])
        cells = [_shown([one.regrets[k] for one in found]) for k in range(len(LOOKS))]
        cells += [f"{epochs:.0f} ± {error:.0f}", f"{base / epochs:.2f}x"]
        cells += [f"{_mean([one.reached for one in found])[0]:.0%}"]
        cells += [_shown([one.selected[k] for one in found]) for k in range(len(SELECTIONS))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def signals(task: str, arm: str) -> str:
    """Return, in Markdown, how early epochs rank runs: Kendall's tau with the accuracy at the end.

    Over the runs on the first seeds that did not diverge.
    """
    table = read_table(task, arm)
    whole = np.isfinite(table.signals["nll"][:, :SEEDS, -1])
    final = table.last[:, :SEEDS][whole]
    shown = sorted({1, 2, *rungs_of(table.horizon), *range(3, table.horizon, 2)})
    lines = [
        f"| signal | {' | '.join(f'epoch {epoch}' for epoch in shown)} |",
        f"|---|{'---|' * len(shown)}",
    ]
    for name, words in {**SIGNALS, **MEAN}.items():
        sign = 1 if name == "accuracy" else -1
        taus = (
            float(kendalltau(sign * table.signals[name][:, :SEEDS, epoch - 1][whole], final)[0])
            for epoch in shown
        )
        lines.append(f"| {words} | {' | '.join(f'{tau:.2f}' for tau in taus)} |")
    return "\n".join([f"How early epochs rank {len(final)} runs:\n", *lines])


def _mean(values: Sequence[float]) -> tuple[float, float]:
    told: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return float(told.mean()), float(told.std(ddof=1) / math.sqrt(len(told)))


def _shown(values: Sequence[float]) -> str:
    mean, error = _mean(values)
    return f"{mean:.2f} ± {error:.2f}"


HEAD = f"""\
# Searches, replayed
Written by `make replay` at commit COMMIT: searches over learning curves that were recorded
([the tables](tables.md)), without training. A recipe is worth its mean validation accuracy over its
recorded seeds. Regret, in points, is the worth of the best recipe of the table minus that of the
recipe that the search would pick, after {", ".join(map(str, LOOKS))} trainings' worth of epochs.
"Good" is within one standard deviation between seeds of the best; a search that does not get there
in {BUDGET} trainings counts with all of these epochs. "After selection": the best three picks run
on three fresh seeds each, at 9 trainings of the total. {SEARCHES} searches a row at lag 4 ({FEWER}
of Optuna's GPSampler), half as many at other lags; ± is a standard error.

An Optuna sampler proposes a recipe of the space, and takes that of the table that is nearest; this
is a handicap. Retort's own search chooses among the recipes of the table that it does not know.

The constants of Retort's search were chosen on these tables (its auditors and its trust in the
early signal last, with all three in view), so that on other tasks it may gain less.

Below each comparison stands how well signals of early epochs rank runs: Kendall's rank correlation
with the accuracy after the last epoch. The last row is the one in use (`kd/training/history.py`).
"""


def main() -> None:
    machine, sections = described(), []
    with ProcessPoolExecutor() as pool:
        for task in complete_tasks():
            for arm in ("scheduled", "plain"):
                rows = list(compare(pool, task, arm))
                sections += [section(task, arm, rows), signals(task, arm)]
                print("\n\n".join(sections[-2:]), flush=True)
    about = "\n".join(f"| {name} | {text} |" for name, text in machine.items())
    text = "\n\n".join([HEAD.replace("COMMIT", commit()).rstrip(), *sections])
    PAGE.write_text(f"{text}\n\n| machine | |\n|---|---|\n{about}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
