"""What an arm's surrogate has learnt, for the report: which parameters matter, and where."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from conductor.search.promotion.candidates import Candidate
from conductor.search.promotion.encoding import Encoding
from conductor.search.promotion.surrogate import Floats, Posterior
from storage.files.records import Learnt, Plane

DRAWS = 200  # functions of the posterior
BINS = 6  # of a number's range
ENDS = (0.05, 0.95)  # quantiles of the draws: a 90 % interval
GRID = 13  # values of a number in a picture
MEANT = 64  # recipes that a picture's values are means over

Sample = Sequence[Candidate]
Shown = Callable[[Floats], Floats]


def learnt(
    posterior: Posterior,
    encoding: Encoding,
    sample: Sample,
    shown: Shown,
    seed: int,
    trials: int,
    trusted: bool,
) -> Learnt:
    """Return the importances of an arm's parameters, and a picture of the most important two.

    `sample` are random recipes of the space; `shown` turns scores into what is shown; `trials` is
    the number of those behind the posterior; `trusted` whether the early signal is.
    """
    rows = np.stack([encoding.row(one.parameters) for one in sample])
    drawn = posterior.draws(rows, DRAWS, np.random.default_rng(seed))
    importances = {
        name: _importance(drawn, _groups(encoding.ranges[name], rows[:, place]))
        for place, name in enumerate(encoding.ranges)
    }
    order = sorted(importances, key=lambda name: (-importances[name][0], name))
    plane = _plane(posterior, encoding, sample, shown, order[:2])
    shares = {name: list(importances[name]) for name in order}
    return Learnt(importances=shares, trials=trials, trusted=trusted, plane=plane)


def _groups(distribution: BaseDistribution, column: Floats) -> NDArray[np.int64]:
    """Return the group of each recipe: its choice, its part of the range, or -1 without either."""
    lacks = np.isnan(column)
    whole = np.where(lacks, 0.0, column)
    if not isinstance(distribution, CategoricalDistribution):
        whole = np.minimum(np.floor(whole * BINS), BINS - 1)
    return np.where(lacks, -1, whole).astype(np.int64)


def _importance(drawn: Floats, groups: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the share of the variance that lies between groups, 0-1, and its interval.

    It is epsilon squared of a one-way analysis of variance (Kelley 1935), of each of `drawn`
    [draws, recipes]; its mean over them, and the ends of a 90 % interval.
    """
    count = drawn.shape[1]
    total = drawn.var(1) * count
    kinds = np.unique(groups)
    within = sum(
        drawn[:, groups == kind].var(1) * np.count_nonzero(groups == kind) for kind in kinds
    )
    noise = within / max(1, count - len(kinds))
    shares = np.clip(1 - (count - 1) * noise / np.maximum(total, 1e-12), 0.0, 1.0)
    low, high = np.quantile(shares, ENDS)
    return float(shares.mean()), float(low), float(high)


def _plane(
    posterior: Posterior, encoding: Encoding, sample: Sample, shown: Shown, names: Sequence[str]
) -> Plane | None:
    """Return the posterior mean by two parameters, over random values of all others.

    None where no recipe of the sample has both.
    """
    having = [one.parameters for one in sample if {*names} <= one.parameters.keys()][:MEANT]
    if len(names) < 2 or not having:
        return None
    values = [_values(encoding.ranges[name]) for name in names]
    rows = [
        encoding.row({**each, names[0]: across, names[1]: up})
        for up in values[1]
        for across in values[0]
        for each in having
    ]
    mean, _ = posterior.of(np.stack(rows))
    table = shown(mean.reshape(len(values[1]), len(values[0]), len(having)).mean(2))
    return Plane(names=list(names), values=[list(each) for each in values], means=table.tolist())


def _values(distribution: Any) -> list[Any]:
    """Return the choices of a parameter, or numbers spread over its range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high = float(distribution.low), float(distribution.high)
    spread = np.geomspace if distribution.log else np.linspace
    return list(map(float, spread(low, high, GRID)))
