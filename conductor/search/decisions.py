"""The decisions of one arm: what to ask, when to stop, which trials are best."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from conductor.search.budget import Budget
from conductor.search.methods import SearchMethod
from conductor.search.mirror import Mirror
from conductor.search.promoting import Promotion
from conductor.search.promotion.candidates import Candidates
from conductor.search.proposal import Strategy
from conductor.search.sampling import Sampling
from kd.errors import ProtocolError
from kd.recipe import Recipe
from kd.seeds import derive_seed
from search_spaces.checks import Distributions
from search_spaces.space import Space, propose_in_study
from storage.files.records import Learnt
from storage.studies.trials import (
    ASKED,
    AUDITOR,
    CONSTRAINTS,
    CONTINUES,
    ENDED,
    INFEASIBLE,
    REPEATS,
    RUN,
    UNTIL,
    asked_digest,
    ended_digest,
)


class Decisions:
    """Decides about the trials of one arm on a copy of its study in memory, and writes nothing.

    Every decision about trial n depends on n, never on the number of trials or on timing: the copy
    shows only what the lag allows (`conductor.search.mirror`), and all randomness follows from
    (seed, arm, n). A budget is a number of `--trials`: each is a trial, or a training's worth of
    epochs.
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
        self._costs: dict[int, int] = {}
        self._committed = 0
        self._strategy = self._make_strategy()

    def _make_strategy(self) -> Strategy:
        if self.method.sampler:
            return Sampling(self.space, self.method, self._mirror)
        candidates = Candidates(
            self.space,
            derive_seed(self.method.seed, "promotion", self.space.name),
            lambda recipe: not (self._budget and self._budget.excess(recipe.student)),
            self._distributions,
        )
        return Promotion(self.space, self.method, self._mirror, candidates, self.recipe)

    def adopt(self, trial: FrozenTrial) -> None:
        """Copy the next stored trial, with its end if it has ended."""
        self._mirror.adopt(trial)
        for parameter, distribution in trial.distributions.items():
            self._distributions.setdefault(parameter, distribution)
        self._asked += 1
        self._running.add(trial.number)
        if trial.state.is_finished():
            self._mirror.settle(trial)
            self._running.discard(trial.number)
        self._count(trial.number)

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
    def unit(self) -> int:
        """What one of `--trials` is, in the measure of `committed`: a trial, or epochs."""
        return self._strategy.unit

    @property
    def committed(self) -> int:
        """What the trials take of the budget, with what the running ones may take."""
        return self._committed

    @property
    def spent(self) -> int:
        """What the ended trials took of the budget."""
        return self._committed - sum(self._costs[number] for number in self._running)

    def cost(self, number: int) -> int:
        """What a trial takes of the budget or, while it is running, may take."""
        return self._costs[number]

    def may_ask(self, limit: int) -> bool:
        """Whether a further trial may begin: trial n waits for trial n - lag.

        None may once `limit` is committed, in the measure of `unit`.
        """
        settled = self._asked - self.method.lag
        waiting = any(number <= settled for number in self._running)
        return self._committed < limit and not waiting

    def ask(self) -> FrozenTrial:
        """Decide the parameters of the next trial. One with an `excess` has ended already."""
        number = self._asked
        proposal = self._strategy.propose(number)
        parameters = proposal.parameters
        enqueued = None if parameters is None else dict(parameters)
        trial = self._mirror.ask(number, proposal.sampler, enqueued)
        try:
            suggested = self._suggest(number, trial)
        except ProtocolError as error:  # of the space, unless the sampler has failed within it
            raise getattr(proposal.sampler, "failure", None) or error from error
        for key, value in proposal.job.items():
            trial.set_user_attr(key, value)
        if self._origin(number) == number:
            self._recipes[number] = suggested
        excess = self._judge(trial, self.recipe(number).student)
        self._copy_reports(number)
        trial.set_user_attr(ASKED, asked_digest(self._study, self._mirror.trial(number)))
        self._asked += 1
        if excess:
            self._reject(trial, excess)
        else:
            self._running.add(number)
        self._count(number)
        return self._mirror.trial(number)

    def _copy_reports(self, number: int) -> None:
        """Give a trial that continues another one its reports."""
        before = self._mirror.trial(number).user_attrs.get(CONTINUES)
        if before is not None:
            for epoch, value in self._mirror.trial(before).intermediate_values.items():
                self._mirror.report(number, epoch, value)

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

        Its state is PRUNED, since samplers do not learn from FAIL. It audits no pruner.
        """
        attributes: dict[str, Any] = {INFEASIBLE: excess}
        if AUDITOR in self._mirror.trial(trial.number).user_attrs:
            attributes[AUDITOR] = False
        attributes[ENDED] = self.digest(trial.number, TrialState.PRUNED, None, attributes)
        for key, attribute in attributes.items():
            trial.set_user_attr(key, attribute)
        self._mirror.end(trial.number, TrialState.PRUNED, None)

    def trial(self, number: int) -> FrozenTrial:
        return self._mirror.trial(number)

    def excess(self, number: int) -> str:
        """Return by how much a trial's student is over the budget; empty if it is within."""
        return str(self._mirror.trial(number).user_attrs.get(INFEASIBLE, ""))

    def recipe(self, number: int) -> Recipe:
        """Return a trial's recipe, which its space makes from its parameters and its number.

        A run that goes on or is repeated has that of its first trial.
        """
        if number not in self._recipes:
            origin = self._origin(number)
            if origin == number:
                fixed = optuna.trial.FixedTrial(self._mirror.trial(number).params, number)
                self._recipes[number] = self._suggest(number, fixed)
            else:
                self._recipes[number] = self.recipe(origin)
        return self._recipes[number]

    def _origin(self, number: int) -> int:
        told = self._mirror.trial(number).user_attrs
        return int(told.get(REPEATS, told.get(RUN, number)))

    def begun(self, number: int) -> int:
        """Return the epoch that a trial goes on from; 0 for one that begins its run."""
        before = self._mirror.trial(number).user_attrs.get(CONTINUES)
        return 0 if before is None else int(self._mirror.trial(before).user_attrs[UNTIL])

    def first(self, recipe: Recipe) -> int:
        """Return the number of the first trial with this recipe; one of the arm's trials has it."""
        return next(number for number in range(self.asked) if self.recipe(number) == recipe)

    def _suggest(self, number: int, trial: BaseTrial) -> Recipe:
        return propose_in_study(self.space, trial, f"trial {number}", self._distributions)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Copy an epoch's score; return whether it is new."""
        if epoch in self._mirror.trial(number).intermediate_values:
            return False
        self._mirror.report(number, epoch, value)
        return True

    def stops(self, number: int, epoch: int) -> bool:
        """Whether the trial ends early, after `epoch`, its last one reported."""
        return self._strategy.stops(number, epoch)

    def attributes(
        self, number: int, state: TrialState, value: float | None, chosen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the user attributes of a trial at its end, with its digest."""
        digest = {ENDED: self.digest(number, state, value, chosen)}
        return {**chosen, **self._findings(number), **digest}

    def _findings(self, number: int) -> dict[str, Any]:
        return {**self._mirror.rungs(number), **self._strategy.findings(number)}

    def end(
        self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]
    ) -> None:
        """Copy the end of a trial, with these user attributes."""
        for key, attribute in attributes.items():
            self._mirror.note(number, key, attribute)
        self._mirror.end(number, state, None if value is None else [value])
        self._running.discard(number)
        self._count(number)

    def _count(self, number: int) -> None:
        """Note what a trial takes of the budget."""
        self._committed -= self._costs.get(number, 0)
        self._costs[number] = self._strategy.cost(self._mirror.trial(number))
        self._committed += self._costs[number]

    def digest(
        self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]
    ) -> str:
        """Return the digest of a trial with this end; see `storage.studies.trials`."""
        values = None if value is None else [value]
        all_attributes = {**attributes, **self._findings(number)}
        trial = self._mirror.trial(number)
        return ended_digest(self._study, trial, state, values, all_attributes)

    def ranked(self) -> Sequence[FrozenTrial]:
        """Return the trials from which finalists may come, the best first.

        By promotion it is one for each recipe, which may be paused.
        """
        return self._strategy.ranked()

    @property
    def recipes_begun(self) -> tuple[int, int]:
        """How many recipes were begun, and how many of them came to the horizon."""
        begun = {
            self.recipe(trial.number)
            for trial in self.trials
            if trial.state.is_finished()
            and trial.state != TrialState.FAIL
            and not self.excess(trial.number)
        }
        return len(begun), len({self.recipe(trial.number) for trial in self.whole})

    def learnt(self) -> Learnt | None:
        """What the search has learnt of the parameters, if it models them."""
        return self._strategy.learnt()

    @property
    def whole(self) -> list[FrozenTrial]:
        """The trials whose runs have reached the horizon."""
        return [t for t in self._mirror.complete if not t.user_attrs.get("diverged")]

    @property
    def highest(self) -> FrozenTrial | None:
        """The trial at the horizon with the highest value so far; of equals the first."""
        return max(self.whole, key=lambda trial: (trial.value, -trial.number), default=None)
