"""The ledger of one arm: all reads and writes of its Optuna study."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kd.errors import StudyError
from storage.studies.optuna_internals import StoredTrial, storage_of, study_id_of, trial_id_of
from storage.studies.retrying import RESTORE
from storage.studies.trials import check_trial, end_trial


class StudyLedger:
    """The trials of a study by number, as they are stored.

    A trial is begun in one transaction and ended in another, so a kill leaves none half-written.
    A server refuses both once another supervisor has taken over (`storage.studies.supervision`).
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._storage = storage_of(study)
        self._ids: list[int] = []

    def read(self) -> list[FrozenTrial]:
        """Return all trials, checked against their digests. Raises StudyError if one is missing."""
        trials = self.study.get_trials(deepcopy=False)
        for number, trial in enumerate(trials):
            if trial.number != number:
                name = self.study.study_name
                raise StudyError(f"{name} lacks trial {number}: the storage is damaged; {RESTORE}")
            check_trial(self.study.study_name, trial)
        self._ids = [trial_id_of(trial) for trial in trials]
        return trials

    def begin(self, trial: FrozenTrial) -> None:
        """Write the next trial, complete with parameters and attributes."""
        self._ids.append(self._storage.create_new_trial(study_id_of(self.study), trial))

    def report(self, number: int, epoch: int, value: float) -> None:
        self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)

    def end(
        self,
        number: int,
        state: TrialState,
        values: list[float] | None,
        attributes: Mapping[str, Any],
    ) -> None:
        """End a trial, with these user attributes."""
        end_trial(self._storage, self._ids[number], state, values, attributes)

    def stored_trial(self, number: int) -> StoredTrial:
        """Return a handle on the trial in the study's own storage."""
        return StoredTrial(self.study, self._ids[number])
