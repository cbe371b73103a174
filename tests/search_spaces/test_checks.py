"""A space asks only for what Optuna gives back as it was, and for the same in every trial."""

from pathlib import Path

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import InMemoryStorage
from optuna.trial import BaseTrial, TrialState

from conductor.search.arm import Arm
from kd.errors import ProtocolError
from kd.recipe import Recipe
from search_spaces.context import StudyContext
from search_spaces.space import Space, load_space
from storage.studies.databases import close_storage, open_storage
from tests.support.fakes import HORIZON, make_arm, rows, told

HEAD = """
import enum
import itertools
import random
import numpy as np
from kd.recipe import Recipe

class Kind(enum.Enum):
    HINT = "hint"

class Depth(enum.IntEnum):
    TWO = 2

class Name(enum.StrEnum):
    KL = "kl"

calls = itertools.count()

def suggest(trial):
"""
END = "\n    return Recipe()\n"


def write(folder: Path, body: str, end: str = END) -> str:
    path = folder / "mine.py"
    path.write_text(f"{HEAD}    {body}{end}")
    return str(path)


def refusal(folder: Path, body: str, end: str = END) -> str:
    """Return the one line with which a space is refused when it is tried out."""
    with pytest.raises(ProtocolError) as caught:
        load_space(write(folder, body, end))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "mine.py"))
    return message


def asked(arm: Arm, count: int) -> Arm:
    """Return the arm after so many more trials, each of which has ended."""
    for _ in range(count):
        number = arm.ask(99)
        assert number is not None
        whole = arm.decisions.trial(number).user_attrs.get("until", HORIZON) == HORIZON
        state = TrialState.COMPLETE if whole else TrialState.PRUNED
        arm.tell(number, state, 0.5, told(arm, number, 0.5))
    return arm


OLD = """\
    trial.suggest_uniform('low', 0.0, 1.0)
    trial.suggest_loguniform('rate', 1e-3, 1.0)
    trial.suggest_discrete_uniform('step', 0.0, 1.0, 0.25)
"""


@pytest.mark.filterwarnings("error")
def test_the_old_names_of_ranges_are_asked_for_without_warnings_and_checked(tmp_path):
    load_space(write(tmp_path, OLD.strip()))
    message = refusal(tmp_path, "trial.suggest_uniform('low', 0.0, float('inf'))")
    assert "the range of 'low' must be of finite numbers" in message


TEXTS = "use texts as keys of the values, as in {'a': "


@pytest.mark.parametrize(
    ("choices", "choice", "instead"),
    [
        ("[('last1',), ('last1', 'last2')]", "('last1',)", TEXTS + "('last1',), …}"),
        ("['a', (('b', 1), 2)]", "(('b', 1), 2)", TEXTS),
        ("[['last1'], ['last2']]", "['last1']", TEXTS),
        ("[{'t': 4}, {'t': 5}]", "{'t': 4}", TEXTS),
        ("[frozenset({1})]", "frozenset({1})", TEXTS),
        ("[Recipe, None]", "<class 'kd.recipe.Recipe'>", TEXTS),
        ("[1 + 2j]", "(1+2j)", TEXTS),
        ("[b'a']", "b'a'", TEXTS),
        ("[0.5, np.float64(0.25)]", "np.float64(0.25)", "write 0.25"),
        ("np.linspace(0, 1, 3)", "np.float64(0.0)", "write 0.0"),
        ("[np.float32(0.5)]", "np.float32(0.5)", "write 0.5"),
        ("[np.int64(3)]", "np.int64(3)", "write 3"),
        ("[np.bool_(True)]", "np.True_", "write True"),
        ("[np.str_('a')]", "np.str_('a')", "write 'a'"),
        ("[np.array([1, 2])]", "array([1, 2])", TEXTS),
        ("[np.array(['a', 'b'])[0], 'b']", "np.str_('a')", "write 'a'"),
        ("list(Kind)", "<Kind.HINT: 'hint'>", "write 'hint'"),
        ("list(Depth)", "<Depth.TWO: 2>", "write 2"),
        ("list(Name)", "<Name.KL: 'kl'>", "write 'kl'"),
        ("[1.0, float('nan')]", "nan", TEXTS),
        ("[1.0, float('inf')]", "inf", TEXTS),
        ("['a', '\\ud800']", r"'\ud800'", TEXTS),
    ],
)
def test_a_choice_that_optuna_cannot_keep_is_refused(tmp_path, choices, choice, instead):
    message = refusal(tmp_path, f"trial.suggest_categorical('taps', {choices})")
    assert (
        "mine.py, line 20, in suggest: suggest of a random trial: Optuna cannot store the choice"
        in message
    )
    assert f"the choice {choice} of 'taps': {instead}" in message


