"""Recipes as rows of numbers."""

import numpy as np
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from conductor.search.promotion.encoding import Encoding

RANGES = {
    "width": IntDistribution(2, 6),
    "rate": FloatDistribution(0.01, 1.0, log=True),
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "fixed": FloatDistribution(3.0, 3.0),
}


def test_numbers_lie_in_0_to_1_and_choices_are_places() -> None:
    encoding = Encoding(RANGES)
    row = encoding.row({"width": 3, "rate": 0.1, "kind": "c", "fixed": 3.0})
    assert row.tolist() == pytest.approx([2.0, 0.5, 0.25])  # kind, rate, width
    assert encoding.parameters.choices.tolist() == [True, False, False]


def test_what_a_recipe_lacks_is_nan_and_what_it_has_beside_is_left_out() -> None:
    row = Encoding(RANGES).row({"rate": 1.0, "other": 7})
    assert np.isnan(row).tolist() == [True, False, True]
