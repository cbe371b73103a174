"""The mean over the classes of the accuracy on each: small classes weigh as much as large ones."""

import numpy as np
from numpy.typing import NDArray

from kd.metrics import POINTS

NAME = "balanced accuracy"
UNIT = POINTS
RANGE = (0.0, 1.0)
MARGIN = 0.5


def weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights [N] with which all classes weigh the same."""
    counts = np.bincount(labels)
    return np.asarray(len(labels) / (np.count_nonzero(counts) * counts[labels]))


def scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the balanced accuracy plus each example's influence on it.

    An example of a class of n has the weight N / (classes n), and influences the accuracy of its
    own class alone. Deviations are from the mean of the class, and scaled by sqrt(n / (n - 1)), so
    that the variance of the whole is the unbiased one of a stratified mean (Cochran, "Sampling
    techniques", 1977, equation 5.7). Classes without an example are left out.
    """
    correct = (logits.argmax(1) == labels).astype(float)
    counts = np.bincount(labels)
    recall = np.bincount(labels, correct) / np.maximum(counts, 1)
    classes = np.count_nonzero(counts)
    weights = len(labels) / (classes * np.maximum(counts, 1))
    weights *= np.sqrt(counts / np.maximum(counts - 1, 1))
    balanced = recall[counts > 0].sum() / classes
    return np.asarray(balanced + weights[labels] * (correct - recall[labels]))
