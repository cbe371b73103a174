"""Create, open and check the Optuna study of an arm."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage

from kd.errors import StudyError
from storage.studies.transactions import in_database


def study_name(name: str, arm: str) -> str:
    """Return the Optuna study's name of one arm."""
    return f"{name}.{arm}"


def open_study(
    storage: BaseStorage, name: str, attributes: Mapping[str, Any], metric: str = "accuracy"
) -> optuna.Study:
    """Return a new or existing study that maximises a metric on the validation split.

    `attributes` are stored as user attributes. Raises StudyError when the study exists with other
    values: it cannot be resumed with another protocol, search method or space.
    """
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )
    _check_direction(study)
    kept = study.user_attrs
    for key, value in attributes.items():
        if key not in kept:
            study.set_user_attr(key, value)
        elif kept[key] != value:
            raise StudyError(
                f"{name} was begun with {key} {kept[key]!r}, not {value!r}; "
                "use that, or another --name"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        names = [f"validation {metric}"]
        if study.metric_names != names:
            study.set_metric_names(names)
    return study


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return an existing study. Raises KeyError when there is none."""
    study = optuna.load_study(study_name=name, storage=storage)
    _check_direction(study)
    return study


def system_attributes(storage: BaseStorage, study_id: int, prefix: str) -> dict[str, Any]:
    """Return a study's system attributes whose names begin with `prefix`.

    Only these are read from a database, since the dashboard stores the notes of all trials there.
    """
    database = in_database(storage)
    if database:
        return database.matching_system_attrs(study_id, prefix)
    attributes = storage.get_study_system_attrs(study_id)
    return {key: kept for key, kept in attributes.items() if key.startswith(prefix)}


def _check_direction(study: optuna.Study) -> None:
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise StudyError(
            f"{study.study_name} does not maximise one value: the storage is damaged, or the study "
            "is not Retort's; choose another --name"
        )
