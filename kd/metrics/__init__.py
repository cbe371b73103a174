"""Metrics, by which a study ranks trials and compares recipes; each module here is one."""

from math import isfinite
from typing import TYPE_CHECKING, Protocol, cast

from kd.errors import ProtocolError
from kd.names import METRICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POINTS = "points"  # the unit of metrics in 0-1, whose values are shown in per cent


class Metric(Protocol):
    """What a module of this folder offers.

    `NAME` is what sentences call it, as in "balanced accuracy". `UNIT` is that of differences:
    `points` for values in 0-1 that are shown in per cent, any other word, such as nats, or none.
    `RANGE` is the worst and the best value, both finite: (2.0, 0.0) for one whose lower values are
    better. A run that diverges has the worst. `MARGIN`, in units, is how far two recipes may lie
    apart and still count as equivalent, unless the study says otherwise. A function
    `weights(labels)`, if there is one, returns how much each example [N] weighs.
    """

    NAME: str
    UNIT: str
    RANGE: tuple[float, float]
    MARGIN: float

    def scores(
        self, logits: "NDArray[np.float32]", labels: "NDArray[np.int64]"
    ) -> "NDArray[np.float64]":
        """Return one score per example, [N]: the metric is their mean, and they carry its error.

        `logits`: [N, C] float32; `labels`: [N] int64. Intervals treat examples as drawn at random,
        and take how far the mean could be off from the spread of the scores. For a mean over
        examples, such as accuracy, they are the examples' own values. For any other metric they
        are its value plus each example's influence on it, and influences sum to 0.
        """


def load_metric(name: str) -> Metric:
    """Return a metric by its name. Raises ProtocolError for an unknown or an incomplete one."""
    metric = METRICS.load(name)
    if lacking := [
        what for what in (*Metric.__annotations__, "scores") if not hasattr(metric, what)
    ]:
        raise ProtocolError(f"the metric {name} lacks {', '.join(lacking)}")
    worst, best = metric.RANGE
    if worst == best or not (isfinite(worst) and isfinite(best)):
        raise ProtocolError(
            f"the RANGE of the metric {name} must be its worst and its best value, both finite, "
            f"got {metric.RANGE}"
        )
    return cast(Metric, metric)


def score_range(name: str) -> tuple[float, float]:
    """Return the worst and the best mean of a metric's scores, the worst below the best."""
    worst, best = load_metric(name).RANGE
    return (worst, best) if worst < best else (-worst, -best + 0.0)
