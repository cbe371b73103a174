"""The negative log-likelihood of the labels, which judges probabilities: lower is better."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

NAME = "negative log-likelihood"
UNIT = "nats"
RANGE = (100.0, 0.0)
MARGIN = 0.02


def scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    likelihood = log_softmax(logits.astype(np.float64), axis=1)
    return np.asarray(-likelihood[np.arange(len(labels)), labels])
