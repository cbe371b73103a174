"""Statistics of the verdict, against formulas, published examples and simulation."""

import functools
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from kd.seeds import derive_seed
from reports.statistics import (
    CrossedErrors,
    Difference,
    Scores,
    crossed_errors,
    detectable_difference,
    half_width,
    holm,
    kendall_by_epoch,
    mean_and_deviation,
    paired_difference,
    pareto_front,
    rank_correlation,
    verdict_kind,
)


class Corner(NamedTuple):
    """A simulated comparison; `deviation` between seeds is in points of accuracy.

    A `share` of the images leans to one recipe or the other, by `lean` in its chance to be right.
    """

    seeds: int
    images: int
    deviation: float
    share: float
    lean: float

    @property
    def chunks(self) -> int:
        """Chunks of 200 replications, 10 but for the largest, which would take too long."""
        return 10 if self.seeds * self.images < 60_000 else 5


CORNERS = [
    Corner(6, 300, 0.05, 0.2, 0.9),
    Corner(6, 300, 1.0, 0.2, 0.9),
    Corner(6, 300, 0.05, 0.05, 0.0),
    Corner(6, 10_000, 0.05, 0.2, 0.9),
    Corner(6, 10_000, 1.0, 0.05, 0.0),
    Corner(12, 2_000, 0.3, 0.1, 0.4),
    Corner(29, 300, 0.05, 0.2, 0.9),
    Corner(29, 300, 1.0, 0.05, 0.0),
    Corner(29, 2_000, 1.0, 0.2, 0.9),
]


def tables(*parts: int, shape: tuple[int, int] = (7, 40)) -> tuple[Scores, Scores]:
    generator = np.random.default_rng(derive_seed(1, "tables", *parts))
    hard = generator.random(shape[1]) * 0.6
    return generator.random(shape) > hard, generator.random(shape) > hard * 1.3


def simulate(corner: Corner, effect: float, chunk: int) -> tuple[Scores, Scores]:
    """Draw 200 pairs of tables [S, N] whose true difference is `effect`, a share of 1.

    A seed shifts the chances of all images; of the images that lean, half lean to a.
    """
    generator = np.random.default_rng(derive_seed(2, "simulation", str(corner), str(effect), chunk))
    leans = generator.random((200, corner.images)) < corner.share
    lean = np.where(leans, corner.lean, 0.0) * generator.choice([-0.5, 0.5], size=leans.shape)
    drawn = []
    for sign in (1, -1):
        by_image = np.where(leans, 0.5, 0.9) + sign * lean
        shifts = generator.normal(0, corner.deviation / 100, (200, corner.seeds))
        chance = by_image[:, None, :] + (sign * effect / 2 + shifts)[..., None]
        draws = generator.integers(0, 65_536, chance.shape, dtype=np.uint16)
        drawn.append(draws < np.clip(chance * 65_536, 0, 65_535).astype(np.uint16))
    return drawn[0], drawn[1]


@functools.cache
def simulated_errors(corner: Corner, effect: float = 0.0) -> CrossedErrors:
    found = [crossed_errors(*simulate(corner, effect, chunk)) for chunk in range(corner.chunks)]
    return CrossedErrors(
        mean=np.concatenate([one.mean for one in found]),
        seed=np.concatenate([one.seed for one in found]),
        image=np.concatenate([one.image for one in found]),
    )


def test_intervals_of_seeds_alone_or_images_alone_cover_far_less() -> None:
    seeds_alone, images_alone = [], []
    for corner in CORNERS:
        errors = simulated_errors(corner)
        t = stats.t.ppf(0.975, corner.seeds - 1)
        seeds_alone.append(np.mean(np.abs(errors.mean) <= t * errors.seed))
        images_alone.append(np.mean(np.abs(errors.mean) <= 1.96 * errors.image))
    assert min(seeds_alone) < 0.46
    assert min(images_alone) < 0.18


def claimed(errors: CrossedErrors, seeds: int, margin: float) -> NDArray[np.str_]:
    """Return the verdict of every simulated comparison; `margin` in shares of 1."""
    half = half_width(errors, seeds)
    ends = zip(errors.mean - half, errors.mean + half, strict=True)
    return np.array(
        [verdict_kind(difference(float(low), float(high)), margin) for low, high in ends]
    )


