"""Write an Optuna trial in one transaction when it starts, and in one when it ends."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from storage.studies.optuna_internals import database_behind, database_session, models


class WholeTrialStorage(RDBStorage):
    """An RDBStorage that writes all of a trial in one transaction.

    Optuna queries the database twice for each parameter and attribute of a new trial, and uses one
    transaction for every attribute of an existing one.
    """

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        """Write and return a trial, with everything in its template.

        Optuna checks here that a parameter has the same kind in all trials; Retort checks that when
        parameters are suggested (`conductor.search.mirror`).
        """
        if template_trial is None:
            return super()._get_prepared_new_trial(study_id, None, session)
        bare = copy.copy(template_trial)
        bare.params, bare.distributions, bare.intermediate_values = {}, {}, {}
        bare.user_attrs, bare.system_attrs = {}, {}
        trial: Any = super()._get_prepared_new_trial(study_id, bare, session)
        session.add_all(_rows(trial.trial_id, template_trial))
        return trial

    def end_trial(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
    ) -> bool:
        """End a trial and set these user attributes, in one transaction.

        Raises UpdateFinishedTrialError, and changes nothing, if it has already ended.
        """
        with database_session(self.scoped_session) as session:
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            self.check_trial_is_updatable(trial_id, trial.state)
            for key, attribute in attributes.items():
                self._set_trial_attr_without_commit(
                    session, models.TrialUserAttributeModel, trial_id, key, attribute
                )
            for place, value in enumerate(values or ()):
                self._set_trial_value_without_commit(session, trial, place, value)
            trial.state, trial.datetime_complete = state, datetime.now()
        return True

    def matching_system_attrs(self, study_id: int, prefix: str) -> dict[str, Any]:
        """Return a study's system attributes whose names begin with `prefix`."""
        kind = models.StudySystemAttributeModel
        with database_session(self.scoped_session) as session:
            rows = session.query(kind.key, kind.value_json).filter(
                kind.study_id == study_id, kind.key.startswith(prefix, autoescape=True)
            )
            return {key: json.loads(value) for key, value in rows}


def in_database(storage: BaseStorage) -> WholeTrialStorage | None:
    """Return the database storage inside Optuna's cache; None for other kinds of storage."""
    database = database_behind(storage)
    return database if isinstance(database, WholeTrialStorage) else None


def _rows(trial_id: int, template: FrozenTrial) -> Iterator[Any]:
    """Yield the database rows of a trial, except its state and values."""
    for name, value in template.params.items():
        distribution = template.distributions[name]
        yield models.TrialParamModel(
            trial_id=trial_id,
            param_name=name,
            param_value=distribution.to_internal_repr(value),
            distribution_json=distribution_to_json(distribution),
        )
    kinds = (
        (models.TrialUserAttributeModel, template.user_attrs),
        (models.TrialSystemAttributeModel, template.system_attrs),
    )
    for kind, attributes in kinds:
        for key, attribute in attributes.items():
            yield kind(trial_id=trial_id, key=key, value_json=json.dumps(attribute))
    for step, value in template.intermediate_values.items():
        stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        yield models.TrialIntermediateValueModel(
            trial_id=trial_id,
            step=step,
            intermediate_value=stored[0],
            intermediate_value_type=stored[1],
        )
