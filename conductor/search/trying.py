"""Tries out a sampler of the user's own, before anything is trained."""

from typing import Any

from optuna.trial import TrialState

from conductor.search.decisions import Decisions
from conductor.search.methods import SearchMethod
from conductor.search.own_sampler import make_own
from kd.errors import ProtocolError
from search_spaces.space import Space

TRIED = 5  # trials that the sampler chooses


def try_sampler(method: SearchMethod, space: Space) -> None:
    """Let a sampler choose trials of a space in memory, twice with the same seeds.

    Raises ProtocolError for a sampler that fails, or whose choices do not follow from its seed and
    the trials that it is shown.
    """
    first, second = (_choices(Decisions("tried", space, method)) for _ in range(2))
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        if one != other:
            name = next(name for name in (*one, *other) if one.get(name) != other.get(name))
            where = make_own(method.sampler, method.own, seed=0).where
            raise ProtocolError(
                f"{where}: a sampler must choose by its seed alone: two with the same seed chose "
                f"{name} = {one.get(name)!r} and {other.get(name)!r} in trial {number} of "
                f"{space.name}"
            )


def _choices(decisions: Decisions) -> list[dict[str, Any]]:
    """Return the parameters of the first trials, which end with values that fall."""
    count = len(decisions.space.enqueued) + TRIED
    for number in range(count):
        decisions.ask()
        decisions.end(number, TrialState.COMPLETE, 1 / (2 + number), {})
    return [trial.params for trial in decisions.trials]