@pytest.mark.parametrize("corner", CORNERS, ids=str)
def test_intervals_cover_claim_little_of_nothing_and_find_what_is_there(corner: Corner) -> None:
    """Coverage of 93-99 %; at most 65 of 1000 false claims; twice the detectable in 900 of 1000."""
    null = simulated_errors(corner)
    covered = np.abs(null.mean) <= half_width(null, corner.seeds)
    assert 0.93 <= covered.mean() <= 0.99
    verdicts = claimed(null, corner.seeds, margin=0.005)[:1000]
    assert np.isin(verdicts, ("better", "worse")).sum() <= 65
    effect = round(2 * typically_detectable(corner), 5)
    verdicts = claimed(simulated_errors(corner, effect), corner.seeds, margin=0.005)[:1000]
    assert (verdicts == "better").sum() >= 900


def typically_detectable(corner: Corner) -> float:
    """Return the detectable difference by the errors' root mean squares over all simulations."""
    null = simulated_errors(corner)
    typical = CrossedErrors(
        mean=np.array(0.0),
        seed=np.sqrt(np.mean(null.seed**2)),
        image=np.sqrt(np.mean(null.image**2)),
    )
    return float(detectable_difference(typical, corner.seeds))


def test_a_difference_as_large_as_the_margin_is_called_equivalent_in_at_most_5_percent() -> None:
    corner, margin = CORNERS[5], 0.02
    errors = simulated_errors(corner, margin)
    half = half_width(errors, corner.seeds)
    within = (errors.mean - half >= -margin) & (errors.mean + half <= margin)
    assert within.mean() <= 0.05
    null = simulated_errors(corner)
    assert np.mean(np.abs(null.mean) + half_width(null, corner.seeds) <= margin) > 0.5


@pytest.mark.parametrize("corner", [CORNERS[2], CORNERS[6]], ids=str)
def test_the_detectable_difference_is_shown_in_about_80_percent(corner: Corner) -> None:
    effect = round(typically_detectable(corner), 5)
    errors = simulated_errors(corner, effect)
    assert np.mean(errors.mean - half_width(errors, corner.seeds) > 0) == pytest.approx(
        0.8, abs=0.05
    )


def test_errors_agree_with_the_two_way_table_written_out() -> None:
    a, b = tables(1)
    table = a.astype(float) - b
    seeds, images = table.shape
    by_seed, by_image = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    residual = table - by_seed - by_image + table.mean()
    mean_square = (residual**2).sum() / ((seeds - 1) * (images - 1))
    se_image_squared = np.var(by_image, ddof=1) / images - mean_square / (seeds * images)
    errors = crossed_errors(a, b)
    assert errors.mean == pytest.approx(table.mean())
    assert errors.seed**2 == pytest.approx(np.var(by_seed, ddof=1) / seeds)
    assert errors.image**2 == pytest.approx(max(0.0, se_image_squared))


def test_errors_of_many_tables_at_once_are_those_of_each() -> None:
    pairs = [tables(number) for number in range(3)]
    together = crossed_errors(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))
    for number, (a, b) in enumerate(pairs):
        alone = crossed_errors(a, b)
        assert together.seed[number] == alone.seed
        assert together.image[number] == alone.image


def test_half_width_adds_seeds_and_images_in_quadrature() -> None:
    errors = CrossedErrors(mean=np.array(0.0), seed=np.array(0.003), image=np.array(0.002))
    expected = ((2.5705818 * 0.003) ** 2 + (1.9599640 * 0.002) ** 2) ** 0.5
    assert half_width(errors, 6) == pytest.approx(expected)


def test_paired_difference_changes_sign_with_its_order() -> None:
    a, b = tables(2)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.mean == -other.mean
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p == pytest.approx(other.p)
    assert one.per_seed == pytest.approx(tuple(-value for value in other.per_seed))


def test_a_finalist_does_not_differ_from_itself() -> None:
    a, _ = tables(3)
    found = paired_difference(a, a)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("number", range(12))
def test_p_is_below_5_percent_exactly_when_the_interval_leaves_out_zero(number: int) -> None:
    found = paired_difference(*tables(10, number, shape=(6, 90)))
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("shape", [(6,), (1, 50), (6, 1), (6, 50, 1), (6, 50)])
def test_paired_difference_refuses_tables_without_two_seeds_and_images_or_of_two_shapes(
    shape: tuple[int, ...],
) -> None:
    other = (7, 50) if shape == (6, 50) else shape
    with pytest.raises(ValueError, match=r"of one shape with S, N > 1"):
        paired_difference(np.ones(shape, dtype=bool), np.ones(other, dtype=bool))


