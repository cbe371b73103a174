"""Recipes as rows of numbers."""

import numpy as np
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from conductor.search.promotion.encoding import Encoding, relevances
from search_spaces.context import StudyContext
from search_spaces.space import load_space

RANGES = {
    "width": IntDistribution(2, 6),
    "rate": FloatDistribution(0.01, 1.0, log=True),
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "fixed": FloatDistribution(3.0, 3.0),
}


def test_numbers_lie_in_0_to_1_and_choices_are_places() -> None:
    encoding = Encoding(RANGES, {})
    row = encoding.row({"width": 3, "rate": 0.1, "kind": "c", "fixed": 3.0})
    assert row.tolist() == pytest.approx([2.0, 0.5, 0.25])  # kind, rate, width
    assert encoding.parameters.choices.tolist() == [True, False, False]


def test_what_a_recipe_lacks_is_nan_and_what_it_has_beside_is_left_out() -> None:
    row = Encoding(RANGES, {}).row({"rate": 1.0, "other": 7})
    assert np.isnan(row).tolist() == [True, False, True]


def test_relevances_go_by_name_and_a_parameter_of_the_user_s_own_has_1() -> None:
    found = Encoding(RANGES, {"rate": 0.25, "fixed": 9.0}).parameters.relevances
    assert found.tolist() == [1.0, 0.25, 1.0]


def test_the_learnt_relevances_are_those_of_the_built_in_parameters() -> None:
    known = StudyContext(taps=("last1", "last2", "last3"), students=("resnet8", "resnet14"))
    assert {*relevances()} <= {*load_space("scheduled", known).parameters}
    assert all(relevance >= 0 for relevance in relevances().values())
