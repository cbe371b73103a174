"""Odd search spaces of the user's own: they are searched by promotion, or their fault is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import BaseTrial, FrozenTrial

from kd.errors import ProtocolError
from kd.recipe import Recipe
from search_spaces.space import Space
from tests.support.fakes import HORIZON, FakePool, make_arm, search

Suggest = Callable[[BaseTrial], Recipe]


def without_enqueued(trial: BaseTrial) -> Recipe:
    return Recipe(lr=trial.suggest_float("lr", 0.01, 1, log=True))


def two_recipes(trial: BaseTrial) -> Recipe:
    return Recipe(lr=trial.suggest_categorical("lr", [0.1, 0.01]))


def one_recipe(trial: BaseTrial) -> Recipe:
    return Recipe(lr=trial.suggest_float("lr", 0.1, 0.1))


def rare_parameter(trial: BaseTrial) -> Recipe:
    """One recipe in a thousand has `x`, and no candidate of the first decisions."""
    lr = trial.suggest_float("lr", 0.01, 1)
    return Recipe(lr=lr, weight_decay=trial.suggest_float("x", 0, 1e-3) if lr > 0.999 else 0.0)


def ranges_that_depend(trial: BaseTrial) -> Recipe:
    most = trial.suggest_int("most", 1, 4)
    return Recipe(lr=0.1 / trial.suggest_int("n", 1, most))


def numbered(trial: BaseTrial) -> Recipe:
    """A recipe that depends on the number of its trial."""
    trial.suggest_float("x", 0, 1)
    return Recipe(lr=0.1 / (1 + trial.number))


SPACES = [
    without_enqueued,
    two_recipes,
    one_recipe,
    rare_parameter,
    ranges_that_depend,
    numbered,
]


def searched(root: Path, suggest: Suggest, pool: FakePool) -> list[FrozenTrial]:
    arm = make_arm(InMemoryStorage(), Space("mine", suggest, {}, "0" * 64), lag=4)
    search(root, [arm], pool, 12)
    assert HORIZON * 12 <= arm.decisions.spent < HORIZON * 13
    assert len(arm.decisions.ranked()[:3]) >= 1
    return arm.study.get_trials()


@pytest.mark.parametrize("suggest", SPACES)
def test_a_space_is_searched_to_its_end_alike_whatever_the_workers(tmp_path, suggest):
    first, again = (searched(tmp_path, suggest, FakePool(size, size)) for size in (1, 4))
    assert [(t.params, t.user_attrs) for t in first] == [(t.params, t.user_attrs) for t in again]
    assert first[0].user_attrs["until"] == HORIZON  # there is always one to choose


@pytest.mark.parametrize(("suggest", "count"), [(two_recipes, 2), (one_recipe, 1)])
def test_once_all_recipes_are_known_they_are_repeated_on_further_seeds(tmp_path, suggest, count):
    pool = FakePool()
    trials = searched(tmp_path, suggest, pool)
    begun = [trial for trial in trials if "continues" not in trial.user_attrs]
    first = [trial for trial in begun if "repeats" not in trial.user_attrs]
    assert len(first) == count
    assert {t.user_attrs["repeats"] for t in begun if t not in first} <= {t.number for t in first}
    assert len({job.seed for job in pool.jobs}) == len(begun)
    assert len(trials) > 20  # one that would begin an auditor
    assert not any("auditor" in trial.user_attrs for trial in trials)


def test_a_run_that_goes_on_has_the_recipe_that_it_began_with(tmp_path):
    pool = FakePool()
    trials = searched(tmp_path, numbered, pool)
    assert any("continues" in trial.user_attrs for trial in trials)
    for trial, job in zip(trials, pool.jobs, strict=True):
        origin = trials[trial.user_attrs["run"]].user_attrs.get("repeats", trial.user_attrs["run"])
        assert job.recipe == Recipe(lr=0.1 / (1 + origin))


def test_numbers_of_numpy_and_choices_of_a_dict_are_drawn(tmp_path):
    np = pytest.importorskip("numpy")

    def suggest(trial: BaseTrial) -> Recipe:
        lr = trial.suggest_float("lr", np.float32(0.25), np.float64(0.5), log=np.bool_(True))
        trial.suggest_int("n", np.int64(1), np.int8(4))
        return Recipe(lr=lr, soft_kind=trial.suggest_categorical("kind", {"kl": 1, "dkd": 2}))

    for trial in searched(tmp_path, suggest, FakePool()):
        assert {type(value) for value in trial.params.values()} == {float, int, str}


def test_a_space_that_raises_for_some_draws_is_named_in_one_line():
    def suggest(trial: BaseTrial) -> Recipe:
        lr = trial.suggest_float("lr", 0.01, 1)
        if lr > 0.99:
            raise ValueError("unlucky")
        return Recipe(lr=lr)

    arm = make_arm(InMemoryStorage(), Space("mine", suggest, {}, "0" * 64), lag=99)
    with pytest.raises(ProtocolError) as caught:
        arm.ask(999)
    assert str(caught.value) == (
        "mine.py: suggest of a candidate raises ValueError: unlucky; the trials so far are kept; "
        "run the corrected space under another --name"
    )
