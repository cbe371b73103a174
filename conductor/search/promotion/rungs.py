"""The rule of promotion: which job comes next, from the runs that a decision sees.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) with two rungs below the horizon,
and now and then a further seed for the best recipes, or a run that no signal selects. It knows no
Optuna and no parameters.
"""

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
AUDIT_EVERY = 12  # decisions: a new recipe runs to the horizon, whatever its early signal says


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
    counts as being at the horizon, without a value.
    """

    number: int
    recipe: int
    last: int
    epochs: int = 0
    target: int = 0
    signals: Mapping[int, float] = field(default_factory=dict)
    value: float | None = None
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """A recipe that is to be chosen runs to epoch `until`."""

    until: int


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
    if number % AUDIT_EVERY == AUDIT_EVERY // 2:  # never one that may repeat
        return Begin(horizon)
    for rung, following in reversed([*pairwise(rungs)]):
        reached = [run for run in runs if run.epochs >= rung]
        reached.sort(key=lambda run: (-run.signals.get(rung, float("-inf")), run.number))
        for run in reached[: len(reached) // PROMOTED]:
            if run.epochs == run.target == rung:
                return Continue(run, following)
    return Begin(rungs[0] if number else horizon)
