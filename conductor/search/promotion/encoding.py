"""Recipes as rows of numbers: what the surrogate sees of an arm's parameters."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from conductor.search.promotion.surrogate import Floats, Parameters

Distributions = Mapping[str, BaseDistribution]


class Encoding:
    """The columns of an arm's parameters, in the order of their names.

    A parameter without a choice is left out.
    """

    def __init__(self, distributions: Distributions) -> None:
        """`distributions` has one of each parameter: the ends of its range are 0 and 1."""
        self.ranges = {
            name: distributions[name]
            for name in sorted(distributions)
            if not distributions[name].single()
        }
        choices = [isinstance(one, CategoricalDistribution) for one in self.ranges.values()]
        self.parameters = Parameters(np.array(choices, dtype=bool))

    def row(self, parameters: Mapping[str, Any]) -> Floats:
        """Return a recipe's row [D]: numbers in 0-1, a choice's index, NaN for what it lacks."""
        return np.array(
            [
                _unit(distribution, parameters[name]) if name in parameters else math.nan
                for name, distribution in self.ranges.items()
            ]
        )


def _unit(distribution: Any, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.to_internal_repr(value))
    low, high, received = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, received = math.log(low), math.log(high), math.log(received)
    return (received - low) / (high - low)
