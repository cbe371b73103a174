"""The share of examples whose largest logit is that of the label."""

import numpy as np
from numpy.typing import NDArray

from kd.metrics import POINTS

NAME = "accuracy"
UNIT = POINTS
RANGE = (0.0, 1.0)
MARGIN = 0.5


def scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(logits.argmax(1) == labels, dtype=np.float64)
