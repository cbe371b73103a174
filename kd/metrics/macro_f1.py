"""The mean over the classes of the F1 score: misses and false alarms of each weigh the same."""

import numpy as np
from numpy.typing import NDArray

from kd.metrics import POINTS
from kd.metrics.balanced_accuracy import weights

__all__ = ["MARGIN", "NAME", "RANGE", "UNIT", "scores", "weights"]

NAME = "macro F1"
UNIT = POINTS
RANGE = (0.0, 1.0)
MARGIN = 0.5

Floats = NDArray[np.float64]


def scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
    """Return macro F1 plus each example's influence on it, by the jackknife.

    With F(-i) the value without example i, and F(.) the mean of these, its influence is
    (N - 1)(F(.) - F(-i)); the variance of their mean is then the jackknife's (Efron and Stein 1981,
    "The jackknife estimate of variance", equation 1.4). F(-i) depends on the label and the
    predicted class alone. Classes without an example are left out.
    """
    predicted, count = logits.argmax(1), logits.shape[1]
    pairs = labels * count + predicted
    confused = np.bincount(pairs, minlength=count**2).reshape(count, count).astype(float)
    right, among = np.diag(confused), confused.sum(0) + confused.sum(1)
    present = confused.sum(1) > 0
    value = _f1(right, among)
    # F1 of a class without an example that is right; or with one error less, of either kind
    less_right, less_wrong = _f1(right - 1, among - 2), _f1(right, among - 1)
    change = np.where(present, less_wrong - value, 0.0)
    changes = change[:, None] + change[None, :]
    np.fill_diagonal(changes, less_right - value)
    without = value[present].mean() + changes.ravel()[pairs] / present.sum()
    influence = (len(labels) - 1) * (without.mean() - without)
    return np.asarray(value[present].mean() + influence - influence.mean())


def _f1(right: Floats, among: Floats) -> Floats:
    """Return 2 TP / (2 TP + FP + FN), 0 where there is nothing; `among` is the denominator."""
    return np.asarray(np.where(among > 0, 2 * right / np.maximum(among, 1), 0.0))
