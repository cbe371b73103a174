"""What a decision about trial n may see: 0 … n - lag as they ended, the rest as parameters."""

import copy
from bisect import bisect_left
from collections.abc import Container, Iterable

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from storage.studies.optuna_internals import (
    distributions_in_memory,
    trial_id_of,
    trials_in_memory,
)


class LaggedStorage(InMemoryStorage):
    """One study in memory that shows each decision exactly the trials that it may depend on.

    Set `deciding` to n before anything is asked about trial n. Samplers and pruners then see trials
    0 … n - lag as they ended; n - lag + 1 … n - 1 as running trials with parameters alone, whether
    or not they have ended meanwhile; n itself; and nothing after it. So a study depends on the lag,
    and not on how fast its workers are.

    Trials that have ended change no more: what is asked of them again and again is kept.
    """

    def __init__(self, lag: int) -> None:
        super().__init__()
        self.lag = lag
        self.deciding = 0
        self._ended: list[FrozenTrial] = []  # the first trials, up to one that has not ended
        self._by_states: dict[tuple[TrialState, ...], _Chosen] = {}

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial. What is suggested later has to be of the same kind as its parameters."""
        if template_trial is not None:
            known = distributions_in_memory(self, study_id)
            for name, distribution in template_trial.distributions.items():
                known.setdefault(name, distribution)
        return super().create_new_trial(study_id, template_trial)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = trials_in_memory(self, study_id)
        self._note_ended(trials)
        settled = min(max(0, self.deciding - self.lag + 1), len(trials))
        kept = min(settled, len(self._ended))
        rest = [
            *trials[kept:settled],
            *map(_as_running, trials[settled : self.deciding]),
            *trials[max(settled, self.deciding) : self.deciding + 1],
        ]
        if states is None:
            seen = self._ended[:kept] + rest
        else:
            seen = self._chosen(states, kept) + [one for one in rest if one.state in states]
        return copy.deepcopy(seen) if deepcopy else seen

    def _note_ended(self, trials: list[FrozenTrial]) -> None:
        for trial in trials[len(self._ended) :]:
            if not trial.state.is_finished():
                return
            self._ended.append(trial)

    def _chosen(self, states: Container[TrialState], kept: int) -> list[FrozenTrial]:
        """Return those of the first `kept` trials, which have ended, that are in these states."""
        key = tuple(state for state in TrialState if state in states)
        chosen = self._by_states.setdefault(key, _Chosen())
        chosen.extend(self._ended, key)
        return chosen.trials[: bisect_left(chosen.numbers, kept)]


class _Chosen:
    """The ended trials in certain states, in order."""

    def __init__(self) -> None:
        self.trials: list[FrozenTrial] = []
        self.numbers: list[int] = []
        self._looked_at = 0

    def extend(self, ended: list[FrozenTrial], states: Iterable[TrialState]) -> None:
        for trial in ended[self._looked_at :]:
            if trial.state in states:
                self.trials.append(trial)
                self.numbers.append(trial.number)
        self._looked_at = len(ended)


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as it was when it was asked."""
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
        trial_id=trial_id_of(trial),
    )
