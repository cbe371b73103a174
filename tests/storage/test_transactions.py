"""A trial is begun and ended in one transaction each, and reads as if Optuna had written it."""

import math

import pytest
from optuna import create_trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from optuna_dashboard import get_note

from conductor.search.publish import Publisher
from storage.studies.retrying import RetryingStorage
from storage.studies.studies import system_attributes
from storage.studies.transactions import WholeTrialStorage
from storage.studies.trials import end_trial
from tests.conductor.test_publish import record
from tests.support.fakes import make_arm, metrics, protocol

TEMPLATE = create_trial(
    state=TrialState.PRUNED,
    value=0.5,
    params={"lr": 0.1, "depth": 3, "kind": "hint", "taps": 2},
    distributions={
        "lr": FloatDistribution(0.01, 0.3, log=True),
        "depth": IntDistribution(1, 5),
        "kind": CategoricalDistribution(["none", "hint"]),
        "taps": CategoricalDistribution([1, 2]),
    },
    intermediate_values={1: 0.25, 2: math.inf, 4: -math.inf},
    user_attrs={"owner": "me", "constraints": {"parameters": 0.5}, "auditor": False},
    constraints={"parameters": 0.5},
)


@pytest.fixture
def storage(tmp_path):
    opened = WholeTrialStorage(f"sqlite:///{tmp_path}/whole.db")
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.fixture
def running(storage) -> int:
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "study")
    return storage.create_new_trial(study)


def test_a_trial_reads_as_if_optuna_had_written_it(storage, tmp_path):
    theirs = RDBStorage(f"sqlite:///{tmp_path}/theirs.db")
    found = []
    for written in (storage, theirs):
        study = written.create_new_study([StudyDirection.MAXIMIZE], "study")
        written.create_new_trial(study)
        found.append(written.get_trial(written.create_new_trial(study, TEMPLATE)))
    theirs.engine.dispose()
    assert found[0] == found[1]
    assert found[0].number == 1
    assert list(found[0].params) == list(TEMPLATE.params)


def test_a_trial_ends_with_its_attributes(storage, running):
    assert storage.end_trial(running, TrialState.COMPLETE, [0.5], {"epochs": 3, "nll": None})
    found = storage.get_trial(running)
    assert (found.state, found.values) == (TrialState.COMPLETE, [0.5])
    assert found.user_attrs == {"epochs": 3, "nll": None}
    assert found.datetime_complete >= found.datetime_start


def test_a_trial_that_could_not_end_has_none_of_its_attributes(storage, running, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "_set_trial_value_without_commit", fail)
    with pytest.raises(OSError, match="no space"):
        storage.end_trial(running, TrialState.COMPLETE, [0.5], {"epochs": 3})
    found = storage.get_trial(running)
    assert (found.state, found.user_attrs) == (TrialState.RUNNING, {})


def test_a_trial_that_has_ended_stays_as_it_is(storage, running):
    storage.end_trial(running, TrialState.PRUNED, [0.25], {"epochs": 1})
    with pytest.raises(UpdateFinishedTrialError):
        storage.end_trial(running, TrialState.COMPLETE, [0.5], {"epochs": 3, "more": 1})
    found = storage.get_trial(running)
    assert (found.values, found.user_attrs) == ([0.25], {"epochs": 1})


def test_a_lost_answer_to_the_end_of_a_trial_is_no_error(tmp_path, monkeypatch, open_url):
    storage = open_url(f"sqlite:///{tmp_path}/studies.db")
    trial = storage.create_new_trial(storage.create_new_study([StudyDirection.MAXIMIZE], "study"))
    end, calls = WholeTrialStorage.end_trial, []

    def lose_the_first_answer(self, *given):
        calls.append(given)
        end(self, *given)
        if len(calls) == 1:
            raise OSError("the server went away")
        return True

    def twice(self, call):
        try:
            return call()
        except OSError:
            return call()

    monkeypatch.setattr(WholeTrialStorage, "end_trial", lose_the_first_answer)
    monkeypatch.setattr(RetryingStorage, "retry", twice)
    assert storage.end_trial(trial, TrialState.COMPLETE, [0.5], {"epochs": 3})
    assert len(calls) == 2


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_arm_ends_a_trial_with_its_attributes_on_any_storage(in_memory, tmp_path, open_url):
    url = f"sqlite:///{tmp_path}/studies.db"
    storage = InMemoryStorage() if in_memory else open_url(url)
    arm = make_arm(storage, "plain")
    trial = arm.ledger.stored_trial(arm.ask(1))
    end_trial(trial.storage, trial._trial_id, TrialState.COMPLETE, [0.5], {"epochs": 3})
    (found,) = arm.study.get_trials(deepcopy=False)
    assert (found.values, found.user_attrs["epochs"]) == ([0.5], 3)


def test_a_trial_of_an_arm_is_ended_in_one_transaction(tmp_path, monkeypatch, open_url):
    storage = open_url(f"sqlite:///{tmp_path}/studies.db")
    arm = make_arm(storage, "plain")
    arm.ask(1)
    monkeypatch.setattr(RetryingStorage, "set_trial_user_attr", None)
    monkeypatch.setattr(RetryingStorage, "set_trial_state_values", None)
    arm.tell(0, TrialState.COMPLETE, 0.5, {"epochs": 3, "diverged": False})
    assert arm.study.trials[0].user_attrs["epochs"] == 3


def test_system_attributes_are_found_by_how_their_names_begin(storage, running):
    for name in ("dashboard:1:note_ver", "dashboard:1:note_str:0", "dashboard:11:note_ver", "d%"):
        storage.set_study_system_attr(1, name, name)
    found = storage.matching_system_attrs(1, "dashboard:1:")
    assert found == {name: name for name in ("dashboard:1:note_ver", "dashboard:1:note_str:0")}
    assert storage.matching_system_attrs(1, "d%") == {"d%": "d%"}


def test_a_note_does_not_read_the_notes_of_other_trials(tmp_path, monkeypatch, open_url):
    storage = open_url(f"sqlite:///{tmp_path}/studies.db")
    arm = make_arm(storage, "plain", lag=2)
    for _ in range(2):
        arm.ask(99)
    publisher = Publisher(protocol(), tmp_path / "artifacts")
    with monkeypatch.context() as patched:
        patched.setattr(RetryingStorage, "get_study_system_attrs", None)
        for number in (0, 1, 1):
            publisher.trial(arm, number, record(arm, [metrics(1, 0.25 * number)]))
    notes = [get_note(arm.ledger.stored_trial(number)) for number in range(2)]
    assert ["at 0.0 %" in notes[0], "at 25.0 %" in notes[1]] == [True, True]
    study = arm.study
    versions = system_attributes(study._storage, study._study_id, "dashboard:2:note_ver")
    assert list(versions.values()) == [2]
