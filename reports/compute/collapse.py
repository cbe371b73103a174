"""Seeds far from all others, which the mean over seeds and its interval cannot judge."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from reports.statistics import MINIMUM_PAIRS

CHANCE = 0.01  # of normal seeds, how often one is said to carry the variance
DEVIATIONS = 10  # below the median; of 6 normal seeds one is in 0.5 % of studies


def carrier(values: Sequence[float], least: float) -> tuple[int, float] | None:
    """Return the place of the one value that carries the variance, and its share of it.

    By Grubbs' test (1950) at 1 %: with G the largest distance to the mean in standard deviations,
    the share G² / (n - 1) of the sum of squares is more than chance gives one of n normal values.
    None below 6 values, and where that distance is at most `least`.
    """
    count = len(values)
    distances = np.abs(np.asarray(values) - np.mean(values)) if values else np.zeros(1)
    place = int(distances.argmax())
    if count < MINIMUM_PAIRS or distances[place] <= least:
        return None
    share = float(distances[place] ** 2 / (distances**2).sum())
    t = float(stats.t.isf(CHANCE / (2 * count), count - 2)) ** 2
    return (place, share) if share > (count - 1) / count * t / (count - 2 + t) else None


def far_below(values: Sequence[float], least: float) -> list[int]:
    """Return the places of values that lie far below the median of all, such as collapsed runs.

    Far is more than 10 standard deviations, estimated as 1.4826 median absolute deviations
    (Hampel 1974), which several such values do not widen, and more than `least`. None below 6.
    """
    if len(values) < MINIMUM_PAIRS:
        return []
    below = np.median(values) - np.asarray(values)
    far = max(least, DEVIATIONS * 1.4826 * float(np.median(np.abs(below))))
    return np.flatnonzero(below > far).tolist()
