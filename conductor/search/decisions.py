"""The decisions of one arm: what to ask, when to prune, which trials are best."""

import heapq
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from conductor.search.budget import Budget
from conductor.search.methods import STARTUP_TRIALS, SearchMethod, make_sampler
from conductor.search.mirror import CUT, Mirror
from kd.errors import ProtocolError
from kd.recipe import Recipe
from kd.seeds import derive_seed
from search_spaces.checks import Distributions
from search_spaces.space import Space, propose
from storage.studies.trials import (
    ASKED,
    CONSTRAINTS,
    ENDED,
    INFEASIBLE,
    asked_digest,
    ended_digest,
)

AUDIT_EVERY = 6  # trial 0, 6, 12, … run to the horizon, so that the pruner can be audited
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)  # states that count towards `--trials`


class Decisions:
    """Decides about the trials of one arm on a copy of its study in memory, and writes nothing.

    Every decision about trial n depends on n, never on the number of trials or on timing: the copy
    shows only what the lag allows (`conductor.search.mirror`), and the seed of the sampler comes
    from (seed, arm, n).
    """

    def __init__(
        self, study: str, space: Space, method: SearchMethod, budget: Budget | None = None
    ) -> None:
        self.space = space
        self.method = method
        self._study = study
        self._budget = budget
        self._mirror = Mirror(study, method)
        self._recipes: dict[int, Recipe] = {}
        self._distributions: Distributions = {}
        self._running: set[int] = set()
        self._asked = 0
        self._counted = 0

    def adopt(self, trial: FrozenTrial) -> None:
        """Copy the next stored trial, with its end if it has ended."""
        self._mirror.adopt(trial)
        for parameter, distribution in trial.distributions.items():
            self._distributions.setdefault(parameter, distribution)
        self._asked += 1
        self._running.add(trial.number)
        if trial.state.is_finished():
            self._mirror.settle(trial)
            self._count(trial.number, trial.state)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now."""
        return self._mirror.trials

    @property
    def running(self) -> list[int]:
        return sorted(self._running)

    @property
    def asked(self) -> int:
        """Number of trials that were asked."""
        return self._asked

    @property
    def counted(self) -> int:
        """Number of trials that count towards `--trials`."""
        return self._counted

    @property
    def begun(self) -> int:
        """Number of trials that count towards `--trials`, or will when they end."""
        return self._counted + len(self._running)

    def may_ask(self, total: int) -> bool:
        """Whether a further trial may begin, towards `total`: trial n waits for trial n - lag."""
        settled = self._asked - self.method.lag
        waiting = any(number <= settled for number in self._running)
        return self.begun < total and not waiting

    def ask(self) -> FrozenTrial:
        """Decide the parameters of the next trial. One with an `excess` has ended already."""
        number = self._asked
        enqueued = list(map(dict, self.space.enqueued.values()))
        seed = derive_seed(self.method.seed, "sampler", self.space.name, number)
        sampler = make_sampler(
            self.method.sampler, seed, self._startup(number), self._mirror.past, self.method.own
        )
        parameters = enqueued[number] if number < len(enqueued) else None
        trial = self._mirror.ask(number, sampler, parameters)
        try:
            self._recipes[number] = self._propose(number, trial)
        except ProtocolError as error:  # of the space, unless the sampler has failed within it
            raise getattr(sampler, "failure", None) or error from error
        excess = self._judge(trial, self._recipes[number].student)
        trial.set_user_attr("auditor", self.is_auditor(number) and not excess)
        trial.set_user_attr(ASKED, asked_digest(self._study, self._mirror.trial(number)))
        if excess:
            self._reject(trial, excess)
        else:
            self._running.add(number)
        self._asked += 1
        return self._mirror.trial(number)

    def _startup(self, number: int) -> int:
        """Return after how many ended trials the sampler learns; infeasible ones do not count."""
        ended = self._mirror.seen(number, TrialState.PRUNED)
        return STARTUP_TRIALS + sum(INFEASIBLE in trial.user_attrs for trial in ended)

    def _judge(self, trial: optuna.Trial, student: str) -> str:
        """Set a trial's constraints; return its excess over the budget, empty if there is none.

        They are also a user attribute, which digests cover and the dashboard shows.
        """
        constraints = self._budget.constraints(student) if self._budget else {}
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        if constraints:
            trial.set_user_attr(CONSTRAINTS, constraints)
        return self._budget.excess(student) if self._budget else ""

    def _reject(self, trial: optuna.Trial, excess: str) -> None:
        """End a trial that is never trained: without reports and without a value.

        Its state is PRUNED, since samplers do not learn from FAIL.
        """
        attributes = {INFEASIBLE: excess}
        attributes[ENDED] = self.digest(trial.number, TrialState.PRUNED, None, attributes)
        for key, attribute in attributes.items():
            trial.set_user_attr(key, attribute)
        self._mirror.end(trial.number, TrialState.PRUNED, None)

    def excess(self, number: int) -> str:
        """Return by how much a trial's student is over the budget; empty if it is within."""
        return str(self._mirror.trial(number).user_attrs.get(INFEASIBLE, ""))

    def recipe(self, number: int) -> Recipe:
        """Return a trial's recipe, which its space makes from its parameters."""
        if number not in self._recipes:
            fixed = optuna.trial.FixedTrial(self._mirror.trial(number).params, number)
            self._recipes[number] = self._propose(number, fixed)
        return self._recipes[number]

    def first(self, recipe: Recipe) -> int:
        """Return the number of the first trial with this recipe; one of the arm's trials has it."""
        return next(number for number in range(self.asked) if self.recipe(number) == recipe)

    def _propose(self, number: int, trial: BaseTrial) -> Recipe:
        try:
            file = f"{self.space.name}.py"
            return propose(self.space, trial, file, f"trial {number}", self._distributions)
        except ProtocolError as error:
            kept = "the trials so far are kept; run the corrected space under another --name"
            raise ProtocolError(f"{error}; {kept}") from error

    @staticmethod
    def is_auditor(number: int) -> bool:
        return number % AUDIT_EVERY == 0

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Copy an epoch's score; return whether it is new."""
        if epoch in self._mirror.trial(number).intermediate_values:
            return False
        self._mirror.report(number, epoch, value)
        return True

    def cuts(self, number: int, epoch: int) -> bool:
        """Whether the pruner would end the trial after `epoch`, its last one reported."""
        return epoch < self.method.horizon and self._mirror.prunes(number)

    def note_cut(self, number: int, epoch: int) -> bool:
        """Remember where the pruner would have cut an auditor; return whether it is the first."""
        if CUT in self._mirror.trial(number).user_attrs:
            return False
        self._mirror.note(number, CUT, epoch)
        return True

    def attributes(
        self, number: int, state: TrialState, value: float | None, chosen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the user attributes of a trial at its end, with its digest."""
        digest = {ENDED: self.digest(number, state, value, chosen)}
        return {**chosen, **self._mirror.rungs(number), **digest}

    def end(
        self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]
    ) -> None:
        """Copy the end of a trial, with these user attributes."""
        for key, attribute in attributes.items():
            self._mirror.note(number, key, attribute)
        self._mirror.end(number, state, None if value is None else [value])
        self._count(number, state)

    def _count(self, number: int, state: TrialState) -> None:
        self._running.discard(number)
        self._counted += state in COUNTED and not self.excess(number)

    def digest(
        self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]
    ) -> str:
        """Return the digest of a trial with this end; see `storage.studies.trials`."""
        values = None if value is None else [value]
        all_attributes = {**attributes, **self._mirror.rungs(number)}
        trial = self._mirror.trial(number)
        return ended_digest(self._study, trial, state, values, all_attributes)

    def best(self, count: int) -> list[FrozenTrial]:
        """Return the best complete trials; of equal values the lower number comes first."""
        trials = [t for t in self._mirror.complete if not t.user_attrs.get("diverged")]
        return heapq.nsmallest(
            count, trials, key=lambda trial: (-(trial.value or 0.0), trial.number)
        )
