"""Digests stored with each trial, so that later changes to a database are detected.

A database may be edited by hand, restored from an old copy, or lose a bit. So a trial's parameters
are stored with a digest from the moment that it is asked, and its outcome with another one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from kd.errors import StudyError
from storage.studies.retrying import RESTORE
from storage.studies.transactions import in_database

ASKED = "asked"  # user attribute: `asked_digest` of the trial
ENDED = "digest"  # user attribute: digest of the whole trial, once it has ended
CONSTRAINTS = "constraints"  # user attribute: how far its student is over each limit, if any
INFEASIBLE = "infeasible"  # user attribute: which constraints a trial violates
CHANGING = (ENDED, "seconds")  # user attributes that no digest covers


def asked_digest(study: str, trial: FrozenTrial) -> str:
    """Return SHA-256 over study, number, parameters and ranges, and any constraints of a trial."""
    return _sha256(_asked(study, trial))


def ended_digest(
    study: str,
    trial: FrozenTrial,
    state: TrialState,
    values: list[float] | None,
    attributes: Mapping[str, Any],
) -> str:
    """Return SHA-256 over a trial that ends in `state` with `values`.

    It covers what was asked, all reports, and the user attributes, those of `attributes` before
    the trial's own. System attributes are Optuna's and the dashboard's.
    """
    kept = {**trial.user_attrs, **attributes}
    covered = {key: kept[key] for key in kept if key not in CHANGING}
    reports = sorted(trial.intermediate_values.items())
    return _sha256([*_asked(study, trial), reports, state.name, values, covered])


def check_trial(study: str, trial: FrozenTrial, *, strict: bool = True) -> None:
    """Compare a trial with its stored digest.

    Raises StudyError when they differ or, if `strict`, when there is none.
    """
    ended = trial.state.is_finished()
    kept = trial.user_attrs.get(ENDED if ended else ASKED)
    if kept is None and not strict:
        return
    wanted = (
        ended_digest(study, trial, trial.state, trial.values, {})
        if ended
        else asked_digest(study, trial)
    )
    if kept != wanted:
        raise StudyError(
            f"trial {trial.number} of {study} differs from its digest: the storage is damaged; "
            f"{RESTORE}"
        )


def end_trial(
    storage: BaseStorage,
    trial_id: int,
    state: TrialState,
    values: list[float] | None,
    attributes: Mapping[str, Any],
) -> None:
    """End a trial, which then has these user attributes: in a database, in one transaction.

    Elsewhere they are written first, so that a trial that has ended has them all. Raises
    UpdateFinishedTrialError, and changes nothing, if it has ended before.
    """
    database = in_database(storage)
    if database:
        database.end_trial(trial_id, state, values, attributes)
        return
    for key, attribute in attributes.items():
        storage.set_trial_user_attr(trial_id, key, attribute)
    storage.set_trial_state_values(trial_id, state, values)


def _asked(study: str, trial: FrozenTrial) -> list[Any]:
    ranges = {
        name: distribution_to_json(distribution)
        for name, distribution in trial.distributions.items()
    }
    constraints = trial.user_attrs.get(CONSTRAINTS)
    limited = [] if constraints is None else [constraints]
    return [study, trial.number, trial.params, ranges, *limited]


def _sha256(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
