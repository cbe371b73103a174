"""What a way to search proposes for the next trial, and what all ways offer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from storage.files.records import Learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The next trial: its parameters or, where they are None, the sampler that chooses them.

    `job` are user attributes that say what the trial is for.
    """

    parameters: Mapping[str, Any] | None
    sampler: BaseSampler = field(default_factory=lambda: RandomSampler(seed=0))
    job: Mapping[str, Any] = field(default_factory=dict)


class Strategy(Protocol):
    """A way to search one arm. It decides from the trials that the lag allows, and writes nothing.

    `unit` is what one of `--trials` is, in the measure of `cost`.
    """

    unit: int

    def propose(self, number: int) -> Proposal:
        """Propose trial `number`."""
        ...

    def cost(self, trial: FrozenTrial) -> int:
        """Return what a trial takes of the budget or, while it is running, may take."""
        ...

    def stops(self, number: int, epoch: int) -> bool:
        """Whether a trial that was to go on ends after `epoch`, its last one reported."""
        ...

    def findings(self, number: int) -> Mapping[str, Any]:
        """Return user attributes for the end of a trial."""
        ...

    def learnt(self) -> Learnt | None:
        """Return what the search has learnt of the parameters, if it models them."""
        ...

    def ranked(self) -> Sequence[FrozenTrial]:
        """Return the trials from which finalists may come, those with the best recipes first."""
        ...
