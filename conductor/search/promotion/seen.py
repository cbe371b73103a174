"""What a decision sees of an arm's trials: its runs, with what is known of each."""

from collections.abc import Callable, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from conductor.search.promotion.rungs import Run
from storage.studies.trials import AUDITOR, CONTINUES, EARLY, INFEASIBLE, RUN, UNTIL


def runs_seen(
    trials: Sequence[FrozenTrial], settled: int, horizon: int, recipe: Callable[[int], int]
) -> list[Run]:
    """Return the runs of these trials, in order. The first `settled` trials are seen as they ended.

    Jobs that have not ended, or are younger, are pending. A job that failed because of its machine
    leaves its run where it was; a run without another job is left out. `recipe` returns the recipe
    of a run, by number.
    """
    runs: dict[int, Run] = {}
    for trial in trials:
        told = trial.user_attrs
        if INFEASIBLE in told:
            continue
        number = told[RUN]
        run = runs.get(number) or Run(number=number, recipe=recipe(number), last=trial.number)
        if trial.number >= settled or not trial.state.is_finished():
            run.target = told[UNTIL]
        elif trial.state == TrialState.FAIL:
            run.target = run.epochs
            continue
        else:
            _end(run, trial, told, horizon)
        runs[number] = run
    return list(runs.values())


def _end(run: Run, trial: FrozenTrial, told: dict[str, Any], horizon: int) -> None:
    run.last = trial.number
    run.diverged = bool(told["diverged"])
    run.auditor = bool(told.get(AUDITOR))
    run.promoted = CONTINUES in told and told[UNTIL] == horizon
    run.epochs = run.target = horizon if run.diverged else told[UNTIL]
    run.signals = {int(rung): -nll for rung, nll in told[EARLY].items()}
    if run.epochs == horizon and not run.diverged:
        run.value = trial.value
