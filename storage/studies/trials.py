"""Digests stored with each trial, so that later changes to a database are detected.

A database may be edited by hand, restored from an old copy, or lose a bit. So a new trial is stored
with a digest of its parameters, and an ended one with a digest that includes its outcome.
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
CONSTRAINTS = "constraints"  # user attribute: measured / limit - 1, for each limit of a student
INFEASIBLE = "infeasible"  # user attribute: the constraints that a trial violates
CHANGING = (ENDED, "seconds")  # user attributes that no digest covers
OF_STUDY = "retort:study:"  # prefix of a trial's system attributes that its sampler gave the study
# user attributes of a trial that is a job of the search by promotion: the run that it trains, named
# by its first trial; the epoch until which; the trial that it continues; and the run whose recipe
# it repeats on another seed
RUN, UNTIL, CONTINUES, REPEATS = JOB = ("run", "until", "continues", "repeats")
AUDITOR = "auditor"  # user attribute: whether a run goes to the horizon whatever is seen before
EARLY = "early_signal"  # user attribute: the early signal of a run, nats, by rung as far as it came
COVERED = (OF_STUDY, "fixed_params")  # system attributes that a digest covers


def asked_digest(study: str, trial: FrozenTrial) -> str:
    """Return SHA-256 over a trial's study, number, parameters, ranges, constraints and job.

    It covers enqueued parameters too, and what a sampler gave the study.
    """
    return _sha256(_asked(study, trial))


def ended_digest(
    study: str,
    trial: FrozenTrial,
    state: TrialState,
    values: list[float] | None,
    attributes: Mapping[str, Any],
) -> str:
    """Return SHA-256 over a trial that ends in `state` with `values`.

    It covers parameters, reports and user attributes, where `attributes` override the trial's own.
    Other system attributes, which belong to Optuna and the dashboard, are not covered.
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
    """End a trial and set these user attributes; in a database, in one transaction.

    Elsewhere the attributes are written first, so that an ended trial has all of them. Raises
    UpdateFinishedTrialError, and changes nothing, if it has already ended.
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
    keys = (*JOB, AUDITOR) if RUN in trial.user_attrs else ()
    job = {key: trial.user_attrs[key] for key in keys if key in trial.user_attrs}
    limited += [job] if job else []
    ours = {key: kept for key, kept in trial.system_attrs.items() if key.startswith(COVERED)}
    return [study, trial.number, trial.params, ranges, *limited, ours]


def _sha256(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
