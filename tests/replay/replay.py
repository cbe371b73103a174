"""Replays recorded learning curves through samplers and pruners, without training.

    make replay        prints the table that the defaults were chosen by, and writes docs/replay.md

Each search is the real one (`conductor.search.arm`): the same asking, pruning, lag and auditors. A
trial's curve is that of one recorded seed; what a recipe is worth is its mean over all of them.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from scipy.stats import qmc

from conductor.search.arm import Arm
from conductor.search.methods import Tactics
from kd.recipe import Recipe
from kd.seeds import derive_seed
from search_spaces.space import Space
from storage.studies.studies import open_study
from tests.replay.grid import CHOICES, SEEDS, Point, read_table, recipe_at, suggest_point

TRIALS = 60  # of each search
REPETITIONS = 120
LOOKS = (10, 20, 40)  # budgets, in trials' worth of epochs, at which regret is told
PAGE = Path(__file__).parents[2] / "docs" / "replay.md"
HEAD = f"""\
# Samplers, pruners and lags, replayed
Written by `make replay`, which searches over learning curves that were recorded on the digits,
without training. {REPETITIONS} searches of {TRIALS} trials for each row. The value of a recipe is
its mean validation accuracy over all recorded seeds. Regret, in points, is the value of the best
recipe in the recording minus the value of the recipe that the search would select, at budgets of
{LOOKS[0]}, {LOOKS[1]} and {LOOKS[2]} full trainings. "Good" means within one standard deviation
between seeds of the best; a search that never gets there counts with all epochs that it spent.
Every sixth trial is an auditor, which is never pruned.
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to search; `sampler` is one of Retort's, or quasi-random for a Sobol sequence."""

    sampler: str
    pruner: str = "none"
    lag: int = 4

    @property
    def name(self) -> str:
        return f"{self.sampler}, {self.pruner}, lag {self.lag}"


