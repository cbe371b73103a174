"""An arm: one search space run as one Optuna study, decided in memory and written through."""

import heapq
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from conductor.search.budget import Budget
from conductor.search.membership import Membership
from conductor.search.methods import STARTUP_TRIALS, Tactics, make_sampler
from conductor.search.mirror import CUT, Mirror
from kd.errors import ProtocolError, StudyError
from kd.recipe import Recipe
from kd.seeds import derive_seed
from search_spaces.asking import Asked
from search_spaces.space import Space, propose
from storage.studies.patience import RESTORE, OvertakenError
from storage.studies.trials import (
    ASKED,
    CONSTRAINTS,
    ENDED,
    INFEASIBLE,
    asked_digest,
    check_trial,
    end_trial,
    ended_digest,
)

Lock = Callable[[], AbstractContextManager[None]]  # held while a study is decided upon

AUDIT_EVERY = 6  # trial 0, 6, 12, … run to the horizon, so that the pruner can be audited
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)  # states that count towards `--trials`


class StoredTrial(optuna.Trial):
    """A trial in a study's storage, for what takes an `optuna.Trial` to write notes and artifacts.

    `optuna.Trial` itself begins to sample when it is made.
    """

    def __init__(self, study: optuna.Study, trial_id: int) -> None:
        self.study = study
        self.storage = study._storage
        self._trial_id = trial_id