@pytest.mark.parametrize("pair", ["True, 1", "1, 1.0", "0, False", "0.0, -0.0", "'a', 2, 2.0"])
def test_choices_that_optuna_takes_for_one_are_refused(tmp_path, pair):
    message = refusal(tmp_path, f"trial.suggest_categorical('depth', [{pair}])")
    first, second = pair.split(", ")[-2:]
    assert f"Optuna cannot distinguish the choices {first} and {second} of 'depth' " in message
    assert TEXTS in message


def test_a_set_of_choices_is_refused_for_its_order(tmp_path):
    message = refusal(tmp_path, "trial.suggest_categorical('kind', {'a', 'b'})")
    assert "the choices of 'kind' must be a list, got a set, " in message
    assert message.endswith("whose order changes between processes")


def test_a_long_choice_is_cut_short(tmp_path):
    assert len(refusal(tmp_path, "trial.suggest_categorical('x', [tuple(range(999))])")) < 500


@pytest.mark.parametrize(
    "choices",
    ["['a', 'b']", "[1, 2.5, 'x', None, False]", "('last1', 'last2')", "{'a': 1, 'b': 2}", "[7]"],
)
def test_what_optuna_gives_back_as_it_was_may_be_a_choice(tmp_path, choices):
    space = load_space(write(tmp_path, f"trial.suggest_categorical('taps', {choices})"))
    arm = make_arm(InMemoryStorage(), space)
    arm.ask(99)
    (distribution,) = arm.decisions.trials[0].distributions.values()
    assert isinstance(distribution, CategoricalDistribution)
    back = json_to_distribution(distribution_to_json(distribution))
    assert isinstance(back, CategoricalDistribution)
    assert repr(back.choices) == repr(distribution.choices)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("trial.suggest_int('x', 0, 2**60)", "the range of 'x' must be of integers within ±2**53"),
        ("trial.suggest_float('x', 0, np.inf)", "'x' must be of finite numbers, got 0.0 to inf"),
        ("trial.suggest_float(3, 0, 1)", "a parameter's name must be a str of 1-512 characters"),
        ("trial.suggest_float('x' * 513, 0, 1)", "name must be a str of 1-512 characters"),
        ("trial.set_user_attr('x', object())", "the attribute 'x' must be representable as JSON"),
        ("trial.set_user_attr(3, 1)", "an attribute's name must be a str of 1-512 characters, got"),
        ("trial.set_user_attr('x' * 513, 1)", "an attribute's name must be a str of 1-512 charact"),
        ("trial.report(0.5, 3)", "suggest must not report values: each epoch of the training does"),
    ],
)
def test_what_else_optuna_cannot_keep_is_refused(tmp_path, body, rule):
    assert rule in refusal(tmp_path, body)


def test_numbers_of_numpy_may_bound_a_range(tmp_path):
    body = "trial.suggest_float('x', np.float32(1), np.float64(4), log=np.bool_(True))"
    space = load_space(write(tmp_path, f"{body}; trial.suggest_int('n', np.int64(1), np.int8(4))"))
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    made = asked(make_arm(storage, space), 3)
    close_storage(storage)
    again = make_arm(open_storage(f"sqlite:///{tmp_path}/s.db"), space)
    assert [trial.params for trial in again.decisions.trials] == [
        trial.params for trial in made.decisions.trials
    ]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("('a',)", "'('a',)' not in ('a', True, 2)"),
        ("np.str_('a')", "Optuna cannot store np.str_('a') for 'x': write 'a'"),
        ("1", "'x' must be True, as in its choices, got 1"),
        ("2.0", "'x' must be 2, as in its choices, got 2.0"),
    ],
)
def test_a_recipe_to_try_first_has_its_choices_as_they_are_kept(tmp_path, given, rule):
    body = "trial.suggest_categorical('x', ['a', True, 2])"
    message = refusal(tmp_path, body, f"{END}\nENQUEUED = {{'one': {{'x': {given}}}}}\n")
    assert "ENQUEUED['one']" in message
    assert rule in message


# Other choices in later trials.

CHANGES = {
    "their number": "['a', 'b', 'c'][: 2 + next(calls) % 2]",
    "their order": "random.sample(['a', 'b', 'c'], 3)",
    "their types": "[[1, 2], [1.0, 2.0]][trial.number % 2]",
    "a late trial": "['a', 'b'] if trial.number < 40 else ['a']",
}


