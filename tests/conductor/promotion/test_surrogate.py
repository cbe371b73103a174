"""The surrogate: its kernel and posterior against formulas written out, number by number."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from conductor.search.promotion.surrogate import (
    Floats,
    Observations,
    Parameters,
    Posterior,
    Recipes,
    expected_improvement,
)

HORIZON = 24
NAN = math.nan
CHOICES = np.array([False, True, False])
PARAMETERS = Parameters(CHOICES)


def rows(count: int, seed: int = 0) -> Floats:
    """Recipes with a number, a choice of three, and a number that every other one lacks."""
    generator = np.random.default_rng(seed)
    found = np.column_stack(
        [generator.random(count), generator.integers(3, size=count), generator.random(count)]
    )
    found[::2, 2] = NAN
    return found


def similarity(one: Floats, other: Floats) -> float:
    """The kernel of two different recipes, parameter by parameter."""
    near, far = [], []
    for x, y, is_choice in zip(one, other, CHOICES, strict=True):
        if math.isnan(x) and math.isnan(y):
            near.append(1.0), far.append(0.0)
        elif math.isnan(x) or math.isnan(y):
            near.append(0.3), far.append(0.2)
        elif is_choice:
            near.append(float(x == y)), far.append(0.0 if x == y else 0.35)
        else:
            near.append(math.exp(-((x - y) ** 2) / (2 * 0.35**2))), far.append((x - y) ** 2)
    mean = sum(near) / len(near)
    return 0.95 * (0.5 * mean + 0.5 * math.exp(-sum(far) / (2 * 0.6**2)))


def test_similarity_is_that_of_the_formula() -> None:
    left, right = rows(5), rows(4, seed=1)
    found = PARAMETERS.similarity(left, right)
    expected = [[similarity(one, other) for other in right] for one in left]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_recipes_that_are_added_one_by_one_are_those_added_at_once() -> None:
    whole, grown = Recipes(PARAMETERS), Recipes(PARAMETERS)
    whole.add(rows(6))
    for place in range(6):
        grown.add(rows(6)[place : place + 1])
    np.testing.assert_allclose(grown.among, whole.among, rtol=1e-14)
    np.testing.assert_array_equal(np.diag(whole.among), 1.0)
    assert np.linalg.eigvalsh(whole.among).min() > 0


def observed(*told: tuple[int, int, int, float]) -> Observations:
    """Each of `told` is run, recipe, epoch and value."""
    runs, recipes, epochs, values = zip(*told, strict=True)
    return Observations(
        runs=np.array(runs),
        recipes=np.array(recipes),
        epochs=np.array(epochs),
        values=np.array(values),
        horizon=HORIZON,
    )


SEEN = ((0, 0, 24, 1.2), (1, 1, 4, -0.5), (2, 2, 10, 0.3), (3, 0, 24, 0.9), (4, 3, 4, -1.0))
PENDING = ((2, 2, 24, NAN), (5, 1, 24, NAN))


def covariance(one: tuple, other: tuple, known: Floats, *, noise: bool) -> float:
    (run, recipe, epoch), (run2, recipe2, epoch2) = one[:3], other[:3]
    time = math.exp(-abs(epoch - epoch2) / (6 * HORIZON))
    same = 1.0 if recipe == recipe2 else similarity(known[recipe], known[recipe2])
    total = same * time + 0.06 * (run == run2) * time + 1.0 + (epoch == epoch2)
    return total + noise * 0.09


def by_hand(told: tuple, known: Floats, recipe: int) -> tuple[float, float]:
    """Mean and deviation of a recipe at the horizon: algorithm 2.1 with plain inverses."""
    ended = [one for one in told if not math.isnan(one[3])]
    at = (-1, recipe, HORIZON)

    def parts(some: list) -> tuple[Floats, Floats]:
        matrix = [[covariance(a, b, known, noise=a is b) for b in some] for a in some]
        return np.array(matrix), np.array([covariance(at, one, known, noise=False) for one in some])

    values = np.array([one[3] for one in ended])
    matrix, beside = parts(ended)
    left = values - values.mean()
    mean = values.mean() + beside @ np.linalg.solve(matrix, left)
    scale = left @ np.linalg.solve(matrix, left) / len(left)
    matrix, beside = parts([*ended, *(one for one in told if math.isnan(one[3]))])
    variance = 3.0 - beside @ np.linalg.solve(matrix, beside)
    return float(mean), float(np.sqrt(scale * variance))


@pytest.mark.parametrize("told", [SEEN, (*SEEN, *PENDING)], ids=["all ended", "two pending"])
def test_the_posterior_is_that_of_plain_inverses(told: tuple) -> None:
    known, recipes = rows(5), Recipes(PARAMETERS)
    recipes.add(known)
    mean, deviation = Posterior(observed(*told), recipes).of_recipes()
    for recipe in range(5):
        expected = by_hand(told, known, recipe)
        assert (mean[recipe], deviation[recipe]) == pytest.approx(expected, rel=1e-9)


def test_the_order_of_observations_does_not_matter() -> None:
    recipes = Recipes(PARAMETERS)
    recipes.add(rows(5))
    told = (*SEEN, *PENDING)
    mean, deviation = Posterior(observed(*told), recipes).of_recipes()
    turned, turned_deviation = Posterior(observed(*told[::-1]), recipes).of_recipes()
    np.testing.assert_allclose(turned, mean, rtol=1e-10)
    np.testing.assert_allclose(turned_deviation, deviation, rtol=1e-10)


def test_other_recipes_are_predicted_like_those_of_the_arm() -> None:
    """One that is far more like a recipe than others is expected near it."""
    recipes = Recipes(PARAMETERS)
    recipes.add(rows(5))
    posterior = Posterior(observed(*SEEN), recipes)
    mean, deviation = posterior.of_recipes()
    twin, doubt = posterior.of(rows(5)[:1])
    assert twin[0] == pytest.approx(mean[0], abs=0.1)
    assert doubt[0] > deviation[0]


def test_a_repeat_makes_the_mean_of_a_recipe_more_certain() -> None:
    recipes = Recipes(PARAMETERS)
    recipes.add(rows(5))
    once = Posterior(observed(*SEEN), recipes).of_recipes()[1][0]
    twice = Posterior(observed(*SEEN, (9, 0, 24, 1.0)), recipes).of_recipes()[1][0]
    assert twice < once


def test_before_anything_has_ended_there_is_a_posterior() -> None:
    recipes = Recipes(PARAMETERS)
    recipes.add(rows(5))
    mean, deviation = Posterior(observed(*PENDING), recipes).of_recipes()
    assert mean.tolist() == [0.0] * 5
    assert (deviation > 0).all()


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 0.3), (0.9, 2.0)])
def test_expected_improvement_is_the_integral(mean: float, deviation: float) -> None:
    best = 1.0
    expected, _ = quad(
        lambda value: (value - best) * norm.pdf(value, mean, deviation), best, best + 40
    )
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert found[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)
