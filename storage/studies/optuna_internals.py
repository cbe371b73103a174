"""All private parts of Optuna that Retort uses; other modules import them from here.

Four classes extend Optuna's own and override or call private methods, which `INHERITED` lists.
`tests/storage/test_optuna_internals.py` fails when a release of Optuna changes any of them.
"""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator as ParzenEstimator
from optuna.samplers._tpe.sampler import _split_trials as split_trials
from optuna.samplers._tpe.sampler import default_gamma
from optuna.search_space.group_decomposed import _SearchSpaceGroup as SearchSpaceGroup
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session as database_session
from optuna.trial import FrozenTrial, TrialState

__all__ = (
    "INHERITED",
    "ParzenEstimator",
    "SearchSpaceGroup",
    "StoredTrial",
    "database_behind",
    "database_session",
    "default_gamma",
    "distributions_in_memory",
    "models",
    "split_trials",
    "storage_of",
    "study_id_of",
    "trial_id_of",
    "trials_in_memory",
    "trials_of",
)

# Private methods and attributes that subclasses in Retort override or use, by Optuna's class.
INHERITED: dict[type, tuple[str, ...]] = {
    RDBStorage: (
        "_create_new_trial",
        "_get_best_trial_id",
        "_get_prepared_new_trial",
        "_get_trials",
        "_set_trial_attr_without_commit",
        "_set_trial_param",
        "_set_trial_value_without_commit",
    ),
    TPESampler: (
        "_compare",
        "_compute_acquisition_func",
        "_n_ei_candidates",
        "_n_startup_trials",
        "_parzen_estimator_parameters",
        "_rng",
        "_sample",
        "_sample_relative",
        "_search_space_group",
    ),
}


class StoredTrial(optuna.Trial):
    """A stored trial as an `optuna.Trial`, which functions for notes and artifacts require.

    The constructor of `optuna.Trial` itself would start to sample.
    """

    def __init__(self, study: optuna.Study, trial_id: int) -> None:
        self.study = study
        self.storage = storage_of(study)
        self._trial_id = trial_id


def storage_of(study: optuna.Study) -> BaseStorage:
    return study._storage


def study_id_of(study: optuna.Study) -> int:
    return study._study_id


def trial_id_of(trial: FrozenTrial | optuna.Trial) -> int:
    return trial._trial_id


def trials_of(study: optuna.Study, states: tuple[TrialState, ...]) -> list[FrozenTrial]:
    """Return the trials of a study in these states, with Hyperband those of all brackets."""
    return study._get_trials(deepcopy=False, states=states)


def database_behind(storage: BaseStorage) -> object:
    """Return the storage inside Optuna's cache of a database; None if there is no cache."""
    return getattr(storage, "_backend", None)


def trials_in_memory(storage: InMemoryStorage, study_id: int) -> list[FrozenTrial]:
    """Return the storage's own list of the trials of a study, not a copy."""
    return storage._studies[study_id].trials


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a value is one of a distribution's."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


def distributions_in_memory(storage: InMemoryStorage, study_id: int) -> dict[str, BaseDistribution]:
    """Return the storage's own record of the kinds of a study's parameters, not a copy."""
    kept: Any = storage._studies[study_id]
    known: dict[str, BaseDistribution] = kept.param_distribution
    return known
