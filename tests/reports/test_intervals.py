"""Intervals of single results and of shares, against formulas and simulation."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats

from kd.seeds import derive_seed
from reports.intervals import detectable_range, holm_difference, mean_interval, ratio_interval
from reports.statistics import (
    CrossedErrors,
    detectable_difference,
    holm,
    paired_difference,
)


class Ceiling(NamedTuple):
    """Students of a true `accuracy`: logits of a right answer vary by image and by seed."""

    seeds: int
    images: int
    accuracy: float
    by_image: float
    by_seed: float


KINDS = [(3.0, 0.0), (3.0, 0.3), (1.5, 0.2), (0.5, 0.05)]  # the first: few images, always wrong
CEILINGS = [
    Ceiling(seeds, images, accuracy, *kind)
    for seeds in (2, 3, 6, 20)
    for images in (300, 10_000)
    for accuracy in (0.95, 0.99, 0.995, 0.998)
    for kind in KINDS
]


def coverage(ceiling: Ceiling, studies: int) -> float:
    """Return the share of simulated studies whose interval contains the true accuracy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    spread = np.hypot(ceiling.by_image, ceiling.by_seed) * nodes
    shares = weights / weights.sum()
    level = optimize.brentq(
        lambda shift: float(shares @ special.expit(shift + spread)) - ceiling.accuracy, -5, 60
    )
    generator = np.random.default_rng(derive_seed(3, "ceiling", str(ceiling)))
    covered = 0
    for _ in range(studies):
        by_image = ceiling.by_image * generator.standard_normal((1, ceiling.images))
        by_seed = ceiling.by_seed * generator.standard_normal((ceiling.seeds, 1))
        chance = special.expit(level + by_image + by_seed)
        low, high = mean_interval(generator.random(chance.shape) < chance)
        covered += low <= ceiling.accuracy <= high
    return covered / studies


@pytest.mark.parametrize("accuracy", [0.99, 0.995])
def test_intervals_near_the_ceiling_cover_where_few_images_are_always_wrong(
    accuracy: float,
) -> None:
    """The mean ± half a width covers 90-92 % here; of seeds and z alone Wilson's does too."""
    assert coverage(Ceiling(6, 300, accuracy, 3.0, 0.0), 600) >= 0.95


@pytest.mark.thorough
@pytest.mark.parametrize("ceiling", CEILINGS, ids=str)
def test_intervals_near_the_ceiling_cover_93_percent(ceiling: Ceiling) -> None:
    found = coverage(ceiling, 2000 if ceiling.images == 300 else 1500)
    print(f"{ceiling}: {100 * found:.1f} %")
    assert found >= 0.93


