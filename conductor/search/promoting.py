"""The search by promotion: which run is begun, goes on or is repeated, from an arm's trials.

A trial is a job: it trains one run from one epoch to another. So an arm's log only grows: a run
that goes on is a new trial, with the reports so far and the number of the trial that it continues.
A run is named by its first trial, a recipe by its first run.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from conductor.search.methods import SearchMethod
from conductor.search.mirror import Mirror
from conductor.search.promotion.candidates import Candidate, Candidates
from conductor.search.promotion.encoding import Encoding
from conductor.search.promotion.findings import learnt
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
from conductor.search.promotion.seen import runs_seen
from conductor.search.promotion.surrogate import Floats
from conductor.search.proposal import Proposal
from kd.recipe import Recipe
from kd.seeds import derive_seed
from search_spaces.space import Space
from storage.files.records import Learnt
from storage.studies.trials import AUDITOR, CONTINUES, INFEASIBLE, REPEATS, RUN, UNTIL


class Promotion:
    """Decides by rungs and a surrogate, from the trials in `mirror` that the lag allows."""

    def __init__(
        self,
        space: Space,
        method: SearchMethod,
        mirror: Mirror,
        candidates: Candidates,
        recipe: Callable[[int], Recipe],
    ) -> None:
        """`recipe` returns that of a trial."""
        self.unit = method.horizon  # one of `--trials` is a training's worth of epochs
        self._enqueued = list(space.enqueued.values())
        self._space = space
        self._method = method
        self._mirror = mirror
        self._recipe = recipe
        self._rungs = rungs_of(method.horizon)
        self._scale = Scale(method.is_share, method.classes)
        self._candidates = candidates
        self._first: dict[Recipe, int] = {}  # the run that a recipe was begun with
        self._rows: dict[Candidate, Floats] = {}  # of the last decision that chose
        self._ranges: dict[str, BaseDistribution] = {}
        self._learn({})

    def propose(self, number: int) -> Proposal:
        """Propose an enqueued recipe, which is trained to the horizon, or decide by the rungs."""
        if number < len(self._enqueued):
            job = {RUN: number, UNTIL: self._method.horizon}
            return Proposal(parameters=self._enqueued[number], job=job)
        runs = self._runs(self._mirror.trials[:number], number - self._method.lag + 1)
        decision = decide(number, runs, self._rungs, partial(self._ranked, runs))
        if isinstance(decision, Continue):
            run = decision.run
            job = {RUN: run.number, CONTINUES: run.last, UNTIL: decision.until}
            return Proposal(parameters=self._mirror.trial(run.number).params, job=job)
        job = {RUN: number, UNTIL: decision.until}
        if isinstance(decision, Repeat):
            parameters: Mapping[str, Any] = self._mirror.trial(decision.recipe).params
            return Proposal(parameters=parameters, job={**job, REPEATS: decision.recipe})
        chosen = self._choose(number, runs, early=not decision.auditor)
        if chosen.recipe in self._first:
            job[REPEATS] = self._first[chosen.recipe]
        elif decision.auditor:
            job[AUDITOR] = True
        return Proposal(parameters=chosen.parameters, job=job)

    def _runs(self, trials: Sequence[FrozenTrial], settled: int) -> list[Run]:
        """Return the runs that are seen, and give the model their recipes.

        The columns of its rows are the parameters of these trials and of the first candidates.
        """
        runs = runs_seen(trials, settled, self._method.horizon, self._first_run)
        drawn = [candidate.distributions for candidate in self._candidates.sample]
        for ranges in (*drawn, *(trial.distributions for trial in trials)):
            if not ranges.keys() <= self._ranges.keys():
                self._learn(ranges)
        new = {
            run.recipe: trials[run.recipe].params for run in runs if run.recipe not in self._model
        }
        self._model.add({recipe: self._encoding.row(told) for recipe, told in new.items()})
        return runs

    def _learn(self, ranges: Mapping[str, BaseDistribution]) -> None:
        """Begin the model again, with the columns of further parameters."""
        self._ranges = {**ranges, **self._ranges}
        self._encoding = Encoding(self._ranges)
        self._rows = {}
        self._model = Model(self._encoding.parameters, self._scale, self._method.horizon)

    def _first_run(self, run: int) -> int:
        """Return the first run with the recipe of this one."""
        return self._first.setdefault(self._recipe(run), run)

    def _ranked(self, runs: Sequence[Run], recipes: Collection[int]) -> list[int]:
        return self._model.ranked(self._model.posterior(runs, is_trusted(runs)), recipes)

    def _choose(self, number: int, runs: Sequence[Run], early: bool) -> Candidate:
        """Choose a new recipe or, where all candidates are known, one of these.

        Without `early`, by what is known at the horizon, where that is enough.
        """
        drawn = self._candidates.of(number)
        new = [one for one in drawn if one.recipe not in self._first] or drawn
        whole = {run.recipe for run in runs if run.value is not None}
        early = early or len(whole) < STARTUP
        known = {run.recipe for run in runs if run.epochs} if early else whole
        if len(runs) < STARTUP or not known:
            return new[0]
        before = self._rows
        self._rows = {
            one: before[one] if one in before else self._encoding.row(one.parameters) for one in new
        }
        rows = np.stack([*self._rows.values()])
        return new[self._model.best_of(rows, self._model.posterior(runs, early), known)]

    def cost(self, trial: FrozenTrial) -> int:
        """Return the epochs that a trial trains; one that diverged, also the one where it did."""
        told = trial.user_attrs
        if INFEASIBLE in told or trial.state == TrialState.FAIL:
            return 0
        before = self._mirror.trial(told[CONTINUES]).user_attrs[UNTIL] if CONTINUES in told else 0
        if told.get("diverged"):
            return max(trial.intermediate_values, default=0) + 1 - int(before)
        return int(told[UNTIL] - before)

    def stops(self, number: int, epoch: int) -> bool:
        """A job ends by itself, after the epoch that it was begun for."""
        return False

    def findings(self, number: int) -> Mapping[str, Any]:
        return {}

    def learnt(self) -> Learnt | None:
        """Return what the surrogate has learnt; None if it knows too few recipes."""
        trials = self._mirror.trials
        runs = self._runs(trials, len(trials))
        if len(runs) < STARTUP:
            return None
        seed = derive_seed(self._method.seed, "learnt", self._space.name)
        trusted = is_trusted(runs)
        posterior = self._model.posterior(runs, trusted)
        sample = self._candidates.sample
        shown = partial(self._model.shown, runs=runs)
        return learnt(posterior, self._encoding, sample, shown, seed, len(trials), trusted)

    def ranked(self) -> list[FrozenTrial]:
        """Return a trial of each recipe, the highest posterior mean at the horizon first.

        It is the first that came furthest. So a recipe of which little was trained can be best, as
        long as the early signal is trusted.
        """
        trials = self._mirror.trials
        runs = self._runs(trials, len(trials))
        known = [run for run in runs if run.epochs and not run.diverged]
        whole = [run for run in known if run.value is not None]
        if whole and not is_trusted(runs):
            known = whole
        if not known:
            return []
        known.sort(key=lambda run: (run.epochs, -run.number))
        furthest = {run.recipe: run for run in known}
        return [trials[furthest[recipe].last] for recipe in self._ranked(runs, furthest)]
