"""Candidates are drawn as a random sampler draws, from the space and the seed alone."""

from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest
from optuna.trial import BaseTrial
from scipy.stats import kstest

from conductor.search.promotion.candidates import BLOCKS, DRAWN, Candidates, DrawnTrial
from kd.errors import ProtocolError, StudyError
from kd.recipe import Recipe
from search_spaces.context import StudyContext
from search_spaces.space import Space, load_space

DRAWS = 2000


def draws(suggest: str, *bounds: object, **options: object) -> list:
    generator = np.random.default_rng(0)
    return [
        getattr(DrawnTrial(generator, number), suggest)("x", *bounds, **options)
        for number in range(DRAWS)
    ]


def test_floats_are_uniform_also_on_a_log_scale() -> None:
    assert kstest(np.array(draws("suggest_float", 2, 6)) / 4 - 0.5, "uniform").pvalue > 0.01
    found = np.log10(draws("suggest_float", 0.01, 10, log=True))
    assert kstest((found + 2) / 3, "uniform").pvalue > 0.01


def test_steps_integers_and_choices_are_equally_likely() -> None:
    for found, values in (
        (draws("suggest_float", 0.0, 1.0, step=0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (draws("suggest_int", 3, 6), [3, 4, 5, 6]),
        (draws("suggest_int", 1, 7, step=3), [1, 4, 7]),
        (draws("suggest_categorical", ["a", None, 2.5]), ["a", None, 2.5]),
    ):
        count = Counter(found)
        assert {*count} == {*values}
        assert min(count.values()) > 0.85 * DRAWS / len(values)


def test_integers_on_a_log_scale_keep_their_ends() -> None:
    count = Counter(draws("suggest_int", 1, 100, log=True))
    assert (min(count), max(count)) == (1, 100)
    assert count[1] > 5 * count[10]


def test_a_parameter_has_one_value_in_a_trial() -> None:
    trial = DrawnTrial(np.random.default_rng(0), 0)
    assert trial.suggest_float("x", 0, 1) == trial.suggest_float("x", 0, 1) == trial.params["x"]


@pytest.fixture(scope="module")
def scheduled() -> Space:
    return load_space("scheduled", StudyContext(taps=("last1", "last2", "last3")))


def candidates(space: Space, seed: int = 0, **chosen: object) -> Candidates:
    fields = {"feasible": lambda recipe: True, "known": {}, **chosen}
    return Candidates(space, seed, **fields)


def test_they_follow_from_the_seed_and_the_decision_whatever_was_drawn_before(
    scheduled: Space,
) -> None:
    walked = candidates(scheduled)
    found = {number: list(map(astuple, walked.of(number))) for number in (0, 1, 5, 40)}
    assert list(map(astuple, candidates(scheduled).of(40))) == found[40]
    assert list(map(astuple, candidates(scheduled).of(5))) == found[5]
    assert list(map(astuple, walked.sample)) == found[0]
    assert list(map(astuple, candidates(scheduled, 1).of(0))) != found[0]


def test_all_but_one_block_are_also_those_of_the_next_decision(scheduled: Space) -> None:
    drawn = candidates(scheduled)
    assert len(drawn.of(3)) == BLOCKS * DRAWN
    assert drawn.of(3)[DRAWN:] == drawn.of(4)[:-DRAWN]


def test_a_recipe_comes_from_its_parameters(scheduled: Space) -> None:
    from optuna.trial import FixedTrial

    for one in candidates(scheduled).of(0)[:40]:
        again = FixedTrial(dict(one.parameters))
        assert scheduled.suggest(again) == one.recipe
        assert again.distributions == one.distributions


def test_infeasible_recipes_are_passed_over() -> None:
    space = load_space("scheduled", StudyContext(students=("resnet8", "resnet14")))
    found = candidates(space, feasible=lambda recipe: recipe.student == "resnet8").of(0)
    assert {one.recipe.student for one in found} == {"resnet8"}
    assert len(found) == BLOCKS * DRAWN
    with pytest.raises(StudyError, match="none of 5,120 recipes has a student within the budget"):
        candidates(space, feasible=lambda recipe: False).of(0)


def test_a_space_that_fails_is_named_with_the_draw() -> None:
    def suggest(trial: BaseTrial) -> Recipe:
        if trial.suggest_float("x", 0, 1) > 0.99:
            raise ZeroDivisionError("by nothing")
        return Recipe(lr=0.1)

    with pytest.raises(ProtocolError, match="suggest of a candidate raises ZeroDivisionError"):
        candidates(Space("mine", suggest, {}, "")).of(0)
