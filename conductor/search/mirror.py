"""The copy of an arm's study in memory, which limits what a decision sees.

A decision about trial n sees trials 0 … n - lag as they ended, and the parameters of later ones.
"""

import copy
from bisect import bisect_left
from collections.abc import Container, Iterable
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from conductor.search.methods import SearchMethod, make_pruner
from conductor.search.samplers.tpe import Past
from storage.studies.optuna_internals import (
    distributions_in_memory,
    study_id_of,
    trial_id_of,
    trials_in_memory,
)
from storage.studies.trials import CONSTRAINTS, OF_STUDY

CUT = "cut_epoch"  # user attribute: epoch at which the pruner would have ended an auditor
RUNGS = "rungs"  # user attribute: the state that successive halving keeps of a trial
EVERYTHING = 2**62  # a trial number above all others: every trial is visible
RUNG = "completed_rung_"  # prefix of the system attributes of halving
TPE = "tpe:"  # prefix of what Optuna's TPE notes for itself; without it, it reads parameters


class Mirror:
    """The trials of a study by number. A decision sees those that the lag allows."""

    def __init__(self, name: str, method: SearchMethod) -> None:
        self.past = Past()
        self._memory = LaggedStorage(method.lag)
        self._study = optuna.create_study(
            storage=self._memory,
            study_name=name,
            direction="maximize",
            pruner=make_pruner(method.pruner or "none", method.horizon),
        )
        self._id_of_study = study_id_of(self._study)

    def adopt(self, trial: FrozenTrial) -> None:
        """Copy a trial's parameters, as a running trial.

        If it was interrupted, the session replays the epochs of its checkpoint and decides about
        pruning again.
        """
        copied = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={key: kept for key, kept in trial.user_attrs.items() if key != CUT},
            system_attrs=_of_sampler(trial),
            constraints=trial.user_attrs.get(CONSTRAINTS),
        )
        self._memory.create_new_trial(self._id_of_study, copied)

    def settle(self, trial: FrozenTrial) -> None:
        """Copy the end of a trial."""
        for epoch, value in trial.intermediate_values.items():
            self.report(trial.number, epoch, value)
        for key, attribute in trial.user_attrs.items():
            self.note(trial.number, key, attribute)
        for key, attribute in trial.user_attrs.get(RUNGS, {}).items():
            self._memory.set_trial_system_attr(self._id(trial.number), key, attribute)
        self.end(trial.number, trial.state, trial.values)

    def report(self, number: int, epoch: int, value: float) -> None:
        self._memory.set_trial_intermediate_value(self._id(number), epoch, value)

    def note(self, number: int, key: str, attribute: Any) -> None:
        """Set a user attribute."""
        self._memory.set_trial_user_attr(self._id(number), key, attribute)

    def end(self, number: int, state: TrialState, values: list[float] | None) -> None:
        self._memory.set_trial_state_values(self._id(number), state, values)

    def trial(self, number: int) -> FrozenTrial:
        return self._memory.get_trial(self._id(number))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now."""
        self._memory.deciding = EVERYTHING
        return self._memory.get_all_trials(self._id_of_study, deepcopy=False)

    @property
    def complete(self) -> list[FrozenTrial]:
        """All trials that ran to the horizon, as they are now."""
        return self.seen(EVERYTHING, TrialState.COMPLETE)

    def seen(self, number: int, state: TrialState) -> list[FrozenTrial]:
        """Return the trials in this state that a decision about trial `number` may see."""
        self._memory.deciding = number
        return self._study.get_trials(deepcopy=False, states=(state,))

    def ask(
        self, number: int, sampler: BaseSampler, enqueued: dict[str, Any] | None
    ) -> optuna.Trial:
        """Begin trial `number`, the next, with enqueued parameters or those of the sampler.

        Its constraints and attributes may be set before it is written to the study.
        """
        self._memory.deciding = number
        if enqueued is not None:
            self._study.enqueue_trial(enqueued)
        self._study.sampler = sampler
        return self._study.ask()

    def prunes(self, number: int) -> bool:
        """Whether the pruner would end the trial after its last report."""
        self._memory.deciding = number
        return self._study.pruner.prune(self._study, self.trial(number))

    def rungs(self, number: int) -> dict[str, Any]:
        """Return halving's state of a trial as a user attribute, which its digest covers."""
        trial = self.trial(number)
        rungs = {key: kept for key, kept in trial.system_attrs.items() if key.startswith(RUNG)}
        return {RUNGS: rungs} if rungs or RUNGS in trial.user_attrs else {}

    def _id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._id_of_study, number)