def wilson(share: float, count: float) -> tuple[float, float]:
    z = 1.9599640
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def shares(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(5).random(shape) ** 2


def test_interval_of_a_mean_of_scores_is_that_of_its_difference_to_nothing() -> None:
    scores = shares(6, 50)
    against = paired_difference(scores, np.zeros_like(scores))
    assert mean_interval(scores) == pytest.approx((against.low, against.high))


def test_interval_of_one_run_is_wilsons() -> None:
    correct = np.arange(100)[None] < 98
    assert mean_interval(correct) == pytest.approx(wilson(0.98, 100))


def test_seeds_that_agree_on_every_image_are_worth_one_run() -> None:
    correct = np.tile(np.arange(100) < 98, (6, 1))
    assert mean_interval(correct) == pytest.approx(wilson(0.98, 100 - 1), rel=1e-4)
    assert mean_interval(np.ones((6, 300), dtype=bool)) == pytest.approx(wilson(1.0, 300))


def test_interval_of_an_accuracy_is_wilsons_of_as_many_images_as_its_errors_are_worth() -> None:
    correct = shares(6, 5000) < 0.5
    against = paired_difference(correct, np.zeros_like(correct))
    share = correct.mean()
    effect = ((against.high - against.low) / 2) ** 2 * 5000 / (1.9599640**2 * share * (1 - share))
    rare = min(np.any(correct, 0).sum(), np.any(~correct, 0).sum())
    added = 1.9599640**2 / 2
    assert effect < 1
    effect = (rare * effect + added) / (rare + added)
    assert mean_interval(correct) == pytest.approx(wilson(share, 5000 / effect))


def test_interval_of_an_accuracy_is_wider_where_seeds_differ_as_a_whole() -> None:
    correct = np.arange(1000) < np.array([[900], [950], [990]])
    against = paired_difference(correct, np.zeros_like(correct))
    share = correct.mean()
    count = share * (1 - share) / ((against.high - against.low) / 2 / 1.9599640) ** 2
    assert count < 20
    assert mean_interval(correct) == pytest.approx(wilson(share, count))


def test_interval_of_a_share_of_errors_is_that_of_the_accuracy_turned() -> None:
    correct = shares(6, 80) < 0.9
    low, high = mean_interval(correct)
    turned = mean_interval(correct.astype(np.float64) - 1, worst=-1.0, best=0.0)
    assert turned == pytest.approx((low - 1, high - 1))


def test_interval_of_a_mean_stays_within_its_range() -> None:
    scores = np.ones((2, 10))
    scores[0, :3] = 0.5
    assert mean_interval(scores)[1] == 1.0
    assert mean_interval(1 - scores)[0] == 0.0


def test_the_detectable_difference_has_the_range_that_seeds_leave() -> None:
    """The estimated deviation of 6 seeds is 0.48 to 1.49 times the true one: of chi², 5 degrees."""
    scores = shares(6, 50)
    found = paired_difference(scores, np.zeros_like(scores))
    seeds_alone = replace(found, se_image=0.0)
    low, high = detectable_range(seeds_alone)
    by_seed = (2.5705818 + 0.9195438) * found.se_seed  # t of 5 degrees at 0.975 and at 0.8
    assert (low, high) == pytest.approx((by_seed / 1.4879, by_seed / 0.4786), rel=1e-3)
    images_alone = detectable_range(replace(found, se_seed=0.0))
    assert images_alone == pytest.approx(2 * ((1.9599640 + 0.8416212) * found.se_image,))
    assert detectable_range(found) == pytest.approx(np.hypot((low, high), images_alone))


def gains(generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw a student's gain and a teacher's lead over one plain student: 0.03 and 0.06."""
    noise = generator.standard_normal((3, 6, 1)) * 0.006
    difficulty = generator.standard_normal((3, 1, 200)) * 0.1
    draws = generator.standard_normal((3, 6, 200)) * 0.1
    noise[2] = draws[2] = 0  # the teacher is one run
    student, plain, teacher = np.array([0.03, 0, 0.06])[:, None, None] + noise + difficulty + draws
    return student - plain, teacher - plain


def test_the_interval_of_a_share_covers_and_is_where_the_difference_may_be_0() -> None:
    generator = np.random.default_rng(11)
    found = [ratio_interval(*gains(generator)) for _ in range(150)]
    assert np.mean([one is not None and one[0] <= 0.5 <= one[1] for one in found]) >= 0.92
    gain, lead = gains(generator)
    ends = ratio_interval(gain, lead)
    assert ends is not None
    for end in ends:
        touching = paired_difference(gain, end * lead)
        assert min(abs(touching.low), abs(touching.high)) < 1e-9
    assert ratio_interval(gain, lead - lead.mean()) is None  # the lead may be 0


def test_holm_intervals_leave_out_0_exactly_where_holm_claims() -> None:
    generator = np.random.default_rng(4)
    claims = []
    for shift in np.linspace(0, 0.2, 8):
        tables = generator.random((5, 6, 90)) + shift * np.arange(5)[:, None, None]
        found = [paired_difference(table, tables[0]) for table in tables[1:]]
        for one, p in zip(found, holm([one.p for one in found]), strict=True):
            drawn = holm_difference(one, p)
            assert (drawn.low > 0 or drawn.high < 0) == (p < 0.05)
            assert drawn.low <= one.low <= one.high <= drawn.high
            claims.append((one.p < 0.05, p < 0.05))
    assert {(False, False), (True, False), (True, True)} <= set(claims)


def test_the_ends_of_a_share_hold_where_the_images_have_no_error_of_their_own() -> None:
    """That error is never below 0, so the ends are no roots of a quadratic: 13 % off at most."""
    generator = np.random.default_rng(4)
    for _ in range(20):
        student, plain = (generator.random((6, 300)) < [[share]] for share in (0.985, 0.97))
        gain, lead = student - 1.0 * plain, (generator.random(300) < 0.998) - 1.0 * plain
        ends = ratio_interval(gain, lead)
        assert ends is not None
        for end in ends:
            touching = paired_difference(gain, end * lead)
            assert min(abs(touching.low), abs(touching.high)) < 1e-9


def test_a_share_of_seeds_that_gain_alike_has_no_width() -> None:
    lead = np.full((6, 50), 0.5)
    assert ratio_interval(0.2 * lead, lead) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize("seeds", [6, 20])
def test_half_of_the_detectable_difference_is_shown_in_29_percent(seeds: int) -> None:
    least = stats.t.ppf(0.975, seeds - 1)
    alone = CrossedErrors(mean=np.array(0.0), seed=np.array(1.0), image=np.array(0.0))
    half = float(detectable_difference(alone, seeds)) / 2
    assert stats.nct.sf(least, seeds - 1, half) == pytest.approx(0.29, abs=0.006)
    images = CrossedErrors(mean=np.array(0.0), seed=np.array(0.0), image=np.array(1.0))
    half = float(detectable_difference(images, seeds)) / 2
    assert stats.norm.sf(1.9599640 - half) == pytest.approx(0.29, abs=0.005)
