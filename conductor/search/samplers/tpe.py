"""Optuna's tree-structured Parzen estimator, which learns from completed and pruned trials.

It reads each trial of a study once, and not at every decision.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from storage.studies.optuna_internals import (
    ParzenEstimator,
    SearchSpaceGroup,
    default_gamma,
    split_trials,
    storage_of,
    study_id_of,
    trials_of,
)

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
CAPACITY = 64  # trials that there is room for at first


class Past:
    """What TPE reads of the trials of one study: their parameters, and which ones have the same.

    A trial's parameters are all known before the next one is asked, and do not change.
    """

    def __init__(self) -> None:
        self._count = 0
        self._places: dict[str, int] = {}
        self._values: NDArray[np.float64] = np.empty((CAPACITY, 0))  # NaN: has no such parameter
        self._kinds: dict[frozenset[str], int] = {}
        self._kind_of: NDArray[np.int64] = np.empty(CAPACITY, dtype=np.int64)

    def read(self, study: Study, number: int) -> None:
        """Take in the parameters of the trials before `number`, whether or not they have ended."""
        trials = storage_of(study).get_all_trials(study_id_of(study), deepcopy=False)
        for trial in trials[self._count : number]:
            self._make_room(trial)
            kind = frozenset(trial.params)
            self._kind_of[trial.number] = self._kinds.setdefault(kind, len(self._kinds))
            for name, value in trial.params.items():
                internal = trial.distributions[name].to_internal_repr(value)
                self._values[trial.number, self._places[name]] = internal
            self._count = trial.number + 1

    def _make_room(self, trial: FrozenTrial) -> None:
        new = [name for name in trial.params if name not in self._places]
        self._places |= {name: len(self._places) + place for place, name in enumerate(new)}
        more = len(self._kind_of) if trial.number >= len(self._kind_of) else 0
        if more or new:
            self._values = np.pad(self._values, ((0, more), (0, len(new))), constant_values=np.nan)
            self._kind_of = np.pad(self._kind_of, (0, more))

    def groups(self, trials: list[FrozenTrial]) -> SearchSpaceGroup:
        """Return the groups of parameters of these trials.

        Parameters that came together before divide no group again, so of the trials that have the
        same ones only the first counts.
        """
        group = SearchSpaceGroup()
        kinds = self._kind_of[_numbers(trials)]
        for place in sorted(np.unique(kinds, return_index=True)[1]):
            group.add_distributions(trials[place].distributions)
        return group

    def observations(
        self, numbers: NDArray[np.int64], space: dict[str, BaseDistribution]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the values in `space` of those of the trials that have all of its parameters."""
        if not space.keys() <= self._places.keys():  # one that no trial has had
            return {name: np.empty(0) for name in space}
        columns = [self._values[numbers, self._places[name]] for name in space]
        whole = ~np.isnan(columns).any(axis=0)
        return {name: column[whole] for name, column in zip(space, columns, strict=True)}


def make(seed: int, startup: int, past: Past) -> BaseSampler:
    return ReadingTPESampler(past, startup=startup, seed=seed)


class ReadingTPESampler(TPESampler):
    """TPE over the groups of parameters, which reads the past from `Past`.

    Everything is drawn and computed as in `TPESampler(multivariate=True, group=True)`, which reads,
    sorts and converts all trials again for every group: the same parameters come out
    (`tests/conductor/test_tpe.py`).
    """

    def __init__(self, past: Past, *, startup: int, seed: int) -> None:
        super().__init__(n_startup_trials=startup, multivariate=True, group=True, seed=seed)
        self._past = past
        self._ended: list[FrozenTrial] = []
        self._divided: list[NDArray[np.int64]] = []

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Read the trials, once for all groups of parameters of this trial."""
        self._past.read(study, trial.number)
        self._ended = trials_of(study, ENDED)
        self._divided = []
        self._search_space_group = self._past.groups(self._ended)
        return {
            name: distribution
            for space in self._search_space_group.search_spaces
            for name, distribution in sorted(space.items())
            if not distribution.single()
        }

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space or len(self._ended) < self._n_startup_trials:
            return {}
        return self._sample(study, trial, search_space)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        below, above = (
            ParzenEstimator(
                self._past.observations(numbers, search_space),
                search_space,
                self._parzen_estimator_parameters,
            )
            for numbers in self._divide(study, trial)
        )
        samples = below.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(samples, self._compute_acquisition_func(samples, below, above))
        return {
            name: distribution.to_external_repr(chosen[name])
            for name, distribution in search_space.items()
        }

    def _divide(self, study: Study, trial: FrozenTrial) -> list[NDArray[np.int64]]:
        """Return the numbers of the good trials and of all others, running ones among these."""
        if not self._divided:
            seen = trials_of(study, (TrialState.RUNNING,))
            running = [one for one in seen if one.number != trial.number]
            good = default_gamma(len(self._ended))
            divided = split_trials(study, self._ended + running, good)
            self._divided = [_numbers(part) for part in divided]
        return self._divided


def _numbers(trials: list[FrozenTrial]) -> NDArray[np.int64]:
    return np.array([trial.number for trial in trials], dtype=np.int64)
