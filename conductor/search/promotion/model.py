"""The model of an arm: the surrogate's posterior of recipes, from runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from conductor.search.promotion.rungs import Run
from conductor.search.promotion.scale import Scale
from conductor.search.promotion.surrogate import (
    MOST,
    Floats,
    Observations,
    Parameters,
    Posterior,
    Recipes,
    expected_improvement,
)
from conductor.search.promotion.warp import Warp

LOWEST = -1  # in place of a run's number: all that diverged
DIGITS = 9  # of an acquisition: what differs less is equal, on every machine


class Model:
    """Keeps the rows of an arm's recipes, so that each decision computes those of new ones only.

    A recipe is named by the number of its first run; its row [D] has its parameters.
    """

    def __init__(self, parameters: Parameters, scale: Scale, horizon: int) -> None:
        self._scale = scale
        self._horizon = horizon
        self._recipes = Recipes(parameters)
        self._places: dict[int, int] = {}

    def __contains__(self, recipe: int) -> bool:
        return recipe in self._places

    def add(self, rows: Mapping[int, Floats]) -> None:
        """Add the rows of recipes that are not known yet, in order."""
        new = [number for number in rows if number not in self._places]
        if new:
            self._places |= {number: len(self._places) + k for k, number in enumerate(new)}
            self._recipes.add(np.stack([rows[number] for number in new]))

    def posterior(self, runs: Sequence[Run], early: bool = True) -> Posterior:
        """Return the posterior after these runs: from all their values, and their pending jobs.

        Without `early`, from those at the horizon.
        """
        pending = [(run, run.target, np.nan) for run in runs if run.target > run.epochs]
        every = [*self._values(runs), *pending]
        furthest = [row for row in every if early or row[1] == self._horizon]
        furthest.sort(key=lambda row: (-row[1], -row[0].number))
        rows = sorted(furthest[:MOST], key=lambda row: (row[0].number, row[1]))
        places = [self._places[run.recipe] for run, _, _ in rows]
        seen = Observations(
            runs=np.array([run.number for run, _, _ in rows], dtype=np.int64),
            recipes=np.array(places, dtype=np.int64),
            epochs=np.array([epoch for _, epoch, _ in rows], dtype=np.int64),
            values=np.array([value for _, _, value in rows], dtype=np.float64),
            horizon=self._horizon,
        )
        return Posterior(seen, self._recipes)

    def _values(self, runs: Sequence[Run]) -> Iterator[tuple[Run, int, float]]:
        """Yield runs with an epoch that they came to, and their value there, warped among all."""
        for epoch in sorted({self._horizon, *(rung for run in runs for rung in run.signals)}):
            reached = self._reached(epoch, runs)
            plain = np.array([*reached.values()])
            values = dict(zip(reached, Warp(plain)(plain).tolist(), strict=True))
            for run in runs:
                lowest = run.diverged and epoch == self._horizon
                if (number := LOWEST if lowest else run.number) in values:
                    yield run, epoch, values[number]

    def _reached(self, epoch: int, runs: Sequence[Run]) -> dict[int, float]:
        """Return the value after `epoch` of each run that came there, by number.

        At the horizon all runs that diverged are one, of the lowest value: there may be as many as
        others, since few of these come to the horizon.
        """
        if epoch < self._horizon:
            there = [run for run in runs if epoch in run.signals]
            return {run.number: self._scale.early(run.signals[epoch]) for run in there}
        whole = {run.number: run.value for run in runs if run.value is not None}
        signals = [run.signals[epoch] for run in runs if run.number in whole]
        values = self._scale.at_horizon([*whole.values()], signals)
        lowest = {LOWEST: self._scale.lowest} if any(run.diverged for run in runs) else {}
        return dict(zip(whole, values, strict=True)) | lowest

    def shown(self, scores: Floats, runs: Sequence[Run]) -> Floats:
        """Return scores at the horizon as they are shown: shares, others as they are."""
        reached = self._reached(self._horizon, runs)
        return self._scale.shown(Warp(np.array([*reached.values()])).inverse(scores))

    def ranked(self, posterior: Posterior, recipes: Collection[int]) -> list[int]:
        """Return these recipes, the highest posterior mean at the horizon first."""
        mean, _ = posterior.of_recipes()
        return sorted(
            recipes, key=lambda one: (-round(float(mean[self._places[one]]), DIGITS), one)
        )

    def best_of(self, rows: Floats, posterior: Posterior, known: Collection[int]) -> int:
        """Return the place of the row, of [M, D], with the largest expected improvement.

        It is over the best posterior mean of the `known` recipes.
        """
        places = [self._places[recipe] for recipe in known]
        best = float(posterior.of_recipes()[0][places].max())
        mean, deviation = posterior.of(rows)
        gain = expected_improvement(mean, deviation, best)
        return int(np.argmax(np.round(gain, DIGITS)))