class LaggedStorage(InMemoryStorage):
    """One study in memory, which shows each decision only the trials that it may depend on.

    Set `deciding` to n before a decision about trial n. Samplers and pruners then see trials
    0 … n - lag as they ended; n - lag + 1 … n - 1 as running trials with parameters alone, even
    if they have ended; and n itself. A study depends on the lag, not on the speed of its workers.

    What a sampler writes to the study is kept with the trial that it decides about, so that the
    next session has it too. Ended trials do not change, so lists of them are cached.
    """

    def __init__(self, lag: int) -> None:
        super().__init__()
        self.lag = lag
        self.deciding = 0
        self._ended: list[FrozenTrial] = []  # the first trials, up to one that has not ended
        self._by_states: dict[tuple[TrialState, ...], _EndedIn] = {}

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial. Later suggestions must have distributions compatible with its parameters."""
        if template_trial is not None:
            known = distributions_in_memory(self, study_id)
            for name, distribution in template_trial.distributions.items():
                known.setdefault(name, distribution)
            for name, value in template_trial.system_attrs.items():
                if name.startswith(OF_STUDY):
                    super().set_study_system_attr(study_id, name.removeprefix(OF_STUDY), value)
        return super().create_new_trial(study_id, template_trial)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_system_attr(study_id, key, value)
        if self.deciding < len(trials_in_memory(self, study_id)):
            trial_id = self.get_trial_id_from_study_id_trial_number(study_id, self.deciding)
            self.set_trial_system_attr(trial_id, f"{OF_STUDY}{key}", value)

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
            seen = self._ended_in(states, kept) + [trial for trial in rest if trial.state in states]
        return copy.deepcopy(seen) if deepcopy else seen

    def _note_ended(self, trials: list[FrozenTrial]) -> None:
        for trial in trials[len(self._ended) :]:
            if not trial.state.is_finished():
                return
            self._ended.append(trial)

    def _ended_in(self, states: Container[TrialState], kept: int) -> list[FrozenTrial]:
        """Return those of the first `kept` trials, all ended, that are in these states."""
        key = tuple(state for state in TrialState if state in states)
        ended = self._by_states.setdefault(key, _EndedIn())
        ended.extend(self._ended, key)
        return ended.trials[: bisect_left(ended.numbers, kept)]


class _EndedIn:
    """The ended trials in certain states, in order."""

    def __init__(self) -> None:
        self.trials: list[FrozenTrial] = []
        self.numbers: list[int] = []
        self._read = 0

    def extend(self, ended: list[FrozenTrial], states: Iterable[TrialState]) -> None:
        for trial in ended[self._read :]:
            if trial.state in states:
                self.trials.append(trial)
                self.numbers.append(trial.number)
        self._read = len(ended)


def _of_sampler(trial: FrozenTrial) -> dict[str, Any]:
    """Return the system attributes that a sampler gave a trial when it was asked."""
    return {
        key: value
        for key, value in trial.system_attrs.items()
        if not key.startswith((RUNG, CONSTRAINTS, TPE, "dashboard", "artifacts:"))
    }


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
        system_attrs=_of_sampler(trial),
        intermediate_values={},
        trial_id=trial_id_of(trial),
    )
