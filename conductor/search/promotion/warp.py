"""Half-rank warping: bad values lie no farther apart than good ones do.

How bad a recipe is says little about which is best, but a few that fail entirely would have most of
the surrogate's variance. So values from the median on stay as they are, and lower ones are spread
as the lower half of a normal distribution whose upper half the good ones are (Song et al. 2024,
"The Vizier Gaussian process bandit algorithm", arXiv 2408.11527, section on output warping).
"""

import numpy as np
from scipy.special import ndtri

from conductor.search.promotion.surrogate import Floats

FEWEST = 4  # values, of fewer nothing is known about their spread


class Warp:
    """A warp that is fitted to values [N]. Of few values it changes none.

    Where all good values are equal, the spread is any: the surrogate's scale follows it.
    """

    def __init__(self, values: Floats) -> None:
        self._plain = self._warped = np.empty(0)
        if len(values) < FEWEST:
            return
        median = float(np.median(values))
        spread = float(np.sqrt(np.mean((values[values >= median] - median) ** 2))) or 1.0
        low, counts = np.unique(values[values < median], return_counts=True)
        places = (np.cumsum(counts) - counts / 2) / len(values)
        self._plain = np.append(low, median)
        self._warped = np.append(median + spread * ndtri(places), median)

    def __call__(self, values: Floats) -> Floats:
        """Return values warped; those below all that it was fitted to count as the lowest."""
        return self._between(values, self._plain, self._warped)

    def inverse(self, warped: Floats) -> Floats:
        return self._between(warped, self._warped, self._plain)

    def _between(self, values: Floats, source: Floats, target: Floats) -> Floats:
        if not len(source):
            return values
        return np.where(values < source[-1], np.interp(values, source, target), values)
