"""An arm's trials as a report sees them: what each trained, and which run and recipe it is of.

With a sampler every trial is one run. In the search by promotion a trial is a job: it trains one
run from one epoch to another, a run that goes on is a further trial, and a recipe may have several
runs, on different seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import Any

from optuna.distributions import BaseDistribution

from kd.recipe import Recipe
from kd.training.history import EpochMetrics
from reports.read.importances import Importance
from storage.files.records import Plane, RunRecord

ENDED = ("COMPLETE", "PRUNED")  # the states that count towards a study's budget


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialData:
    """One trial as Optuna stores it, with its run record if it has ended.

    `values` are the metric on the validation split by epoch, from 1; `value` is the last of them.
    A job of the search by promotion has its `run`, named by its first trial, the epoch `until`
    which it trains, the trial that it `continues`, with the epochs `begun` before it, and the run
    whose recipe it `repeats` on another seed. Its `values`, its record and `early`, the early
    signal in nats by rung, are those of the whole run.
    """

    arm: str
    number: int
    state: str  # COMPLETE, PRUNED, FAIL, RUNNING, WAITING, or INFEASIBLE: over the budget
    value: float | None
    parameters: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    values: Mapping[int, float]
    diverged: bool
    auditor: bool
    cut_epoch: int | None  # of an auditor: where the pruner would have cut it
    reason: str
    started: datetime | None
    seconds: float | None
    record: RunRecord | None
    run: int | None = None
    until: int | None = None
    continues: int | None = None
    begun: int = 0
    repeats: int | None = None
    early: Mapping[int, float] = field(default_factory=dict)

    @property
    def ranked(self) -> float:
        """Its value, below all others where it has none."""
        return -math.inf if self.value is None else self.value

    @property
    def reached(self) -> int:
        """Epochs of its run that were trained to their end, also by the trials before it.

        The record of a job that failed at once has none of them.
        """
        return max(len(self.history), max(self.values, default=0))

    @property
    def epochs(self) -> int:
        """Epochs that it trained to their end itself."""
        return self.reached - self.begun

    @property
    def spent(self) -> int:
        """Epochs of a budget that it took: of one that diverged also the one in which it did."""
        return self.epochs + self.diverged

    @property
    def trained_seconds(self) -> float | None:
        """The time of its own training, or until its end in the storage if it has no record."""
        if self.record is None:
            return self.seconds
        if not self.begun:
            return self.record.seconds
        return sum(epoch.seconds for epoch in self.record.history[self.begun :])

    @property
    def history(self) -> list[EpochMetrics]:
        """The epochs of its run, from the first."""
        return self.record.history if self.record else []

    @property
    def is_whole(self) -> bool:
        """Whether its run was trained to the horizon."""
        return self.state == "COMPLETE" and not self.diverged


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeData:
    """A recipe, by the last trial of each of its runs.

    With a sampler each trial is taken as a recipe of its own.
    """

    trials: tuple[TrialData, ...]

    @property
    def first(self) -> TrialData:
        return self.trials[0]

    @property
    def value(self) -> float:
        """The mean of the metric over its runs."""
        return fmean(trial.ranked for trial in self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmData:
    """One arm's trials by number, and which parameters mattered, the largest share first.

    In a search by promotion the importances and the `plane` are those that its surrogate has
    learnt, and `trusted` is whether it used the early signal; with a sampler the importances are
    PED-ANOVA's, which sum to 1, and there is neither.
    """

    name: str
    trials: tuple[TrialData, ...]
    importances: Mapping[str, Importance]
    importances_note: str  # why there are none, or how far to trust them
    plane: Plane | None = None
    trusted: bool | None = None

    @property
    def counted(self) -> tuple[TrialData, ...]:
        return tuple(trial for trial in self.trials if trial.state in ENDED)

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    @property
    def runs(self) -> tuple[TrialData, ...]:
        """The last trial of each run that has ended, which has all of the run's epochs."""
        continued = {trial.continues for trial in self.counted}
        return tuple(trial for trial in self.counted if trial.number not in continued)

    @property
    def courses(self) -> tuple[TrialData, ...]:
        """The trials whose epochs are drawn, of each run one, also of those that have not ended."""
        continued = {trial.continues for trial in self.counted}
        return tuple(
            trial
            for trial in self.trials
            if trial.number not in continued and (trial.state in ENDED or trial.continues is None)
        )

    @property
    def recipes(self) -> int:
        """The number of recipes that were begun, apart from those of jobs that failed."""
        return len(_by_recipe(self.runs))

    @property
    def completed(self) -> list[TrialData]:
        """The trials that were trained to the horizon, the best first; of equals the earliest."""
        whole = (trial for trial in self.trials if trial.is_whole)
        return sorted(whole, key=lambda trial: (-trial.ranked, trial.number))

    @property
    def ranking(self) -> list[RecipeData]:
        """The recipes that were trained to the horizon, the best mean first."""
        recipes = _by_recipe([trial for trial in self.trials if trial.is_whole])
        return sorted(recipes, key=lambda recipe: (-recipe.value, recipe.first.number))

    @property
    def best(self) -> TrialData | None:
        """The first trial at the horizon of the recipe with the best mean."""
        return next((recipe.first for recipe in self.ranking), None)

    @property
    def best_value(self) -> float | None:
        """The mean of the best recipe over its runs."""
        return next((recipe.value for recipe in self.ranking), None)


def _by_recipe(trials: Sequence[TrialData]) -> list[RecipeData]:
    """Put the runs of one recipe together. With a sampler each trial is one of its own."""
    recipes: dict[Recipe | int, list[TrialData]] = {}
    for place, trial in enumerate(trials):
        key: Recipe | int = place
        if trial.run is not None:
            first = trial.run if trial.repeats is None else trial.repeats
            key = first if trial.record is None else trial.record.recipe
        recipes.setdefault(key, []).append(trial)
    return [RecipeData(trials=tuple(runs)) for runs in recipes.values()]