class Arm:
    """The trials of one arm. Every decision about trial n depends on n, never on N or on timing.

    A decision is taken on a copy of the study in memory, which shows it what the lag allows (see
    `conductor.search.mirror`), by a sampler made anew from (seed, arm, n); then it is written to
    the study in one transaction, so that a kill leaves no half-asked trial.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        study: optuna.Study,
        tactics: Tactics,
        *,
        budget: Budget | None = None,
        lock: Lock = nullcontext,
        shared: bool = False,
    ) -> None:
        self.name = name
        self.space = space
        self.study = study
        self.tactics = tactics
        self.membership = Membership(study, shared=shared)
        self._budget = budget
        self._lock = lock
        self._storage = study._storage
        self._recipes: dict[int, Recipe] = {}
        self._begin()

    def _begin(self) -> None:
        """Copy the study into memory."""
        self._mirror = Mirror(self.study.study_name, self.tactics)
        self._ids: list[int] = []
        self._running: set[int] = set()
        self._counted = 0
        self._asked: Asked = {}
        self.refresh()

    def refresh(self) -> None:
        """Copy what other sessions, and other supervisors meanwhile, have written."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number == len(self._ids):
                self._adopt(trial)
            elif trial.number > len(self._ids) or trial._trial_id != self._ids[trial.number]:
                name, lacking = self.study.study_name, min(trial.number, len(self._ids))
                raise StudyError(f"{name} lacks trial {lacking}: the storage is damaged; {RESTORE}")
            elif trial.number in self._running:
                self._follow(trial)

    def _adopt(self, trial: FrozenTrial) -> None:
        """Copy a trial that is new to us, and what it said if it has ended."""
        check_trial(self.study.study_name, trial)
        self._mirror.adopt(trial)
        self._ids.append(trial._trial_id)
        for parameter, distribution in trial.distributions.items():
            self._asked.setdefault(parameter, distribution)
        self._running.add(trial.number)
        if trial.state.is_finished():
            self._settle(trial)

    def _follow(self, trial: FrozenTrial) -> None:
        """Copy what became of a trial that was running: it has ended, or has another owner."""
        if trial.state.is_finished():
            check_trial(self.study.study_name, trial)
            self._settle(trial)
            return
        self._mirror.note(trial.number, "owner", trial.user_attrs.get("owner", ""))

    def _settle(self, trial: FrozenTrial) -> None:
        self._mirror.settle(trial)
        self._count(trial.number, trial.state)

    def _count(self, number: int, state: TrialState) -> None:
        self._running.discard(number)
        self._counted += state in COUNTED and not self.excess(number)

    def claim(self) -> list[int]:
        """Take over the running trials whose supervisor has died, and return their numbers."""
        with self._lock():
            self.refresh()
            orphans = [
                trial.number
                for trial in self.trials
                if trial.state == TrialState.RUNNING
                and self.membership.is_dead(trial.user_attrs.get("owner", ""))
            ]
            return [number for number in orphans if self._own(number)]

    def _own(self, number: int) -> bool:
        """Take a trial over, unless its supervisor was alive after all and has just ended it."""
        owner = self.membership.id
        try:
            self._storage.set_trial_user_attr(self._ids[number], "owner", owner)
        except UpdateFinishedTrialError:
            return False
        self._mirror.note(number, "owner", owner)
        return True

    def owns(self, number: int) -> bool:
        """Whether a trial is ours to run: while we seemed dead, another may have taken it over."""
        ours = self._mirror.trial(number).user_attrs.get("owner") == self.membership.id
        return ours and number in self._running

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now."""
        return self._mirror.trials

    @property
    def running(self) -> list[int]:
        return sorted(self._running)

    @property
    def asked(self) -> int:
        """Trials that were ever asked."""
        return len(self._ids)

    @property
    def counted(self) -> int:
        """Trials that count towards `--trials`."""
        return self._counted

    def may_ask(self, total: int) -> bool:
        """Whether a further trial may begin, towards `total`: trial n waits for trial n - lag."""
        settled = len(self._ids) - self.tactics.lag
        waiting = any(number <= settled for number in self._running)
        return self._counted + len(self._running) < total and not waiting

    def ask(self, total: int) -> int | None:
        """Decide the parameters of the next trial, write it down, and return its number.

        One with an `excess` has ended already, and is not to be trained. None when no further trial
        may begin yet, towards `total`, or when another supervisor took the number while ours was
        asleep.
        """
        with self._lock():
            if self.membership.shared:
                self.refresh()
            try:
                return self._ask() if self.may_ask(total) else None
            except OvertakenError:
                self._begin()
                return None

    def _ask(self) -> int:
        number = len(self._ids)
        enqueued = [dict(parameters) for parameters in self.space.enqueued.values()]
        seed = derive_seed(self.tactics.seed, "sampler", self.name, number)
        startup = self._startup(number)
        sampler = make_sampler(self.tactics.sampler, seed, startup, self._mirror.past)
        given = enqueued[number] if number < len(enqueued) else None
        trial = self._mirror.ask(number, sampler, given)
        self._recipes[number] = self._propose(number, trial)
        excess = self._judge(trial, self._recipes[number].student)
        trial.set_user_attr("auditor", self.is_auditor(number) and not excess)
        trial.set_user_attr("owner", self.membership.id)
        asked = asked_digest(self.study.study_name, self._mirror.trial(number))
        trial.set_user_attr(ASKED, asked)
        if excess:
            self._reject(trial, excess)
        template = self._mirror.trial(number)
        self._ids.append(self._storage.create_new_trial(self.study._study_id, template))
        if not excess:
            self._running.add(number)
        return number

    def _startup(self, number: int) -> int:
        """Return after how many ended trials a sampler learns: those that ran, and no others."""
        ended = self._mirror.seen(number, TrialState.PRUNED)
        return STARTUP_TRIALS + sum(INFEASIBLE in trial.user_attrs for trial in ended)

    def _judge(self, trial: optuna.Trial, student: str) -> str:
        """Tell a trial's constraints; return by how much its student is over the budget, if it is.

        They are kept as a user attribute too, which digests cover and the dashboard shows.
        """
        constraints = self._budget.constraints(student) if self._budget else {}
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        if constraints:
            trial.set_user_attr(CONSTRAINTS, constraints)
        return self._budget.excess(student) if self._budget else ""

    def _reject(self, trial: optuna.Trial, excess: str) -> None:
        """End a trial before it has begun: without a report and without a value.

        PRUNED, for FAIL is what samplers do not learn from.
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
        """Return a trial's recipe: what its space makes of its parameters."""
        if number not in self._recipes:
            fixed = optuna.trial.FixedTrial(self._mirror.trial(number).params, number)
            self._recipes[number] = self._propose(number, fixed)
        return self._recipes[number]

    def first(self, recipe: Recipe) -> int:
        """Return the number of the first trial that has this recipe, which is one of the arm's."""
        return next(number for number in range(self.asked) if self.recipe(number) == recipe)

    def _propose(self, number: int, trial: BaseTrial) -> Recipe:
        try:
            return propose(self.space, trial, f"{self.name}.py", f"trial {number}", self._asked)
        except ProtocolError as error:
            kept = "the trials so far are kept, a corrected space takes another --name"
            raise ProtocolError(f"{error}; {kept}") from error

    @staticmethod
    def is_auditor(number: int) -> bool:
        return number % AUDIT_EVERY == 0

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Write down an epoch's validation accuracy; return whether to prune the trial there.

        Reporting an epoch again changes nothing, so that replaying a checkpoint is safe.
        """
        if epoch not in self._mirror.trial(number).intermediate_values:
            self._mirror.report(number, epoch, value)
            self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)
        if epoch >= self.tactics.horizon:
            return False
        cut = self._mirror.prunes(number)
        if cut and self.is_auditor(number):
            self._remember_cut(number, epoch)
        return cut and not self.is_auditor(number)

    def _remember_cut(self, number: int, epoch: int) -> None:
        """Write down where the pruner would have cut an auditor, the first time that it would."""
        if CUT not in self._mirror.trial(number).user_attrs:
            self._mirror.note(number, CUT, epoch)
            self._storage.set_trial_user_attr(self._ids[number], CUT, epoch)

    def tell(
        self, number: int, state: TrialState, value: float | None, attributes: dict[str, Any]
    ) -> None:
        """End a trial, with these attributes.

        Raises UpdateFinishedTrialError, and changes nothing, if another supervisor has ended it.
        """
        values = None if value is None else [value]
        told = {**attributes, **self._mirror.rungs(number)}
        told[ENDED] = self.digest(number, state, value, attributes)
        end_trial(self._storage, self._ids[number], state, values, told)
        for key, attribute in told.items():
            self._mirror.note(number, key, attribute)
        self._mirror.end(number, state, values)
        self._count(number, state)

    def digest(
        self, number: int, state: TrialState, value: float | None, attributes: dict[str, Any]
    ) -> str:
        """Return the digest of a trial that is to end so; see `storage.studies.trials`."""
        values = None if value is None else [value]
        told = {**attributes, **self._mirror.rungs(number)}
        return ended_digest(self.study.study_name, self._mirror.trial(number), state, values, told)

    def stored_trial(self, number: int) -> StoredTrial:
        """Return a handle on the trial in the study's own storage."""
        return StoredTrial(self.study, self._ids[number])

    def best(self, count: int) -> list[FrozenTrial]:
        """Return the best trials that ran to the horizon, the first to come first among equals."""
        whole = [one for one in self._mirror.complete if not one.user_attrs.get("diverged")]
        return heapq.nsmallest(count, whole, key=lambda one: (-(one.value or 0.0), one.number))
