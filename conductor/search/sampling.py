"""The search by an Optuna sampler and pruner: every trial is one run, planned to the horizon."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from conductor.search.methods import STARTUP_TRIALS, SearchMethod, make_sampler
from conductor.search.mirror import CUT, Mirror
from conductor.search.proposal import Proposal
from kd.seeds import derive_seed
from search_spaces.space import Space
from storage.studies.trials import AUDITOR, INFEASIBLE

AUDIT_EVERY = 6  # trial 0, 6, 12, … run to the horizon, so that the pruner can be audited
COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)  # states that cost a trial


class Sampling:
    """Decides by `method.sampler` and `method.pruner`, from what `mirror` shows them."""

    unit = 1  # one of `--trials` is a trial

    def __init__(self, space: Space, method: SearchMethod, mirror: Mirror) -> None:
        self._space = space
        self._method = method
        self._mirror = mirror
        self._cuts: dict[int, int] = {}  # of auditors: where the pruner would have ended them

    def propose(self, number: int) -> Proposal:
        method = self._method
        enqueued = list(self._space.enqueued.values())
        seed = derive_seed(method.seed, "sampler", self._space.name, number)
        startup = self._startup(number)
        return Proposal(
            parameters=enqueued[number] if number < len(enqueued) else None,
            sampler=make_sampler(method.sampler, seed, startup, self._mirror.past, method.own),
            job={AUDITOR: number % AUDIT_EVERY == 0},
        )

    def _startup(self, number: int) -> int:
        """Return after how many ended trials the sampler learns; infeasible ones do not count."""
        ended = self._mirror.seen(number, TrialState.PRUNED)
        return STARTUP_TRIALS + sum(INFEASIBLE in trial.user_attrs for trial in ended)

    def cost(self, trial: FrozenTrial) -> int:
        return int(trial.state in COUNTED and INFEASIBLE not in trial.user_attrs)

    def stops(self, number: int, epoch: int) -> bool:
        """Whether the pruner ends the trial. An auditor goes on, and where it was is noted."""
        if epoch == self._method.horizon or not self._mirror.prunes(number):
            return False
        if number % AUDIT_EVERY:
            return True
        self._cuts.setdefault(number, epoch)
        return False

    def findings(self, number: int) -> Mapping[str, Any]:
        return {CUT: self._cuts[number]} if number in self._cuts else {}

    def learnt(self) -> None:
        """An Optuna sampler is asked for recipes alone."""

    def ranked(self) -> list[FrozenTrial]:
        """Return the complete trials, the best first; of equals the lower number comes first."""
        trials = [t for t in self._mirror.complete if not t.user_attrs.get("diverged")]
        return sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))
