"""The surrogate: a Gaussian process over recipes and epochs, in closed form.

Each value of a run, at a rung or at the horizon, is an observation:
y = level(epoch) + f(recipe, epoch) + u(run, epoch) + noise. A run goes on because of its earlier
values; without these, what is seen at later epochs would be a selection. All variances are shares
of one scale, which is the only thing that is estimated; nothing is optimised, so that a posterior
is a function of its data. The shares were chosen by replaying recorded curves (docs/replay.md).
Freeze-thaw (Swersky et al. 2014, arXiv 1406.3896) has the idea of a kernel over recipe and epoch;
see Rasmussen and Williams, "Gaussian processes for machine learning", 2006, algorithm 2.1, for the
computation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import ndtr

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

OF_RUN = 0.06  # variance that the runs of one recipe do not share
OF_RECIPE = 0.05  # share of the recipes' variance that is not smooth in their parameters
NOISE = 0.09  # variance of a value
LEVEL = 1.0  # variance of the mean over all recipes, and again of that at each epoch
SPAN = 6.0  # horizons, over which the correlation between epochs falls to 1/e
LENGTH = 0.35  # of a parameter's unit range, of the sum of kernels of one parameter each
WIDTH = 0.6  # the same, of their product
ADDITIVE = 0.5  # share of the sum; the product has the rest
ONE_SIDED = 0.3, 0.2  # similarity, and squared distance, where only one recipe has the parameter
UNEQUAL = 0.35  # squared distance of two different choices
MOST = 1500  # observations, those at the latest epochs


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of an arm: which of them are choices [D]."""

    choices: NDArray[np.bool_]

    def similarity(self, left: Floats, right: Floats) -> Floats:
        """Return the prior correlation [N, M] of different recipes [N, D] and [M, D].

        Numbers lie in 0-1, a choice is its index; NaN where a recipe lacks the parameter.
        """
        total = np.zeros((len(left), len(right)))
        distance = np.zeros_like(total)
        for place in range(count := len(self.choices)):
            near, far = self._one(place, left[:, place][:, None], right[:, place][None, :])
            total += near
            distance += far
        mean = total / count if count else np.ones_like(total)
        smooth = ADDITIVE * mean + (1 - ADDITIVE) * np.exp(distance / (-2 * WIDTH**2))
        return np.asarray((1 - OF_RECIPE) * smooth)

    def _one(self, place: int, one: Floats, other: Floats) -> tuple[Floats, Floats]:
        """Return similarity and squared distance [N, M] in one parameter, [N, 1] and [1, M]."""
        lacks, lacked = np.isnan(one), np.isnan(other)
        if self.choices[place]:
            near = (one == other).astype(float)
            far = UNEQUAL * (1 - near)
        else:
            far = (np.where(lacks, 0.0, one) - np.where(lacked, 0.0, other)) ** 2
            near = np.exp(far / (-2 * LENGTH**2))
        if lacks.any() or lacked.any():
            both, single = lacks & lacked, lacks ^ lacked
            near[both], far[both] = 1.0, 0.0
            near[single], far[single] = ONE_SIDED
        return near, far


class Recipes:
    """The rows of an arm's recipes [R, D], to which new ones are added, and their correlation."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.rows: Floats = np.empty((0, len(parameters.choices)))
        self.among: Floats = np.empty((0, 0))  # [R, R]

    def add(self, rows: Floats) -> None:
        """Add recipes [N, D]."""
        beside = self.to(rows)
        new = self.parameters.similarity(rows, rows)
        np.fill_diagonal(new, 1.0)
        self.among = np.block([[self.among, beside.T], [beside, new]])
        self.rows = np.concatenate([self.rows, rows])

    def to(self, rows: Floats) -> Floats:
        """Return the prior correlation [M, R] of other recipes [M, D] with these."""
        return self.parameters.similarity(rows, self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Values [N] of runs after an epoch, NaN where a job is pending; `recipes` are their places."""

    runs: Integers
    recipes: Integers
    epochs: Integers
    values: Floats
    horizon: int


class Posterior:
    """What is known of an arm's recipes at the horizon."""

    def __init__(self, seen: Observations, recipes: Recipes) -> None:
        known = ~np.isnan(seen.values)
        order = np.argsort(~known, kind="stable")  # the known first
        values = seen.values[known]
        self._prior, self._horizon = recipes, seen.horizon
        self._recipes, self._epochs = seen.recipes[order], seen.epochs[order]
        runs = seen.runs[order]
        together = self._together(self._epochs[:, None])
        covariance = recipes.among[np.ix_(self._recipes, self._recipes)] * together
        covariance += OF_RUN * (runs[:, None] == runs) * together
        covariance += LEVEL * (1.0 + (self._epochs[:, None] == self._epochs))
        covariance[np.diag_indices_from(covariance)] += NOISE
        self._root = cholesky(covariance, lower=True, check_finite=False)
        count = len(values)
        self._offset = float(values.mean()) if count else 0.0
        self._weights = np.zeros(len(order))  # pending jobs change variances alone
        self._weights[:count] = solve_triangular(
            self._root[:count, :count], values - self._offset, lower=True, check_finite=False
        )
        self._variance = float(self._weights @ self._weights / count) if count else 1.0

    def _together(self, epochs: Integers) -> Floats:
        """Return the correlation of values after `epochs` with those of the observations."""
        return np.asarray(np.exp(-np.abs(epochs - self._epochs) / (SPAN * self._horizon)))

    def of_recipes(self) -> tuple[Floats, Floats]:
        """Return mean and standard deviation [R] of the arm's recipes."""
        return self._at(self._prior.among)

    def of(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation [M] of other recipes [M, D]."""
        return self._at(self._prior.to(rows))

    def _at(self, prior: Floats) -> tuple[Floats, Floats]:
        mean, solved = self._solve(prior)
        left = 1 + 2 * LEVEL - (solved**2).sum(0)
        return mean, np.sqrt(np.maximum(left, 1e-6) * max(self._variance, 1e-9))

    def _solve(self, prior: Floats) -> tuple[Floats, Floats]:
        """Return the mean [M] of recipes of this prior correlation [M, R], and [N, M] for more."""
        at_horizon = np.asarray(self._horizon)
        between = prior[:, self._recipes] * self._together(at_horizon)
        between += LEVEL * (1.0 + (self._epochs == self._horizon))
        solved = solve_triangular(self._root, between.T, lower=True, check_finite=False)
        return self._offset + solved.T @ self._weights, solved

    def draws(self, rows: Floats, count: int, generator: np.random.Generator) -> Floats:
        """Draw `count` functions from the posterior; return their values [count, M] at rows [M, D].

        What all recipes have in common is left out.
        """
        mean, solved = self._solve(self._prior.to(rows))
        among = self._prior.parameters.similarity(rows, rows) + OF_RECIPE * np.eye(len(rows))
        covariance = max(self._variance, 1e-9) * (among + 2 * LEVEL - solved.T @ solved)
        centre = np.eye(len(rows)) - 1 / len(rows)
        values, vectors = np.linalg.eigh(centre @ covariance @ centre)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = generator.standard_normal((count, len(rows)))
        return np.asarray(mean - mean.mean() + normal @ root.T)


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Return by how much a value exceeds `best` on average (Jones et al. 1998, equation 15)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * ndtr(z) + density))
