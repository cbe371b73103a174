"""Intervals of one result, and of what is computed from several."""

from dataclasses import replace

import numpy as np
from scipy import stats

from reports.statistics import (
    CONFIDENCE,
    CrossedErrors,
    Difference,
    Floats,
    Scores,
    crossed_errors,
    detectable_difference,
    half_width,
)

Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
ROUGHLY = 0.9  # the level of the range of a detectable difference


def mean_interval(scores: Scores, worst: float = 0.0, best: float = 1.0) -> tuple[float, float]:
    """Return the 95 % interval of a metric, within its range: scores [S, N] of N test images.

    Over several seeds it has both errors, as that of a difference. Over one run, such as the
    teacher's, it is over images alone, which says nothing about other seeds. For scores of 0 and 1
    it is Wilson's (1927), of as many images as the errors are worth; for others the mean ± half a
    width.
    """
    seeds, images = scores.shape
    above = np.subtract(scores, worst, dtype=np.float64)
    if best - worst == 1 and np.isin(above, (0, 1)).all():  # accuracy, or a share of errors
        ends = _wilson(float(above.mean()), images / _design_effect(above))
        return worst + ends[0], worst + ends[1]
    if seeds == 1:
        half = Z * float(np.std(scores, ddof=1) / np.sqrt(images))
    else:
        half = float(half_width(crossed_errors(scores, np.zeros_like(scores)), seeds))
    mean = float(scores.mean())
    return max(worst, mean - half), min(best, mean + half)


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's interval of a share of `count` examples, which need not be a whole number."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _design_effect(right: Floats) -> float:
    """Return how many images count as one independent example; right: [S, N] of 0 and 1.

    It is half-width² / (z² p (1 - p) / N) (Kish, "Survey sampling", 1965), with the half-width of
    `half_width`, whose t quantile few seeds need. Below 1, which means that seeds differ in what
    they have wrong, it is an estimate from the few images that some seed has wrong (or right, if
    those are fewer): z² / 2 more, on which all seeds agree, are added to them, as many as Wilson's
    centre adds. Without any of them it is 1.
    """
    share, images = float(right.mean()), right.shape[1]
    if len(right) == 1 or share in (0, 1):
        return 1.0
    half = float(half_width(crossed_errors(right, np.zeros_like(right)), len(right)))
    effect = half**2 * images / (Z**2 * share * (1 - share))
    rare = min(int((right == one).any(0).sum()) for one in (0, 1))
    if effect < 1:
        effect = (rare * effect + Z**2 / 2) / (rare + Z**2 / 2)
    return float(effect)


def detectable_range(difference: Difference) -> tuple[float, float]:
    """Return the 90 % range of the detectable difference, which is itself an estimate.

    S seeds leave the standard deviation between seeds open: the estimate lies between
    sqrt(chi²(0.05) / (S - 1)) and sqrt(chi²(0.95) / (S - 1)) times the true one, with S - 1 degrees
    of freedom; of 6 seeds between 0.48 and 1.49 times. The images' part is taken as known.
    """
    freedom = difference.seeds - 1
    tails = (0.5 + ROUGHLY / 2, 0.5 - ROUGHLY / 2)
    factors = [float(np.sqrt(freedom / stats.chi2.ppf(tail, freedom))) for tail in tails]
    low, high = (
        float(
            detectable_difference(
                CrossedErrors(
                    mean=np.array(difference.mean),
                    seed=np.array(factor * difference.se_seed),
                    image=np.array(difference.se_image),
                ),
                difference.seeds,
            )
        )
        for factor in factors
    )
    return low, high


def ratio_interval(gain: Floats, lead: Floats) -> tuple[float, float] | None:
    """Return the 95 % interval of mean(gain) / mean(lead), None where it is unbounded.

    `gain`, `lead`: [S, N], of the same seeds and test images. The interval is Fieller's ("Some
    problems in interval estimation", 1954): all shares q for which the interval of gain - q lead
    contains 0, over seeds and images, which brings in their covariance. Its ends are the roots of

        mean² - half-width² = A q² + B q + C

    and it is bounded where A is above 0: where the interval of the lead leaves out 0.
    """

    def excess(table: Floats) -> float:
        errors = crossed_errors(table, np.zeros_like(table))
        return float(errors.mean**2 - half_width(errors, len(table)) ** 2)

    square, constant = excess(lead), excess(gain)
    linear = excess(gain - lead) - square - constant
    root = linear**2 - 4 * square * constant
    if square <= 0 or root < 0:
        return None
    low, high = ((-linear + sign * np.sqrt(root)) / (2 * square) for sign in (-1, 1))
    return float(low), float(high)


def holm_difference(difference: Difference, p_holm: float | None) -> Difference:
    """Return a difference with the interval at the level at which Holm's procedure tests it.

    The level is 0.05 p / p_holm, so that the interval leaves out 0 exactly where p_holm is below
    0.05. Unchanged without a correction.
    """
    if p_holm is None or p_holm == difference.p:
        return difference
    errors = CrossedErrors(
        mean=np.array(difference.mean),
        seed=np.array(difference.se_seed),
        image=np.array(difference.se_image),
    )
    level = (1 - CONFIDENCE) * difference.p / p_holm
    half = float(half_width(errors, difference.seeds, 1 - level))
    return replace(difference, low=difference.mean - half, high=difference.mean + half)
