"""A decision about trial n sees 0 … n - lag as they ended, the rest up to n - 1 as parameters."""

import copy
import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from conductor.search.methods import make_pruner, make_sampler
from conductor.search.mirror import LaggedStorage
from conductor.search.pruners import PRUNERS

HORIZON = 9
TRIALS = 30
DISTRIBUTION = FloatDistribution(0, 1)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def ended(number: int, draw: random.Random) -> FrozenTrial:
    """Return a trial that has ended, with everything that a trial can have."""
    x, pruned = draw.random(), number % 3 == 2
    length = HORIZON // 2 if pruned else HORIZON
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=draw.random(),
        params={"x": x},
        distributions={"x": DISTRIBUTION},
        intermediate_values={epoch: draw.random() for epoch in range(1, length + 1)},
        user_attrs={"seconds": draw.random()},
        system_attrs={f"completed_rung_{rung}": draw.random() for rung in range(3)},
    )


def running(x: float) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.RUNNING, params={"x": x}, distributions={"x": DISTRIBUTION}
    )


def study_of(trials: list[FrozenTrial], lag: int, deciding: int) -> optuna.Study:
    """Return a study with these trials, about to decide about trial number `deciding`."""
    storage = LaggedStorage(lag)
    study = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    for trial in trials:
        storage.create_new_trial(study._study_id, trial)
    storage.deciding = deciding
    return study


@pytest.mark.parametrize("deepcopy", [True, False])
@pytest.mark.parametrize(("lag", "settled"), [(1, 6), (2, 5), (4, 3), (6, 1), (7, 0), (50, 0)])
def test_a_decision_sees_what_the_lag_allows_and_nothing_more(lag, settled, deepcopy):
    draw = random.Random(lag)
    trials = [ended(number, draw) for number in range(10)]
    seen = study_of(trials, lag, 6).get_trials(deepcopy=deepcopy)
    assert [trial.number for trial in seen] == list(range(7))
    for number, trial in enumerate(seen):
        kept = trials[number]
        assert (trial.params, trial.distributions) == (kept.params, kept.distributions)
        if number < settled or number == 6:
            assert (trial.state, trial.values) == (kept.state, kept.values)
            assert trial.intermediate_values == kept.intermediate_values
            assert (trial.user_attrs, trial.system_attrs) == (kept.user_attrs, kept.system_attrs)
        else:
            assert trial.state == TrialState.RUNNING
            assert trial.values is trial.datetime_complete is None
            assert trial.intermediate_values == trial.user_attrs == trial.system_attrs == {}


@pytest.mark.parametrize("deepcopy", [True, False])
def test_states_are_chosen_among_what_is_seen_and_not_among_what_is_true(deepcopy):
    draw = random.Random(0)
    trials = [ended(number, draw) for number in range(6)]  # 2 and 5 are pruned
    study = study_of([*trials, running(0.5), *trials], 3, 6)

    def numbers(*states: TrialState) -> list[int]:
        return [trial.number for trial in study.get_trials(deepcopy=deepcopy, states=states)]

    assert numbers(TrialState.COMPLETE) == [0, 1, 3]
    assert numbers(TrialState.PRUNED) == [2]
    assert numbers(TrialState.RUNNING) == [4, 5, 6]
    assert numbers(TrialState.COMPLETE, TrialState.RUNNING) == [0, 1, 3, 4, 5, 6]


def test_a_waiting_trial_is_found_by_ask():
    study = study_of([running(0.1), running(0.2)], 1, 2)
    study.enqueue_trial({"x": 0.75})
    trial = study.ask()
    assert (trial.number, trial.suggest_float("x", 0, 1)) == (2, 0.75)


def test_a_copy_that_is_changed_leaves_the_study_as_it_was():
    study = study_of([ended(0, random.Random(0))], 1, 1)
    study.get_trials()[0].params["x"] = 7.0
    assert study.get_trials()[0].params["x"] != 7.0


class Spy(RandomSampler):
    """A sampler that keeps what it is shown."""

    seen: list[FrozenTrial]

    def infer_relative_search_space(self, study, trial):
        self.seen = study.get_trials()
        return super().infer_relative_search_space(study, trial)


