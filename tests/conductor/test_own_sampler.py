"""A sampler of one's own: made anew for each decision, tried out, and the same after a kill."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from conductor.command_line import cli
from conductor.command_line.options import make_request
from conductor.search.arm import Arm
from conductor.search.methods import SearchMethod
from conductor.search.trying import try_sampler
from conductor.stages.own_files import keep_own, pin_sampler
from kd.errors import ProtocolError, RetortError
from search_spaces.space import load_space
from storage.files.layout import Layout
from storage.studies.studies import open_study
from tests.support.fakes import rows

MINE = '''


from optuna.samplers import NSGAIISampler, QMCSampler, RandomSampler


def qmc(seed):
    return QMCSampler(seed=seed)


def nsga(seed):
    return NSGAIISampler(seed=seed, population_size=2)


def unseeded(seed):
    return RandomSampler()


def nothing(seed):
    return None


def wrong():
    return RandomSampler()


class Counting(RandomSampler):
    """It keeps what it knows in the study, in another trial, and counts decisions."""

    def before_trial(self, study, trial):
        count = study._storage.get_study_system_attrs(study._study_id).get("count", 0)
        study._storage.set_study_system_attr(study._study_id, "count", count + 1)

    def sample_independent(self, study, trial, name, distribution):
        count = study._storage.get_study_system_attrs(study._study_id)["count"]
        return RandomSampler(count).sample_independent(study, trial, name, distribution)


def counting(seed):
    return Counting(seed)


class Outside(RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        return 1e9


def outside(seed):
    return Outside(seed)


class Late(RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        if trial.number > 6:
            raise KeyError("late")
        return super().sample_independent(study, trial, name, distribution)


def late(seed):
    return Late(seed)


class Relative(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        raise ValueError("relative")


def relative(seed):
    return Relative(seed)


def lacking(seed):
    """As Optuna's CmaEsSampler, which needs the package cmaes."""
    import no_such_package
'''


@pytest.fixture
def method(tmp_path, monkeypatch):
    """Return a method of search by a function of MINE, whose copy is kept."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)

    def make(function: str, lag: int = 1) -> SearchMethod:
        chosen, files = pin_sampler(f"mine.py:{function}")
        keep_own(Layout(tmp_path), files)
        own = Layout(tmp_path).own
        return SearchMethod(**chosen, pruner="none", lag=lag, seed=3, horizon=4, own=own)

    return make


def asked(method: SearchMethod, count: int, *, sessions: int) -> list:
    """Ask and end trials of an arm, with a new session after every few; return its rows."""
    space, storage = load_space("plain"), InMemoryStorage()
    per_session = -(-count // sessions)
    for begun in range(0, count, per_session):
        arm = Arm(space, open_study(storage, "study.plain", {}), method)
        for _ in range(min(per_session, count - begun)):
            number = arm.ask(count)
            arm.tell(number, TrialState.COMPLETE, 1 / (2 + number), {})
    return rows(optuna.load_study(study_name="study.plain", storage=storage))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("function", ["qmc", "nsga", "counting"])
@pytest.mark.parametrize("lag", [1, 4])
def test_an_own_sampler_continues_in_a_new_session_to_the_last_bit(method, function, lag):
    """What such samplers keep in trials, or in the study, is there in the next session."""
    chosen = method(function, lag)
    assert asked(chosen, 12, sessions=4) == asked(chosen, 12, sessions=1)


def test_a_study_keeps_what_its_sampler_writes(method):
    """Otherwise the test above would hold for samplers that keep nothing, such as a Sobol one."""
    parameters = [row[3] for row in asked(method("counting"), 8, sessions=4)]
    assert len({repr(one) for one in parameters[2:]}) == 6


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("unseeded", "mine.py, line 15, in unseeded: a sampler must choose by its seed alone"),
        ("nothing", "mine.py, line 19, in nothing: must return an optuna.samplers.BaseSampler"),
        ("wrong", "mine.py, line 23, in wrong: wrong("),
        ("outside", "mine.py, line 48, in outside: the sampler chose lr = 1000000000.0, which"),
        ("relative", "in infer_relative_search_space: the sampler's infer_relative_search_space"),
        ("lacking", "No module named 'no_such_package'; install it, as in: pip install no_such_p"),
        ("absent", "mine.py lacks the function absent(seed)"),
    ],
)
def test_a_sampler_that_cannot_be_used_is_refused_in_one_line(method, function, message):
    with pytest.raises(ProtocolError) as refused:
        try_sampler(method(function), load_space("plain"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sampler_that_fails_later_is_named_and_not_the_space(method):
    with pytest.raises(ProtocolError) as refused:
        asked(method("late"), 12, sessions=1)
    assert str(refused.value).startswith("mine.py, line 55, in sample_independent: the sampler's")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mine.py", "a sampler of your own must be FILE.py:FUNCTION"),
        ("mine.py:a-b", "a sampler of your own must be FILE.py:FUNCTION"),
        ("none.py:make", "none.py cannot be read: No such file"),
    ],
)
def test_a_mistake_in_the_name_of_a_sampler_costs_one_line(method, words, message):
    with pytest.raises(RetortError, match=message):
        make_request(cli.read_options(["--sampler", words]))


def test_a_study_has_the_digest_of_its_sampler_and_the_copy(method):
    request = make_request(cli.read_options(["--sampler", "mine.py:qmc"]))
    [own] = request.own
    assert request.sampler == f"mine.py:qmc@{own.digest}"
    assert request.command[-1] == f"{Path('mine.py').resolve()}:qmc"
