"""The rule of promotion: which job comes next, from the runs that a decision sees.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) with two rungs below the horizon,
and now and then a further seed for the best recipes, or an auditor, a new recipe that goes to the
horizon at once: by these a search finds out whether the early signal can be trusted. It knows no
Optuna and no parameters.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

FEWEST = 6  # epochs of a horizon that has rungs below it
PROMOTED = 3  # of so many runs at a rung one goes on
STARTUP = 6  # runs before proposals are learnt
REPEAT_EVERY = 8  # decisions
REPEATED = 3  # of the best recipes, and runs of each, at most
REPEAT_AFTER = 4  # recipes at the horizon
AUDITS = (24, 20)  # of each 24 decisions number 20 begins an auditor
MORE_AUDITS = (2, 1)  # where the early signal is doubted
TRUSTED = 0.75  # share of pairs in which the promoted run has to end better than the auditor
BELIEF = 1  # pairs that the promoted run has won before there are any


def rungs_of(horizon: int) -> tuple[int, ...]:
    """Return the epochs after which runs pause, and the horizon.

    They are a twelfth and a third of the horizon; there are none where it is below 6 epochs.
    """
    if horizon < FEWEST:
        return (horizon,)
    return (max(1, round(horizon / 12)), round(horizon / 3), horizon)


@dataclass(slots=True, kw_only=True)
class Run:
    """A run as a decision sees it. `number` and `recipe` are those of the first job of each.

    `last` is the number of its last job that ended. It was trained for `epochs`, and a pending job
    trains it to `target`, else equal. `signals` has the early signal by rung, higher is better, as
    far as the run came; `value` is the metric at the horizon, None before it. A run that diverged
    counts as being at the horizon, without a value. `promoted` runs came to the horizon by their
    signals, an `auditor` at once.
    """

    number: int
    recipe: int
    last: int
    epochs: int = 0
    target: int = 0
    signals: Mapping[int, float] = field(default_factory=dict)
    value: float | None = None
    diverged: bool = False
    promoted: bool = False
    auditor: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """A recipe that is to be chosen runs to epoch `until`."""

    until: int
    auditor: bool = False


@dataclass(frozen=True, slots=True)
class Continue:
    """A paused run goes on to epoch `until`."""

    run: Run
    until: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """A recipe runs again on a new seed, straight to the horizon."""

    recipe: int
    until: int


Decision = Begin | Continue | Repeat


def is_trusted(runs: Sequence[Run]) -> bool:
    """Return whether the early signal tells these runs apart well enough to choose by it.

    It is judged by how often a run that was promoted ends better than an auditor; both are of
    proposals that are learnt. With the runs that stay behind, a promoted one costs 2.2 times as
    many epochs, and the best of 2.2 auditors would end better than another in 0.68 of all pairs.
    """
    ended = [run for run in runs if run.value is not None or run.diverged]
    promoted = [_end_of(run) for run in ended if run.promoted and run.number >= STARTUP]
    auditors = sorted(_end_of(run) for run in ended if run.auditor)
    if not promoted or not auditors:
        return True
    # a tie is half of a pair
    pairs = sum(bisect_left(auditors, one) + bisect_right(auditors, one) for one in promoted) / 2
    won = pairs / (len(promoted) * len(auditors))
    count = min(len(promoted), len(auditors))
    return (won * count + BELIEF) / (count + BELIEF) >= TRUSTED


def _end_of(run: Run) -> float:
    return float("-inf") if run.value is None else run.value


def decide(
    number: int,
    runs: Sequence[Run],
    rungs: Sequence[int],
    ranked: Callable[[Collection[int]], Sequence[int]],
) -> Decision:
    """Decide job `number` of an arm.

    `ranked` returns these recipes, the highest posterior mean first. The first of all jobs goes to
    the horizon, so that a search of any size has a score.
    """
    horizon = rungs[-1]
    whole = {run.recipe for run in runs if run.value is not None}
    if number % REPEAT_EVERY == 0 and len(whole) >= REPEAT_AFTER:
        count = Counter(run.recipe for run in runs)
        for recipe in ranked(whole)[:REPEATED]:
            if count[recipe] < REPEATED:
                return Repeat(recipe, horizon)
    if len(rungs) > 1 and _is_auditor(number, runs):  # never one that may repeat
        return Begin(horizon, auditor=True)
    for rung, following in reversed([*pairwise(rungs)]):
        reached = [run for run in runs if run.epochs >= rung]
        reached.sort(key=lambda run: (-run.signals.get(rung, float("-inf")), run.number))
        for run in reached[: len(reached) // PROMOTED]:
            if run.epochs == run.target == rung:
                return Continue(run, following)
    return Begin(rungs[0] if number else horizon)


def _is_auditor(number: int, runs: Sequence[Run]) -> bool:
    every, place = AUDITS if is_trusted(runs) else MORE_AUDITS
    return number % every == place