WAYS = (
    Way("random", lag=1),
    Way("random", "median"),
    Way("quasi-random", lag=1),
    Way("tpe"),
    *(Way("tpe", pruner) for pruner in ("median", "quartile", "halving", "hyperband")),
    *(Way("tpe", "median", lag) for lag in (1, 2, 8, 16)),
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One search: epochs spent, and the worth of what it would pick, after each trial."""

    spent: NDArray[np.int64]
    worth: NDArray[np.float64]


@cache
def table() -> dict[Point, NDArray[np.float64]]:
    return read_table()


@cache
def worths() -> dict[Point, float]:
    """What each recipe is worth: its mean accuracy after the last epoch, over the seeds."""
    return {point: float(curves[:, -1].mean()) for point, curves in table().items()}


def seed_deviation() -> float:
    """Standard deviation between seeds after the last epoch, pooled over the best tenth.

    Bad recipes differ far more from seed to seed, and are not what a search has to tell apart.
    """
    best = sorted(worths(), key=lambda point: -worths()[point])[: -(-len(worths()) // 10)]
    variances = [table()[point][:, -1].var(ddof=1) for point in best]
    return float(np.mean(variances) ** 0.5)


def replay(way: Way, repetition: int) -> Replayed:
    """Search once. The recorded seed of a trial follows from its number, as in a study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = _sobol(repetition) if way.sampler == "quasi-random" else _search(way, repetition)
    spent, worth, best, total = [], [], -1.0, 0
    for point, curve, pruned in trials:
        total += len(curve)
        if not pruned and curve[-1] > best:
            best, pick = curve[-1], worths()[point]
        spent.append(total)
        worth.append(pick)
    return Replayed(np.asarray(spent), np.asarray(worth))


def _curve(point: Point, repetition: int, number: int) -> NDArray[np.float64]:
    curves = table()[point]
    return curves[derive_seed(repetition, "recorded seed", number) % len(curves)]


def _search(way: Way, repetition: int) -> Iterator[tuple[Point, NDArray[np.float64], bool]]:
    """Run Retort's own search over the table; yield point, curve as far as it ran, pruned."""
    asked: list[Point] = []

    def suggest(trial: optuna.trial.BaseTrial) -> Recipe:
        asked.append(suggest_point(trial))
        return recipe_at(asked[-1])

    horizon = next(iter(table().values())).shape[1]
    study = open_study(InMemoryStorage(), "replay", {})
    tactics = Tactics(
        sampler=way.sampler,
        pruner=way.pruner,
        lag=way.lag,
        seed=derive_seed(repetition, "replay"),
        horizon=horizon,
    )
    arm = Arm("grid", Space("grid", suggest, {}, ""), study, tactics)
    for _ in range(TRIALS):
        number = arm.ask(TRIALS)
        assert number is not None  # each trial has ended before the next is asked
        curve = _curve(asked[-1], repetition, number)
        epochs = _run(arm, number, curve)
        pruned = epochs < horizon
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        arm.tell(number, state, float(curve[epochs - 1]), {})
        yield asked[-1], curve[:epochs], pruned


def _run(arm: Arm, number: int, curve: NDArray[np.float64]) -> int:
    """Report a curve until it is pruned; return how many epochs that took."""
    for epoch, value in enumerate(curve, 1):
        if arm.report(number, epoch, float(value)):
            return epoch
    return len(curve)


def _sobol(repetition: int) -> Iterator[tuple[Point, NDArray[np.float64], bool]]:
    sizes = [len(choices) for choices in CHOICES.values()]
    sequence = qmc.Sobol(len(sizes), rng=derive_seed(repetition, "sobol"))
    for number, row in enumerate(sequence.random(64)[:TRIALS]):
        point = tuple(int(place * size) for place, size in zip(row, sizes, strict=True))
        yield point, _curve(point, repetition, number), False


@dataclass(frozen=True, slots=True)
class Summary:
    """Regrets in points at the budgets of LOOKS; epochs until the pick was good enough."""

    way: Way
    regrets: tuple[float, ...]
    final: float
    epochs: float
    reached: float


def summarise(way: Way, found: list[Replayed]) -> Summary:
    """Average over repetitions. A search that never picks well enough counts with all it spent."""
    best, near = max(worths().values()), seed_deviation()
    horizon = next(iter(table().values())).shape[1]
    first, reached = [], []
    for one in found:
        good = best - one.worth <= near
        reached.append(bool(good.any()))
        first.append(int(one.spent[good.argmax()] if good.any() else one.spent[-1]))
    regrets = [
        100 * float(np.mean([best - one.worth[_last(one.spent, look * horizon)] for one in found]))
        for look in LOOKS
    ]
    final = 100 * float(np.mean([best - one.worth[-1] for one in found]))
    return Summary(way, tuple(regrets), final, float(np.mean(first)), float(np.mean(reached)))


def _last(spent: NDArray[np.int64], budget: int) -> int:
    """Return the last trial within a budget of epochs; the first trial is always in it."""
    return max(0, int(np.searchsorted(spent, budget, side="right")) - 1)


def report(summaries: list[Summary]) -> str:
    """Return the table in Markdown; ratios are to random search without pruning."""
    looks = " | ".join(f"regret at {look}" for look in LOOKS)
    lines = [
        f"| sampler, pruner | {looks} | regret after {TRIALS} trials | epochs until good | "
        "fewer than random | got there |",
        f"|---|{'---|' * (len(LOOKS) + 4)}",
    ]
    for one in summaries:
        regrets = " | ".join(f"{regret:.2f}" for regret in (*one.regrets, one.final))
        ratio = summaries[0].epochs / one.epochs
        lines.append(
            f"| {one.way.name} | {regrets} | {one.epochs:.0f} | {ratio:.2f}x | {one.reached:.0%} |"
        )
    return "\n".join(lines)


def describe() -> str:
    """Return a sentence about the recording."""
    values = list(worths().values())
    horizon = next(iter(table().values())).shape[1]
    return (
        f"{len(values)} recipes, each trained for {horizon} epochs on {SEEDS} seeds. The best has "
        f"a value of {100 * max(values):.2f} %, the median {100 * float(np.median(values)):.2f} %; "
        "the standard deviation between seeds, of the best tenth of the recipes, is "
        f"{100 * seed_deviation():.2f} points."
    )


def main() -> None:
    jobs = [(way, repetition) for way in WAYS for repetition in range(REPETITIONS)]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(replay, *zip(*jobs, strict=True), chunksize=REPETITIONS // 4))
    summaries = [
        summarise(way, found[place * REPETITIONS : (place + 1) * REPETITIONS])
        for place, way in enumerate(WAYS)
    ]
    text = f"{describe()}\n\n{report(summaries)}\n"
    print(text)
    PAGE.write_text(f"{HEAD}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
