"""The scale on which the surrogate compares early signals with values at the horizon."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

HIGHEST = 0.995  # of a share; the logits of higher ones are mostly noise
LOWEST = 0.02  # of a share; for many classes a fifth of what guessing gets


@dataclass(frozen=True, slots=True)
class Scale:
    """The logit of shares. `is_share`: the metric lies in 0-1, 1 is best; `classes` of the data."""

    is_share: bool
    classes: int

    def early(self, signal: float) -> float:
        """Return the logit of the mean likelihood, of an early signal: minus its NLL in nats."""
        return self._logit(math.exp(min(0.0, signal)))

    @property
    def lowest(self) -> float:
        """The value of a run that diverged."""
        return self._logit(0.0)

    def at_horizon(self, values: Sequence[float], signals: Sequence[float]) -> list[float]:
        """Return the values of runs at the horizon; `signals` are their early signals there.

        A metric that is no share takes the place, by its rank, of the likelihoods.
        """
        if self.is_share:
            return [self._logit(value) for value in values]
        ordered, likely = np.sort(values), np.sort([self.early(signal) for signal in signals])
        places = (
            likely[np.searchsorted(ordered, value) : np.searchsorted(ordered, value, "right")]
            for value in values
        )
        return [float(place.mean()) for place in places]

    def shown(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores as they are shown: shares again, others as they are."""
        return expit(scores) if self.is_share else scores

    def _logit(self, share: float) -> float:
        kept = min(max(share, min(LOWEST, 0.2 / self.classes)), HIGHEST)
        return math.log(kept / (1 - kept))