@pytest.mark.parametrize(("seeds", "expected"), [(6, 0.30), (10, 0.21), (37, 0.10)])
def test_detectable_difference_of_seeds_at_a_deviation_of_15_hundredths(
    seeds: int, expected: float
) -> None:
    se_seed = 0.15 * 2**0.5 / seeds**0.5  # of the difference of two recipes
    errors = CrossedErrors(mean=np.array(0.0), seed=np.array(se_seed), image=np.array(0.0))
    assert detectable_difference(errors, seeds) == pytest.approx(expected, abs=0.005)


def test_holm_agrees_with_a_worked_example_leaves_one_alone_and_stops_at_one() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04]) == [0.04]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def difference(low: float, high: float) -> Difference:
    return Difference(
        mean=(low + high) / 2,
        low=low,
        high=high,
        p=0.5,
        se_seed=0.0,
        se_image=0.0,
        detectable=0.01,
        seeds=6,
        images=100,
        per_seed=(),
    )


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0.001, 0.012, "better"),
        (-0.012, -0.001, "worse"),
        (-0.004, 0.004, "equivalent"),
        (0.001, 0.004, "equivalent"),
        (-0.004, 0.006, "inconclusive"),
        (-0.006, 0.004, "inconclusive"),
    ],
)
def test_verdict_follows_from_interval_and_margin(low: float, high: float, kind: str) -> None:
    assert verdict_kind(difference(low, high), margin=0.005) == kind


def test_nothing_is_equivalent_without_a_margin() -> None:
    assert verdict_kind(difference(0.0, 0.0), margin=0.0) == "inconclusive"


def test_kendall_is_one_where_an_epoch_ranks_as_the_last_and_none_where_it_does_not_rank() -> None:
    last = np.arange(8.0)
    curves: NDArray[np.float64] = np.stack([-last, np.ones(8), last**2, last], axis=1)
    expected = [pytest.approx(-1.0), None, pytest.approx(1.0), pytest.approx(1.0)]
    assert kendall_by_epoch(curves) == expected


@pytest.mark.parametrize("pairs", [6, 9, 20])
@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.5, 0.8])
def test_the_interval_of_a_rank_correlation_covers_it(pairs: int, correlation: float) -> None:
    generator = np.random.default_rng([pairs, round(10 * correlation) + 10])
    x = generator.normal(size=(1000, pairs))
    y = correlation * x + np.sqrt(1 - correlation**2) * generator.normal(size=(1000, pairs))
    true = 2 / np.pi * np.arcsin(correlation)
    found = [rank_correlation(one, other, pairs) for one, other in zip(x, y, strict=True)]
    assert 0.91 < np.mean([one.low <= true <= one.high for one in found if one]) < 0.985
    assert np.mean([one.tau for one in found if one]) == pytest.approx(true, abs=0.03)


def test_a_rank_correlation_needs_six_independent_pairs_and_two_values_of_each() -> None:
    rising = list(range(6))
    perfect = rank_correlation(rising, rising, 6)
    assert perfect is not None
    assert perfect.tau == pytest.approx(1)
    assert 0.3 < perfect.low < 0.9 < perfect.high < 1
    opposite = rank_correlation(rising, rising[::-1], 6)
    assert opposite is not None
    assert (opposite.tau, opposite.low) == (pytest.approx(-1), pytest.approx(-perfect.high))
    assert rank_correlation(rising, rising, 5) is None
    assert rank_correlation(rising, [1.0] * 6, 6) is None
    wider = rank_correlation([*rising, *rising], [*rising, *rising], 6)
    assert wider is not None
    assert wider.low == perfect.low  # twelve runs of six recipes tell no more than six


def test_deviation_is_over_n_minus_1_and_unknown_for_one_value() -> None:
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("costs", "values", "front"),
    [
        ([1, 2, 3], [5, 6, 7], [0, 1, 2]),
        ([3, 2, 1], [7, 4, 5], [2, 0]),  # the second is dearer and worse than the third
        ([1, 1, 2], [5, 6, 6], [1]),  # of one cost the better stays, of one value the cheaper
        ([1, 1], [5, 5], [0]),
        ([], [], []),
    ],
)
def test_pareto_front_keeps_what_no_other_beats(
    costs: list[float], values: list[float], front: list[int]
) -> None:
    assert pareto_front(costs, values) == front
