"""TPE that reads each trial once asks for the very parameters that Optuna's own TPE asks for."""

from pathlib import Path

import pytest
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import BaseTrial, TrialState

from conductor.search import methods
from conductor.search.samplers import tpe
from conductor.search.samplers.tpe import ReadingTPESampler
from kd.recipe import Recipe
from search_spaces.space import Space
from tests.support.fakes import FakePool, landscape, make_arm, make_search


def optunas_own(seed, startup, past):
    return TPESampler(n_startup_trials=startup, multivariate=True, group=True, seed=seed)


def asked(space: str | Space, count: int, **chosen) -> list[dict]:
    """Search without training, as many trials at once as the lag allows; return the parameters."""
    arm = make_arm(InMemoryStorage(), space, sampler="tpe", **chosen)
    job = make_search(Path("unused"), [arm], FakePool()).job
    running: list[int] = []
    while arm.decisions.asked < count:
        number = arm.ask(2 * count)
        if number is None:
            end(arm, running.pop(0), job)
        elif not arm.decisions.excess(number):
            running.append(number)
    return [trial.params for trial in arm.decisions.trials]


def end(arm, number: int, job) -> None:
    """Report a trial until it is pruned or ends; every ninth fails."""
    events, value, state = landscape(job(arm, number)), 0.0, TrialState.COMPLETE
    for event in events[:-1]:
        value = event.metrics.accuracy
        if arm.report(number, event.metrics.epoch, value):
            state = TrialState.PRUNED
            break
    if number % 9 == 5:
        state, value = TrialState.FAIL, None
    arm.tell(number, state, value, {})


def branching(trial: BaseTrial) -> Recipe:
    """Suggest parameters that come and go: kinds of trials that are new late in a study."""
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    lr = trial.suggest_float("lr", 0.01, 0.3, log=True)
    if kind != "a":
        trial.suggest_int("depth", 1, 5)
    if kind == "c" and lr > 0.2:
        trial.suggest_float("late", 0, 1, step=0.25)
        trial.suggest_float("single", 0.5, 0.5)
    return Recipe(lr=lr)


SPACES = {
    "scheduled": "scheduled",
    "plain": "plain",
    "branching": Space("branching", branching, {"first": {"kind": "b", "lr": 0.1}}, ""),
}


@pytest.mark.parametrize(
    ("space", "count", "lag", "pruner"),
    [
        ("scheduled", 200, 4, "median"),
        ("plain", 60, 1, "none"),
        ("branching", 120, 8, "median"),
        ("branching", 80, 4, "hyperband"),
    ],
)
def test_it_asks_for_what_optuna_asks_for(space, count, lag, pruner, monkeypatch):
    ours = asked(SPACES[space], count, lag=lag, pruner=pruner)
    monkeypatch.setattr(tpe, "make", optunas_own)
    assert ours == asked(SPACES[space], count, lag=lag, pruner=pruner)
    assert len({str(params) for params in ours}) == count


class Limits:
    """A budget that one of two students is over."""

    def constraints(self, student: str) -> dict[str, float]:
        return {"parameters": 1.5 if student == "resnet20" else -0.5}

    def excess(self, student: str) -> str:
        return "too large" if student == "resnet20" else ""


def of_two_students(trial: BaseTrial) -> Recipe:
    student = trial.suggest_categorical("student", ["resnet8", "resnet20"])
    return Recipe(lr=trial.suggest_float("lr", 0.01, 0.3, log=True), student=student)


def test_it_learns_from_infeasible_trials_as_optuna_does(monkeypatch):
    space = Space("students", of_two_students, {}, "")
    ours = asked(space, 60, lag=4, budget=Limits())
    assert {"resnet8", "resnet20"} == {params["student"] for params in ours}
    monkeypatch.setattr(tpe, "make", optunas_own)
    assert ours == asked(space, 60, lag=4, budget=Limits())


def test_the_sampler_of_a_study_is_the_one_that_reads_once():
    assert isinstance(methods.make_sampler("tpe", 0), ReadingTPESampler)
