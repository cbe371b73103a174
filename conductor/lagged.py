"""What a decision about trial n may see: 0 … n - lag as they ended, the rest as parameters."""

import copy
from collections.abc import Container

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState


class LaggedStorage(InMemoryStorage):
    """A study in memory that shows each decision exactly the trials that it may depend on.

    Set `deciding` to n before anything is asked about trial n. Samplers and pruners then see trials
    0 … n - lag as they ended; n - lag + 1 … n - 1 as running trials with parameters alone, whether
    or not they have ended meanwhile; n itself; and nothing after it. So a study depends on the lag,
    and not on how fast its workers are.
    """

    def __init__(self, lag: int) -> None:
        super().__init__()
        self.lag = lag
        self.deciding = 0

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=False)[: self.deciding + 1]
        seen = [self._seen(trial) for trial in trials]
        if states is not None:
            seen = [trial for trial in seen if trial.state in states]
        return copy.deepcopy(seen) if deepcopy else seen

    def _seen(self, trial: FrozenTrial) -> FrozenTrial:
        settled = trial.number <= self.deciding - self.lag or trial.number == self.deciding
        if settled:
            return trial
        return FrozenTrial(
            number=trial.number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=trial.datetime_start,
            datetime_complete=None,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=trial._trial_id,
        )
