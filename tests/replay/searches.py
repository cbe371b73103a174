"""Searches over a table of recorded curves: Retort's own, and those that it is compared with.

A search is a sequence of jobs; decision n sees the results of jobs 0 … n - lag, younger ones are
pending. The methods know a table's recipes by their rows and parameters alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from conductor.search.promotion.encoding import Encoding
from conductor.search.promotion.model import Model
from conductor.search.promotion.rungs import (
    STARTUP,
    Continue,
    Repeat,
    Run,
    decide,
    is_trusted,
    rungs_of,
)
from conductor.search.promotion.scale import Scale
from conductor.search.promotion.surrogate import Parameters
from tests.replay.tables import EARLY, Floats, Table

CLASSES = 10
WARMUP = 4  # the median pruner's: a quarter of the horizon
BEFORE = 5  # runs at the horizon before it prunes
AUDIT_EVERY = 6
PICKED = 3  # recipes that go on to selection


@dataclass(frozen=True, slots=True)
class Job:
    """Run `run` of the recipe at `point`, on a recorded seed, trained from `begun` to `until`."""

    run: int
    point: int
    seed: int
    begun: int
    until: int
    auditor: bool = False


@dataclass(slots=True)
class State:
    """What has been decided, and what a decision may see."""

    table: Table
    generator: np.random.Generator
    lag: int
    jobs: list[Job] = field(default_factory=list)

    @property
    def number(self) -> int:
        return len(self.jobs)

    @property
    def seen(self) -> int:
        """The number of jobs whose results are known."""
        return max(0, self.number - self.lag + 1)

    def points(self) -> dict[int, int]:
        """The first run of each point that was begun."""
        found: dict[int, int] = {}
        for job in self.jobs:
            found.setdefault(job.point, job.run)
        return found

    def new(self, point: int, until: int, auditor: bool = False) -> Job:
        """A run of the point on a seed, one that it was not begun with as long as there is one."""
        begun = {job.seed for job in self.jobs if job.point == point}
        every = range(self.table.seeds[point])
        seeds = [seed for seed in every if seed not in begun] or every
        return Job(self.number, point, int(self.generator.choice(seeds)), 0, until, auditor)

    def random_point(self) -> int:
        """An enqueued recipe, then any."""
        return self.number if self.number < self.table.enqueued else self._any()

    def _any(self) -> int:
        return int(self.generator.integers(len(self.table)))

    def value(self, job: Job, signal: str, epoch: int) -> float:
        found = float(self.table.signals[signal][job.point, job.seed, epoch - 1])
        return found if signal == "accuracy" else -found

    def runs(self) -> list[Run]:
        """The runs as the rule of promotion sees them."""
        firsts, horizon = self.points(), self.table.horizon
        runs: dict[int, Run] = {}
        for number, job in enumerate(self.jobs):
            known = number < self.seen
            run = runs.setdefault(
                job.run, Run(number=job.run, recipe=firsts[job.point], last=number)
            )
            run.last, run.target = number, job.until
            if known:
                run.epochs = job.until
                run.auditor, run.promoted = job.auditor, job.begun > 0 and job.until == horizon
                run.signals = {
                    rung: signal
                    for rung in rungs_of(horizon)
                    if rung <= job.until and np.isfinite(signal := self.value(job, EARLY, rung))
                }
                run.diverged = job.until not in run.signals
                if run.diverged:
                    run.epochs = run.target = horizon
                elif job.until == horizon:
                    run.value = self.value(job, "accuracy", horizon)
        return list(runs.values())


class Method(Protocol):
    """A way to search."""

    def decide(self, state: State) -> Job:
        """Return the next job."""
        ...

    def pick(self, state: State) -> list[int]:
        """Return the points that would go on to selection, the best first."""
        ...


class ByValue:
    """Picks by the highest values of the runs that came furthest."""

    def pick(self, state: State) -> list[int]:
        last: dict[int, Job] = {job.run: job for job in state.jobs[: state.seen]}
        order = sorted(
            last.values(), key=lambda job: (-job.until, -state.value(job, "accuracy", job.until))
        )
        return list(dict.fromkeys(job.point for job in order))[:PICKED]


class Whole(ByValue):
    """Every trial is a run of its own. `proposer` chooses, and `cut` ends it early."""

    def __init__(self, proposer: "Proposer | None" = None, cut: str = "") -> None:
        self.proposer = proposer
        self.cut = cut

    def decide(self, state: State) -> Job:
        if self.proposer and state.number >= state.table.enqueued:
            point = self.proposer.propose(state)
        else:
            point = state.random_point()
        job = state.new(point, state.table.horizon)
        return replace(job, until=self._end(state, job))

    def _end(self, state: State, job: Job) -> int:
        if self.cut == "median" and state.number % AUDIT_EVERY:
            return _median_end(state, job)
        return _halving_end(state, job) if self.cut == "halving" else job.until


def _median_end(state: State, job: Job) -> int:
    """Return where Optuna's median pruner would end a run, by accuracy."""
    horizon = job.until
    whole = [one for one in state.jobs[: state.seen] if one.until == horizon]
    best = -1.0
    for epoch in range(1, horizon):
        best = max(best, state.value(job, "accuracy", epoch))
        others = [state.value(one, "accuracy", epoch) for one in whole]
        if len(whole) >= BEFORE and epoch > horizon // WARMUP and best < np.median(others):
            return epoch
    return horizon