def test_a_sampler_is_shown_what_the_lag_allows():
    draw = random.Random(0)
    study = study_of([ended(number, draw) for number in range(6)], 4, 6)
    study.sampler = Spy()
    study.ask().suggest_float("x", 0, 1)
    states = [trial.state.name for trial in study.sampler.seen]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED"] + 4 * ["RUNNING"]
    assert [len(trial.intermediate_values) for trial in study.sampler.seen] == [9, 9, 4, 0, 0, 0, 0]


def hidden_parts_changed(
    trials: list[FrozenTrial], lag: int, deciding: int, draw: random.Random
) -> list[FrozenTrial]:
    """Return the trials with everything else in what a decision must not see."""
    changed = copy.deepcopy(trials)
    for number in range(deciding - lag + 1, deciding):
        other = running(0.0) if draw.random() < 0.3 else ended(number, draw)
        other.params = trials[number].params
        changed[number] = other
    changed[deciding + 1 :] = [ended(number, draw) for number in range(draw.randrange(5))]
    return changed


def with_reports(number: int, draw: random.Random) -> FrozenTrial:
    trial = running(draw.random())
    for epoch in range(1, draw.randint(2, HORIZON)):
        trial.intermediate_values[epoch] = 0.7 * draw.random()
    return trial


@pytest.mark.parametrize("lag", [1, 4])
@pytest.mark.parametrize("name", PRUNERS.names)
def test_a_pruner_decides_alike_whatever_it_must_not_see(name, lag):
    draw, decisions = random.Random(1), []
    for deciding in range(8, TRIALS):
        trials = [ended(number, draw) for number in range(deciding + 3)]
        trials[deciding] = with_reports(deciding, draw)
        answers = set()
        for _ in range(4):
            study = study_of(trials, lag, deciding)
            trial = study.get_trials()[deciding]
            answers.add(make_pruner(name, HORIZON).prune(study, trial))
            trials = hidden_parts_changed(trials, lag, deciding, draw)
        assert len(answers) == 1
        decisions += answers
    assert set(decisions) == ({False} if name == "none" else {False, True})


@pytest.mark.parametrize("lag", [1, 4])
def test_tpe_decides_alike_whatever_it_must_not_see(lag):
    draw, found = random.Random(1), set()
    for deciding in (14, 20):
        trials = [ended(number, draw) for number in range(deciding)]
        answers = set()
        for _ in range(3):
            study = study_of(trials, lag, deciding)
            study.sampler = make_sampler("tpe", 3)
            answers.add(study.ask().suggest_float("x", 0, 1))
            trials = hidden_parts_changed(trials, lag, deciding, draw)[:deciding]
        assert len(answers) == 1
        found |= answers
    assert len(found) == 2


def test_tpe_learns_from_the_trials_that_it_may_see():
    """Otherwise the test above would hold for a sampler that looks at nothing."""
    answers = set()
    for value in (0.0, 1.0):
        trials = [ended(number, random.Random(number)) for number in range(20)]
        trials[16].values = [value]
        study = study_of(trials, 4, 20)
        study.sampler = make_sampler("tpe", 3)
        answers.add(study.ask().suggest_float("x", 0, 1))
    assert len(answers) == 2


def test_what_is_kept_of_ended_trials_follows_those_that_end_later():
    storage = LaggedStorage(2)
    study = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    for number in range(6):
        storage.create_new_trial(study._study_id, running(number / 10))
    seen = []
    for number, state in ((1, TrialState.COMPLETE), (0, TrialState.PRUNED), (2, TrialState.FAIL)):
        storage.set_trial_state_values(number, state, [0.5])
        storage.deciding = 5
        every = study.get_trials(deepcopy=False)
        chosen = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        seen.append(("".join(one.state.name[0] for one in every), [one.number for one in chosen]))
    assert seen == [("RCRRRR", [1]), ("PCRRRR", [0, 1]), ("PCFRRR", [0, 1])]
    storage.deciding = 2
    assert [one.number for one in study.get_trials(states=(TrialState.COMPLETE,))] == []


def test_a_parameter_keeps_its_kind_also_from_trials_of_earlier_sessions():
    study = study_of([running(0.5)], 1, 1)
    with pytest.raises(ValueError, match="distribution kind"):
        study.ask().suggest_categorical("x", [0.5, 0.75])
