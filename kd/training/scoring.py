"""Score predictions with the study's metric, in training and in reports. No torch."""

import numpy as np
from numpy.typing import NDArray

from kd.errors import ProtocolError
from kd.metrics import load_metric, score_range

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def scores(name: str, logits: NDArray[np.float32], labels: Integers) -> Floats:
    """Return the scores [N] of a metric by its name: logits [N, C], labels [N].

    Higher is better: those of a metric whose lower values are better have their sign turned, from
    here to where a value is shown (`reports.wording.Measure`). Raises ProtocolError when the metric
    does not return one finite number per example.
    """
    found = np.asarray(load_metric(name).scores(logits, labels), dtype=np.float64)
    if found.shape != labels.shape or not np.isfinite(found).all():
        raise ProtocolError(
            f"the metric {name} must return one finite score per example, {list(labels.shape)}, "
            f"got {list(found.shape)} with {int(np.sum(~np.isfinite(found)))} not finite"
        )
    worst, best = load_metric(name).RANGE
    return found if worst < best else -found


def example_weights(name: str, labels: Integers) -> Floats:
    """Return how much each example [N] weighs in a metric; equally, unless it has `weights`."""
    weights = getattr(load_metric(name), "weights", None)
    return np.ones(len(labels)) if weights is None else np.asarray(weights(labels), np.float64)


def objective(name: str, logits: NDArray[np.float32], labels: Integers) -> float:
    """Return a metric's value, the mean of its scores, within its range; higher is better."""
    worst, best = score_range(name)
    return float(np.clip(scores(name, logits, labels).mean(), worst, best))