def _halving_end(state: State, job: Job) -> int:
    """Return where successive halving without resumption ends a run, by the early signal."""
    for rung in rungs_of(job.until)[:-1]:
        at = [
            state.value(one, EARLY, rung) for one in state.jobs[: state.seen] if one.until >= rung
        ]
        value = state.value(job, EARLY, rung)
        if sum(other > value for other in at) >= max(1, (len(at) + 1) // 3):
            return rung
    return job.until


class Proposer:
    """An Optuna sampler, which takes the recipe of the table that is nearest to its proposal.

    It is given the ended trials that the lag allows, with the nearest recipe's parameters.
    """

    def __init__(self, table: Table, sampler: BaseSampler) -> None:
        self._rows, self._parameters = rows_of(table)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._told = 0

    def propose(self, state: State) -> int:
        for job in state.jobs[self._told : state.seen]:
            self._tell(state, job)
        self._told = max(self._told, state.seen)
        trial = self._study.ask(dict(state.table.distributions))
        self._study.tell(trial, state=TrialState.FAIL)
        row = Encoding(state.table.distributions).row(trial.params)
        near = self._parameters.similarity(row[None], self._rows)[0]
        near[list(state.points())] = -1.0
        return int(near.argmax())

    def _tell(self, state: State, job: Job) -> None:
        table, whole = state.table, job.until == state.table.horizon
        parameters = dict(table.parameters[job.point])
        self._study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if whole else TrialState.PRUNED,
                value=state.value(job, "accuracy", job.until) if whole else None,
                params=parameters,
                distributions={name: table.distributions[name] for name in parameters},
                intermediate_values={
                    epoch: max(-1e9, state.value(job, EARLY, epoch))
                    for epoch in range(1, job.until + 1)
                },
            )
        )


class Promotion(ByValue):
    """Promotion alone (ASHA, with resumption): random recipes, by the early signal."""

    def decide(self, state: State) -> Job:
        number = min(1, state.number)  # at which nothing is repeated, and no auditor begun
        decision = decide(number, state.runs(), rungs_of(state.table.horizon), list)
        if isinstance(decision, Continue):
            return _go_on(state, decision)
        return state.new(state.random_point(), self._until(state, decision.until))

    def _until(self, state: State, until: int) -> int:
        return state.table.horizon if state.number < state.table.enqueued else until


def _go_on(state: State, decision: Continue) -> Job:
    before = state.jobs[decision.run.last]
    return replace(before, begun=before.until, until=decision.until)


class Learning:
    """The product's search: promotion, repeats, the surrogate's proposals and its pick."""

    def __init__(self, table: Table) -> None:
        self._rows, parameters = rows_of(table)
        self._model = Model(parameters, Scale(True, CLASSES), table.horizon)

    def decide(self, state: State) -> Job:
        if state.number < state.table.enqueued:
            return state.new(state.number, state.table.horizon)
        runs = self._runs(state)
        rungs = rungs_of(state.table.horizon)
        decision = decide(state.number, runs, rungs, partial(self._ranked, runs))
        if isinstance(decision, Continue):
            return _go_on(state, decision)
        if isinstance(decision, Repeat):
            return state.new(self._point(state, decision.recipe), decision.until)
        point = self._choose(state, runs, early=not decision.auditor)
        new = point not in state.points()
        return state.new(point, decision.until, decision.auditor and new)

    def _runs(self, state: State) -> list[Run]:
        runs = state.runs()
        self._model.add({run.recipe: self._rows[self._point(state, run.recipe)] for run in runs})
        return runs

    def _point(self, state: State, recipe: int) -> int:
        return state.jobs[recipe].point

    def _ranked(self, runs: Sequence[Run], recipes: Collection[int]) -> list[int]:
        return self._model.ranked(self._model.posterior(runs, is_trusted(runs)), recipes)

    def _choose(self, state: State, runs: Sequence[Run], early: bool) -> int:
        begun = state.points()
        every = range(len(state.table))
        new = np.array([point for point in every if point not in begun] or every)
        whole = {run.recipe for run in runs if run.value is not None}
        early = early or len(whole) < STARTUP
        known = {run.recipe for run in runs if run.epochs} if early else whole
        if len(runs) < STARTUP or not known:
            return int(state.generator.choice(new))
        place = self._model.best_of(self._rows[new], self._model.posterior(runs, early), known)
        return int(new[place])

    def pick(self, state: State) -> list[int]:
        runs = self._runs(state)
        known = {run.recipe for run in runs if run.epochs and not run.diverged}
        whole = {run.recipe for run in runs if run.value is not None}
        known = known if is_trusted(runs) or not whole else whole
        ranked = self._ranked(runs, known) if known else []
        return [self._point(state, recipe) for recipe in ranked[:PICKED]]


def rows_of(table: Table) -> tuple[Floats, Parameters]:
    """Return the rows [N, D] of a table's recipes, and their columns."""
    encoding = Encoding(table.distributions)
    return np.stack([encoding.row(one) for one in table.parameters]), encoding.parameters


@dataclass(frozen=True, slots=True)
class Searched:
    """One search: epochs spent after each job whose result is known, and the picks by then."""

    spent: NDArray[np.int64]
    picks: list[list[int]]


def search(
    table: Table, method: Method, generator: np.random.Generator, lag: int, budget: int
) -> Searched:
    """Search until `budget` epochs are spent."""
    state = State(table, generator, lag)
    spent: list[int] = []
    picks: list[list[int]] = []
    costs: list[int] = []
    while not spent or spent[-1] < budget:
        job = method.decide(state)
        state.jobs.append(job)
        costs.append(job.until - job.begun)
        if state.seen and (found := method.pick(state)):
            spent.append(sum(costs[: state.seen]))
            picks.append(found)
    return Searched(np.asarray(spent), picks)
