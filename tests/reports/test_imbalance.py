"""Verdicts on metrics of imbalanced data, 95:5, by simulation: false claims and coverage."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kd.training.scoring import objective, scores
from reports.statistics import Difference, paired_difference

METRICS = ("accuracy", "balanced-accuracy", "macro-f1")
RARE = 0.05
SEEDS, IMAGES, STUDIES = 6, 1000, 1000
Floats = NDArray[np.float64]


class World:
    """Images that are hard to different degrees, and students that differ by their seeds.

    A student is right on an image if its ease, a part of the student's own for each class, and
    noise add up to more than 0. The rare class is harder.
    """

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def images(self, count: int) -> tuple[NDArray[np.int64], Floats]:
        """Labels and ease of a test split, which keeps the classes' shares."""
        labels = (np.arange(count) < round(RARE * count)).astype(np.int64)
        return labels, self._draw.normal(np.where(labels == 1, 0.5, 1.7), 1.0)

    def answers(
        self, labels: NDArray[np.int64], ease: Floats, seeds: int, shift: float
    ) -> NDArray[np.float32]:
        """Logits [seeds, N, 2] of a recipe that makes the rare class easier by `shift`."""
        own = self._draw.normal(0, 0.15, (seeds, 2))[:, labels] + shift * labels
        noise = self._draw.normal(0, 0.5, (seeds, len(labels)))
        right = ease + own + noise > 0
        said = np.where(right, labels, 1 - labels)
        return np.eye(2, dtype=np.float32)[said]


def study(world: World, metric: str, images: int, shift: float) -> Difference:
    labels, ease = world.images(images)
    tables = [
        np.stack([scores(metric, one, labels) for one in world.answers(labels, ease, SEEDS, by)])
        for by in (shift, 0.0)
    ]
    return paired_difference(*tables)


def truth(metric: str, shift: float) -> float:
    """The difference over very many images and seeds."""
    world, found = World(1), []
    for by in (shift, 0.0):
        labels, ease = world.images(20_000)
        answers = (world.answers(labels, ease, 1, by)[0] for _ in range(200))
        found.append(np.mean([objective(metric, one, labels) for one in answers]))
    return float(found[0] - found[1])


@pytest.mark.thorough
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_false_claims_and_coverage_where_one_class_is_rare(metric: str, shift: float) -> None:
    wanted = truth(metric, shift) if shift else 0.0
    world = World(2)
    found = [study(world, metric, IMAGES, shift) for _ in range(STUDIES)]
    outside = sum(not one.low <= wanted <= one.high for one in found) / STUDIES
    error = (0.05 * 0.95 / STUDIES) ** 0.5
    assert outside <= (0.05 if not shift else 0.07) + 2 * error
