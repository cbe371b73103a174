"""Statistics of a comparison: paired differences with crossed random effects, verdicts, ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Scores = NDArray[np.float64] | NDArray[np.bool_]

CONFIDENCE = 0.95
POWER = 0.8
MINIMUM_PAIRS = 6
MINIMUM_AUDITORS = 8
MINIMUM_RANKED = 6  # independent pairs of a rank correlation with an interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossedErrors:
    """Mean of a table of differences and its two standard errors; arrays over leading axes."""

    mean: Floats
    seed: Floats
    image: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The metric of a minus the metric of b, not scaled, with its 95 % interval.

    `detectable` is about the true difference that as many seeds and images show with a probability
    of 80 %, and half of it with some 30 %; `p` is two-sided; `per_seed` are the paired differences.
    """

    mean: float
    low: float
    high: float
    p: float
    se_seed: float
    se_image: float
    detectable: float
    seeds: int
    images: int
    per_seed: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of `per_seed`, which a single seed that collapses hardly moves."""
        return float(np.median(self.per_seed))


def crossed_errors(scores_a: Scores, scores_b: Scores) -> CrossedErrors:
    """Split the error of a paired difference into its seeds' part and its test images' part.

    `scores_a`, `scores_b`: [..., S, N] float or bool, S paired seeds by N test images, whose means
    over images are the metric (`kd.metrics.Metric.scores`). With d their differences, a table of
    two crossed random effects without replication,

        se_seed²  = variance of the seeds' means / S
        se_image² = max(0, variance of the images' means / N - MS_residual / (S N))

    where MS_residual, of (S - 1)(N - 1) degrees of freedom, takes out of the images' part the
    noise that the seeds' part already holds (the method-of-moments estimator; Searle, Casella,
    McCulloch, "Variance components", 1992, chapter 4). Scores of 0 and 1 are summed without error.
    """
    table = np.subtract(scores_a, scores_b, dtype=np.float64)
    seeds, images = table.shape[-2:]
    by_seed = table.sum(-1) / images
    by_image = table.sum(-2) / seeds
    mean = by_seed.mean(-1)
    squares = np.square(table).sum((-2, -1)) - seeds * images * mean**2
    seed_squares = ((by_seed - mean[..., None]) ** 2).sum(-1)
    image_squares = ((by_image - mean[..., None]) ** 2).sum(-1)
    residual = np.maximum(0.0, squares - images * seed_squares - seeds * image_squares)
    residual_mean_square = residual / ((seeds - 1) * (images - 1))
    image_variance = image_squares / (images - 1) / images
    image = np.maximum(0.0, image_variance - residual_mean_square / (seeds * images))
    return CrossedErrors(
        mean=mean, seed=np.sqrt(seed_squares / (seeds - 1) / seeds), image=np.sqrt(image)
    )


def half_width(errors: CrossedErrors, seeds: int, confidence: float = CONFIDENCE) -> Floats:
    """Half an interval's width: seeds by Student's t, images by the normal, in quadrature.

    half-width² = (t(S - 1) se_seed)² + (z se_image)²
    """
    tail = (1 + confidence) / 2
    by_seed = stats.t.ppf(tail, seeds - 1) * errors.seed
    by_image = stats.norm.ppf(tail) * errors.image
    return np.asarray(np.hypot(by_seed, by_image))


def detectable_difference(errors: CrossedErrors, seeds: int) -> Floats:
    """Return the difference that would be shown at 80 % power, by the same two quantiles' sums."""
    tail = (1 + CONFIDENCE) / 2
    by_seed = (stats.t.ppf(tail, seeds - 1) + stats.t.ppf(POWER, seeds - 1)) * errors.seed
    by_image = (stats.norm.ppf(tail) + stats.norm.ppf(POWER)) * errors.image
    return np.asarray(np.hypot(by_seed, by_image))


def paired_difference(scores_a: Scores, scores_b: Scores) -> Difference:
    """Compare two finalists on the same seeds and test images: scores [S, N], S and N above 1.

    Raises ValueError for tables of other or different shapes.
    """
    if scores_a.shape != scores_b.shape or scores_a.ndim != 2 or min(scores_a.shape) < 2:
        raise ValueError(
            "a paired difference takes two tables [S, N] of one shape with S, N > 1, "
            f"got {scores_a.shape} and {scores_b.shape}"
        )
    seeds, images = scores_a.shape
    errors = crossed_errors(scores_a, scores_b)
    mean, half = float(errors.mean), float(half_width(errors, seeds))
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=_p_value(errors, seeds),
        se_seed=float(errors.seed),
        se_image=float(errors.image),
        detectable=float(detectable_difference(errors, seeds)),
        seeds=seeds,
        images=images,
        per_seed=tuple((scores_a.mean(1) - scores_b.mean(1)).tolist()),
    )


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the indices of those that no other beats, the cheapest first; of equals the first.

    Another beats one if it is as cheap and better, or as good and cheaper.
    """
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda one: (costs[one], -values[one])):
        if not front or values[place] > values[front[-1]]:
            front.append(place)
    return front


def _p_value(errors: CrossedErrors, seeds: int) -> float:
    """1 minus the confidence of the interval that just reaches 0, so that p and interval agree."""
    distance = abs(float(errors.mean))
    if distance == 0:
        return 1.0
    if errors.seed == 0 and errors.image == 0:
        return 0.0

    def excess(confidence: float) -> float:
        return float(half_width(errors, seeds, confidence)) - distance

    most = 1 - 1e-12
    return 1e-12 if excess(most) < 0 else 1 - float(optimize.brentq(excess, 0.0, most))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of comparisons, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", 1979: the k-th smallest of m is
    multiplied by m - k + 1, and none is smaller than one before it.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def verdict_kind(difference: Difference, margin: float) -> str:
    """Name the conclusion from an interval; `margin` not scaled, like it.

    equivalent    the whole interval lies within the margin, even when it leaves out 0
    better/worse  the interval lies above or below 0
    inconclusive  anything else
    """
    if -margin <= difference.low and difference.high <= margin and margin > 0:
        return "equivalent"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "inconclusive"


def kendall_by_epoch(curves: Floats) -> list[float | None]:
    """Kendall's tau-b between each epoch and the last, over auditors: curves [A, E] -> E values.

    None where an epoch (or the last) has the same value for every auditor.
    """
    last = curves[:, -1]
    taus: list[float | None] = []
    for epoch in curves.T:
        constant = np.ptp(epoch) == 0 or np.ptp(last) == 0
        taus.append(None if constant else float(stats.kendalltau(epoch, last).statistic))
    return taus


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCorrelation:
    """Kendall's tau-b with its 95 % interval."""

    tau: float
    low: float
    high: float


def rank_correlation(
    x: Sequence[float], y: Sequence[float], independent: int
) -> RankCorrelation | None:
    """Compare two rankings of the same things, of which so many are independent.

    None below 6 independent ones, and where one ranking has the same value for all. The interval is
    atanh(tau) ± z sqrt(0.437 / (n - 4)) (Fieller, Hartley and Pearson, "Tests for rank correlation
    coefficients", 1957), with a tau of ±1 taken as half a swapped pair below.
    """
    if independent < MINIMUM_RANKED or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    tau = float(stats.kendalltau(x, y).statistic)
    most = 1 - 2 / (independent * (independent - 1))
    centre = np.arctanh(np.clip(tau, -most, most))
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(0.437 / (independent - 4))
    low, high = (float(np.tanh(end)) for end in (centre - half, centre + half))
    return RankCorrelation(tau=tau, low=low, high=high)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over n - 1; None for a single value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation
