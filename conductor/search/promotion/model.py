"""The model of an arm: the surrogate's posterior of recipes, from runs and parameters."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from conductor.search.promotion.encoding import Encoding
from conductor.search.promotion.rungs import Run
from conductor.search.promotion.scale import Scale
from conductor.search.promotion.surrogate import (
    MOST,
    Floats,
    Observations,
    Posterior,
    Recipes,
    expected_improvement,
)

Parameters = Mapping[str, Any]
DIGITS = 9  # of an acquisition: what differs less is equal, on every machine


class Model:
    """Keeps the rows of an arm's recipes, so that each decision computes those of new ones only.

    A recipe is named by the number of its first run.
    """

    def __init__(self, scale: Scale, horizon: int) -> None:
        self._scale = scale
        self._horizon = horizon
        self._distributions: dict[str, BaseDistribution] = {}
        self._encoding = Encoding({})
        self._recipes = Recipes(self._encoding.parameters)
        self._rows: dict[int, Parameters] = {}

    def know(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Add the columns of parameters that are not known yet."""
        if new := distributions.keys() - self._distributions.keys():
            self._distributions |= {name: distributions[name] for name in new}
            self._encoding = Encoding(self._distributions)
            self._recipes = Recipes(self._encoding.parameters)
            if self._rows:
                self._recipes.add(self._encode(list(self._rows.values())))

    def add(self, recipes: Mapping[int, Parameters]) -> None:
        """Add recipes by number, in order."""
        if new := {number: one for number, one in recipes.items() if number not in self._rows}:
            self._rows |= new
            self._recipes.add(self._encode(list(new.values())))

    def _encode(self, recipes: Sequence[Parameters]) -> Floats:
        return np.stack([self._encoding.row(one) for one in recipes])

    def posterior(self, runs: Sequence[Run]) -> Posterior:
        """Return the posterior after these runs: each has its latest value, and a pending job."""
        places = self._places()
        known = [(run, run.epochs, value) for run, value in self._values(runs)]
        pending = [(run, run.target, np.nan) for run in runs if run.target > run.epochs]
        furthest = sorted([*known, *pending], key=lambda row: (-row[1], -row[0].number))
        rows = sorted(furthest[:MOST], key=lambda row: (row[0].number, row[1]))
        seen = Observations(
            runs=np.array([run.number for run, _, _ in rows], dtype=np.int64),
            recipes=np.array([places[run.recipe] for run, _, _ in rows], dtype=np.int64),
            epochs=np.array([epoch for _, epoch, _ in rows], dtype=np.int64),
            values=np.array([value for _, _, value in rows], dtype=np.float64),
            horizon=self._horizon,
        )
        return Posterior(seen, self._recipes)

    def _places(self) -> dict[int, int]:
        return {number: place for place, number in enumerate(self._rows)}

    def _values(self, runs: Sequence[Run]) -> Iterator[tuple[Run, float]]:
        """Yield each run that has a value, with its latest on the surrogate's scale."""
        whole = [run for run in runs if run.value is not None]
        signals = [run.signals[self._horizon] for run in whole]
        values = self._scale.at_horizon([run.value or 0.0 for run in whole], signals)
        yield from zip(whole, values, strict=True)
        for run in runs:
            if run.diverged:
                yield run, self._scale.lowest
            elif 0 < run.epochs < self._horizon:
                yield run, self._scale.early(run.signals[run.epochs])

    def ranked(self, posterior: Posterior, runs: Sequence[Run]) -> list[int]:
        """Return the recipes with a run at the horizon, the highest posterior mean first."""
        places = self._places()
        mean, _ = posterior.of_recipes()
        whole = {run.recipe for run in runs if run.value is not None}
        return sorted(whole, key=lambda recipe: (-round(mean[places[recipe]], DIGITS), recipe))

    def best_of(
        self, candidates: Sequence[Parameters], posterior: Posterior, runs: Sequence[Run]
    ) -> int:
        """Return the place of the candidate with the largest expected improvement.

        It is over the best posterior mean of the recipes that have a value.
        """
        places = self._places()
        known = sorted({places[run.recipe] for run in runs if run.epochs})
        best = float(posterior.of_recipes()[0][known].max())
        mean, deviation = posterior.of(self._encode(candidates))
        gain = expected_improvement(mean, deviation, best)
        return int(np.argmax(np.round(gain, DIGITS)))