@pytest.mark.parametrize("choices", CHANGES.values(), ids=CHANGES)
def test_choices_that_change_between_trials_are_refused_when_the_space_is_tried_out(
    tmp_path, choices
):
    message = refusal(tmp_path, f"trial.suggest_categorical('taps', {choices})")
    assert (
        "mine.py, line 20, in suggest: suggest of a random trial: 'taps' had the choices "
        in message
    )
    assert message.endswith("give each of them a separate name")


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("float('x', 0, 1)", "int('x', 0, 1)", "a range"),
        ("float('x', 1, 2)", "float('x', 1, 2, log=True)", "a range on a log scale"),
        ("int('x', 0, 1)", "categorical('x', [0, 1])", "the choices 0, 1"),
        ("categorical('x', ['a'])", "categorical('x', ['b'])", "the choices 'b'"),
    ],
)
def test_a_parameter_keeps_its_kind_from_branch_to_branch(tmp_path, one, other, told):
    flag = "trial.suggest_categorical('deep', [True, False])"
    for body in (
        f"trial.suggest_{one} if {flag} else trial.suggest_{other}",
        f"trial.suggest_{one}; trial.suggest_{other}",
    ):
        message = refusal(tmp_path, body)
        assert "'x' had " in message
        assert told in message


def test_numeric_ranges_may_depend_on_other_parameters(tmp_path):
    body = "trial.suggest_int('n', 1, trial.suggest_int('most', 2, 9))"
    arm = asked(make_arm(InMemoryStorage(), load_space(write(tmp_path, body)), sampler="tpe"), 30)
    assert len({str(trial.distributions["n"]) for trial in arm.decisions.trials}) > 3


def test_the_built_in_choices_stay_as_they_are_for_other_taps_and_students():
    students = ("resnet8", "resnet14")
    space = load_space("scheduled", StudyContext(taps=("last1",), students=students))
    known: dict[str, BaseDistribution] = {}
    arm = make_arm(InMemoryStorage(), space, lag=99)
    for _ in range(30):
        arm.ask(99)
    for trial in arm.decisions.trials:
        for name, distribution in trial.distributions.items():
            assert known.setdefault(name, distribution) == distribution


KEPT = ["a", "b"]


def moody(choices: list[object]) -> Space:
    """Return a space that asks for `choices`, which may change behind its back."""

    def suggest(trial: BaseTrial) -> Recipe:
        trial.suggest_categorical("taps", list(choices))
        return Recipe(lr=trial.suggest_float("lr", 0.01, 0.1))

    return Space("mine", suggest, {}, "0" * 64)


@pytest.mark.parametrize("url", ["sqlite:///{}/s.db", "journal:{}/s.log"])
@pytest.mark.parametrize("now", [["b", "a"], ["a"], ["a", "b", "c"], ["a", "b", None]])
def test_choices_that_change_amid_a_study_are_refused_and_the_study_continues(tmp_path, url, now):
    storage = open_storage(url.format(tmp_path))
    choices: list[object] = list(KEPT)
    arm = asked(make_arm(storage, moody(choices)), 3)
    before = rows(arm.study)
    choices[:] = now
    listed = ", ".join(map(repr, now))
    match = (
        rf"^mine.py: suggest of a candidate: 'taps' had the choices 'a', 'b' before, and has the "
        rf"choices {listed} now; suggest the same.*; the trials so far are kept"
    )
    with pytest.raises(ProtocolError, match=match):
        asked(arm, 1)
    later = make_arm(storage, moody(choices))  # another session
    with pytest.raises(ProtocolError, match=match.replace("a candidate", "trial 0")):
        asked(later, 1)
    with pytest.raises(ProtocolError, match=match.replace("a candidate", "trial 0")):
        later.decisions.recipe(0)
    assert rows(arm.study) == before
    choices[:] = KEPT
    assert len(asked(make_arm(storage, moody(choices)), 2).decisions.trials) == 5
    close_storage(storage)


def test_a_recipe_is_made_again_from_the_number_of_its_trial():
    def suggest(trial: BaseTrial) -> Recipe:
        trial.suggest_float("x", 0, 1)
        return Recipe(lr=0.1 / (1 + trial.number))

    storage = InMemoryStorage()
    space = Space("mine", suggest, {}, "0" * 64)
    first = asked(make_arm(storage, space), 3)
    again = make_arm(storage, space)
    assert [again.decisions.recipe(n) for n in range(3)] == [
        first.decisions.recipe(n) for n in range(3)
    ]
