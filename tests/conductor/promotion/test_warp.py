"""Half-rank warping: good values stay, bad ones follow their ranks."""

import numpy as np
import pytest
from scipy.stats import norm

from conductor.search.promotion.warp import Warp

VALUES = np.array([-4.0, 3.2, 1.0, 2.0, 3.0, 2.5, -90.0])  # the median is 2


def test_from_the_median_on_nothing_changes() -> None:
    good = np.array([2.0, 2.4, 3.2, 9.0])
    assert Warp(VALUES)(good).tolist() == good.tolist()


def test_lower_values_are_quantiles_of_a_normal_distribution_with_the_spread_of_the_good() -> None:
    spread = np.sqrt(np.mean(np.square([0.0, 0.5, 1.0, 1.2])))
    expected = 2 + spread * norm.ppf([0.5 / 7, 1.5 / 7, 2.5 / 7])
    assert Warp(VALUES)(np.array([-90.0, -4.0, 1.0])) == pytest.approx(expected)


def test_equal_values_share_their_place() -> None:
    warped = Warp(np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0]))(np.array([0.0]))
    spread = np.sqrt(np.mean(np.square([0.5, 1.5, 2.5])))
    assert warped == pytest.approx([1.5 + spread * norm.ppf(1 / 6)])


def test_the_inverse_gives_back_what_was_warped() -> None:
    between = np.sort(np.append(VALUES, [-50.0, 0.3, 1.7]))
    warp = Warp(VALUES)
    warped = warp(between)
    assert (np.diff(warped) > 0).all()
    assert warp.inverse(warped) == pytest.approx(between)


@pytest.mark.parametrize("values", [[], [1.0, -5.0, 2.0]])
def test_few_values_leave_all_as_they_are(values: list[float]) -> None:
    shown = np.array([-7.0, 0.0, 4.0])
    warp = Warp(np.array(values))
    assert warp(shown).tolist() == warp.inverse(shown).tolist() == shown.tolist()


def test_where_all_good_values_are_equal_the_bad_ones_are_no_farther_apart_than_their_ranks() -> (
    None
):
    values = np.array([-90.0, 2.0, 3.0, 3.0, 3.0])
    assert Warp(values)(values) == pytest.approx([3 + norm.ppf(0.1), 3 + norm.ppf(0.3), 3, 3, 3])


def test_equal_values_stay() -> None:
    values = np.full(5, 3.0)
    assert Warp(values)(values).tolist() == Warp(values).inverse(values).tolist() == values.tolist()
