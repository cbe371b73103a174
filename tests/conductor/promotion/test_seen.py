"""The runs that a decision sees, from an arm's trials."""

from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from conductor.search.promotion.rungs import Run
from conductor.search.promotion.seen import runs_seen

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
RUNNING = TrialState.RUNNING


def trial(number: int, run: int, until: int, state: TrialState, **told: Any) -> FrozenTrial:
    """A job that trains a run to an epoch; what it has ended with, if it has."""
    early = {str(rung): float(rung) for rung in (2, 5, 12) if rung <= until}
    ended = {"diverged": False, "early_signal": early} if state in (COMPLETE, PRUNED) else {}
    value = 0.9 if state == COMPLETE else None
    made = create_trial(
        state=state, value=value, user_attrs={"run": run, "until": until, **ended, **told}
    )
    made.number = number
    return made


def seen(*trials: FrozenTrial, settled: int = 99) -> dict[int, Run]:
    return {run.number: run for run in runs_seen(trials, settled, 12, lambda run: run)}


def test_a_run_has_what_its_last_job_found() -> None:
    jobs = (trial(0, 0, 12, COMPLETE), trial(1, 1, 2, PRUNED), trial(2, 1, 5, PRUNED))
    runs = seen(*jobs)
    assert runs[0] == Run(
        number=0, recipe=0, last=0, epochs=12, target=12, signals={2: -2, 5: -5, 12: -12}, value=0.9
    )
    assert runs[1] == Run(
        number=1, recipe=1, last=2, epochs=5, target=5, signals={2: -2, 5: -5}, value=None
    )


def test_a_job_that_has_not_ended_or_is_too_young_is_pending() -> None:
    first = trial(0, 0, 2, PRUNED)
    for second, settled in ((trial(1, 0, 5, RUNNING), 99), (trial(1, 0, 5, PRUNED), 1)):
        run = seen(first, second, settled=settled)[0]
        assert (run.epochs, run.target, run.last, run.signals) == (2, 5, 0, {2: -2})


def test_a_job_that_failed_leaves_its_run_where_it_was() -> None:
    runs = seen(trial(0, 0, 2, PRUNED), trial(1, 0, 5, FAIL), trial(2, 2, 2, FAIL))
    assert runs.keys() == {0}
    assert (runs[0].epochs, runs[0].target, runs[0].last) == (2, 2, 0)


def test_a_run_that_diverged_is_at_the_horizon_without_a_value() -> None:
    run = seen(trial(0, 0, 2, COMPLETE, diverged=True, early_signal={}))[0]
    assert (run.epochs, run.target, run.value, run.signals) == (12, 12, None, {})


def test_a_student_that_is_too_large_is_no_run() -> None:
    assert seen(trial(0, 0, 2, PRUNED, infeasible=True)) == {}


def test_a_run_that_went_on_to_the_horizon_was_promoted() -> None:
    paused, whole = trial(1, 0, 5, PRUNED, continues=0), trial(2, 0, 12, COMPLETE, continues=1)
    first = trial(0, 0, 2, PRUNED)
    assert not seen(first, paused)[0].promoted
    assert not seen(first, paused, whole, settled=2)[0].promoted
    assert seen(first, paused, whole)[0].promoted
    assert not seen(trial(0, 0, 12, COMPLETE))[0].promoted


def test_an_auditor_is_one_by_its_trial() -> None:
    runs = seen(trial(0, 0, 12, COMPLETE, auditor=True), trial(1, 1, 12, COMPLETE))
    assert [run.auditor for run in runs.values()] == [True, False]
