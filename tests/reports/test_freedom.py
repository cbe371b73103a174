"""Whether Satterthwaite's degrees of freedom would make better intervals; they are not used.

With normal effects the mean squares of a table are independent multiples of chi-squares, so they
are drawn without the table. Prints what docs/method.md records: pytest -s.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from reports.statistics import CrossedErrors, Floats, half_width

PARTS = [
    *((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    *((0.5, 0.5, 0.0), (0.1, 0.9, 0.0), (0.9, 0.1, 0.0)),
    *((0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.25, 0.5, 0.25)),
]  # of the variance of a mean: of seeds, of images, and what both leave


class Study(NamedTuple):
    seeds: int
    images: int
    parts: tuple[float, float, float]


def simulated(study: Study, count: int = 20_000) -> tuple[CrossedErrors, Floats]:
    """Return the errors of simulated means whose true value is 0, and Satterthwaite's degrees."""
    generator = np.random.default_rng([7, study.seeds, study.images, PARTS.index(study.parts)])
    of_seeds, of_images, rest = study.parts
    freedom = (study.seeds - 1, study.images - 1, (study.seeds - 1) * (study.images - 1))
    seed, image, residual = (
        variance * generator.chisquare(degrees, count) / degrees
        for variance, degrees in zip(
            (of_seeds + rest, of_images + rest, rest), freedom, strict=True
        )
    )
    errors = CrossedErrors(
        mean=generator.standard_normal(count),
        seed=np.sqrt(seed),
        image=np.sqrt(np.maximum(0.0, image - residual)),
    )
    terms = seed**2 / freedom[0] + np.where(errors.image > 0, image**2, 0.0) / freedom[1]
    degrees = (errors.seed**2 + errors.image**2) ** 2 / terms
    return errors, np.maximum(degrees, freedom[0])


@pytest.mark.parametrize("seeds", [2, 3, 6, 10, 20])
def test_satterthwaites_degrees_gain_little_and_cover_too_little_of_few_seeds(seeds: int) -> None:
    ours, theirs, widths = [], [], []
    for images, parts in itertools.product((300, 10_000), PARTS):
        errors, degrees = simulated(Study(seeds, images, parts))
        half = half_width(errors, seeds)
        other = stats.t.ppf(0.975, degrees) * np.hypot(errors.seed, errors.image)
        ours.append(float(np.mean(np.abs(errors.mean) <= half)))
        theirs.append(float(np.mean(np.abs(errors.mean) <= other)))
        widths.append(float(other.mean() / half.mean()))
    print(
        f"{seeds} seeds: ours covers {100 * min(ours):.1f} to {100 * max(ours):.1f} %, "
        f"Satterthwaite's {100 * min(theirs):.1f} to {100 * max(theirs):.1f} %, "
        f"of {min(widths):.2f} to {max(widths):.2f} times the width"
    )
    assert min(ours) >= 0.94
    assert min(theirs) < 0.93 if seeds < 6 else min(theirs) >= 0.93
    assert min(widths) > 0.9 or seeds < 6
