"""A mirror: an arm's study copied into memory, in which its decisions are taken."""

from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from conductor.search.lagged import LaggedStorage
from conductor.search.methods import SearchMethod, make_pruner
from conductor.search.tpe import Past
from storage.studies.optuna_internals import study_id_of
from storage.studies.trials import CONSTRAINTS

CUT = "cut_epoch"  # user attribute: where the pruner would have cut an auditor
RUNGS = "rungs"  # user attribute: what successive halving noted of a trial, for later decisions
EVERYTHING = 2**62  # number of a trial for which everything has settled
RUNG = "completed_rung_"  # how the system attributes begin in which it does


class Mirror:
    """The trials of a study by number; a decision about one of them sees what the lag allows."""

    def __init__(self, name: str, method: SearchMethod) -> None:
        self.past = Past()
        self._memory = LaggedStorage(method.lag)
        self._study = optuna.create_study(
            storage=self._memory,
            study_name=name,
            direction="maximize",
            pruner=make_pruner(method.pruner, method.horizon),
        )
        self._id_of_study = study_id_of(self._study)

    def adopt(self, trial: FrozenTrial) -> None:
        """Copy a trial's parameters, as running.

        One that was running is asked about again by whoever takes it over: its reports are replayed
        from its checkpoint, and so are the decisions to prune.
        """
        copied = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={key: kept for key, kept in trial.user_attrs.items() if key != CUT},
            constraints=trial.user_attrs.get(CONSTRAINTS),
        )
        self._memory.create_new_trial(self._id_of_study, copied)

    def settle(self, trial: FrozenTrial) -> None:
        """Copy how a trial ended."""
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
        """Begin trial `number`, the next, with parameters that are given or asked of the sampler.

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
        """Return what halving noted of a trial, as an attribute that its digest covers."""
        trial = self.trial(number)
        rungs = {key: kept for key, kept in trial.system_attrs.items() if key.startswith(RUNG)}
        return {RUNGS: rungs} if rungs or RUNGS in trial.user_attrs else {}

    def _id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._id_of_study, number)
