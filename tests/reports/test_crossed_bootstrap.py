"""The error of a metric that is no mean over examples is that of a bootstrap over both factors."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kd.training.scoring import scores
from reports.statistics import crossed_errors
from tests.reports.test_imbalance import World

SEEDS, IMAGES, STUDIES, DRAWS = 12, 600, 12, 300
Floats = NDArray[np.float64]


def value(metric: str, confused: Floats) -> Floats:
    """Return the metric [...] of confusion matrices [..., true, predicted] of two classes."""
    right = np.diagonal(confused, axis1=-2, axis2=-1)
    if metric == "balanced-accuracy":
        return np.asarray((right / confused.sum(-1)).mean(-1))
    return np.asarray((2 * right / (confused.sum(-1) + confused.sum(-2))).mean(-1))


def bootstrap_variance(metric: str, said: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Draw seeds and images with replacement; return the variance of the mean over the seeds.

    `said` [S, N] are predicted classes. The metric is computed anew for each draw.
    """
    draw = np.random.default_rng(5)
    weights = draw.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), DRAWS)
    cells = (2 * labels + said)[:, :, None] == np.arange(4)
    confused = np.einsum("bn,snc->bsc", weights, cells).reshape(DRAWS, len(said), 2, 2)
    seeds = draw.integers(len(said), size=(DRAWS, len(said)))
    return float(np.take_along_axis(value(metric, confused), seeds, axis=1).mean(1).var(ddof=1))


@pytest.mark.parametrize("metric", ["balanced-accuracy", "macro-f1"])
def test_the_error_by_the_jackknife_is_that_of_a_crossed_bootstrap(metric: str) -> None:
    """To a tenth, over a dozen studies with 5 % of one class.

    Where an interval counts the interaction of seeds and images once, this bootstrap counts it
    three times (Owen 2007, "The pigeonhole bootstrap").
    """
    world, ours, theirs = World(3), [], []
    for _ in range(STUDIES):
        labels, ease = world.images(IMAGES)
        answers = world.answers(labels, ease, SEEDS, 0.0)
        table = np.stack([scores(metric, one, labels) for one in answers])
        errors = crossed_errors(table, np.zeros_like(table))
        alone = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        interaction = (alone**2).sum() / ((SEEDS - 1) * (IMAGES - 1)) / (SEEDS * IMAGES)
        ours.append(errors.seed**2 + errors.image**2 + 2 * interaction)
        theirs.append(bootstrap_variance(metric, answers.argmax(2), labels))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.1)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.8
