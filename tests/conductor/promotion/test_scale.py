"""The scale on which early signals and values at the horizon are compared."""

import math

import pytest

from conductor.search.promotion.scale import Scale

SHARE = Scale(is_share=True, classes=10)
OTHER = Scale(is_share=False, classes=10)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_shares_are_logits() -> None:
    assert SHARE.at_horizon([0.9, 0.5], [-1.0, -1.0]) == pytest.approx([logit(0.9), 0.0])
    assert SHARE.early(-0.1) == pytest.approx(logit(math.exp(-0.1)))


@pytest.mark.parametrize(("classes", "lowest"), [(2, 0.02), (10, 0.02), (100, 0.002)])
def test_what_is_below_guessing_is_as_bad_as_divergence(classes: int, lowest: float) -> None:
    scale = Scale(is_share=True, classes=classes)
    assert scale.lowest == pytest.approx(logit(lowest))
    assert scale.early(-50.0) == scale.lowest
    assert scale.at_horizon([0.0], [-1.0]) == [scale.lowest]
    assert scale.early(-math.log(classes)) > scale.lowest + 1


def test_perfect_scores_are_finite() -> None:
    assert SHARE.at_horizon([1.0], [0.0]) == [pytest.approx(logit(0.995))]
    assert SHARE.early(0.0) == pytest.approx(logit(0.995))


def test_another_metric_takes_the_place_of_the_likelihoods_by_rank() -> None:
    signals = [-0.5, -2.0, -1.0]
    expected = [OTHER.early(signal) for signal in (-2.0, -0.5, -1.0)]
    assert OTHER.at_horizon([-7.0, 3.0, 1.0], signals) == pytest.approx(expected)


def test_equal_values_of_another_metric_are_equal() -> None:
    low, one, two = (OTHER.early(signal) for signal in (-3.0, -2.0, -1.0))
    found = OTHER.at_horizon([5.0, 1.0, 5.0], [-1.0, -2.0, -3.0])
    assert found == pytest.approx([(one + two) / 2, low, (one + two) / 2])
