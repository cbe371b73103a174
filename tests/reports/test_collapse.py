"""Seeds that are unlike all others: what is found, what is left alone, and what is written."""

from dataclasses import replace

import numpy as np
import pytest

from reports.compute.collapse import carrier, far_below
from reports.compute.comparisons import paired
from reports.findings import find
from reports.read.data import FinalistData, StudyData
from tests.support.study_fixture import drawn_figures


def normal(count: int, studies: int = 4000) -> np.ndarray:
    return np.random.default_rng([7, count]).standard_normal((studies, count))


@pytest.mark.parametrize("count", [6, 20])
def test_one_of_normal_seeds_carries_the_variance_in_one_study_of_100(count: int) -> None:
    found = [carrier(one.tolist(), 0.0) is not None for one in normal(count)]
    assert np.mean(found) == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("count", [6, 20])
def test_of_normal_seeds_one_is_far_below_in_at_most_1_percent(count: int) -> None:
    assert np.mean([far_below(one.tolist(), 0.0) != [] for one in normal(count)]) <= 0.01


def test_the_seed_that_carries_the_variance_has_its_share_of_the_sum_of_squares() -> None:
    values = [1.0, 1.2, 0.8, -9.0, 1.1, 0.9]
    squares = (np.array(values) - np.mean(values)) ** 2
    assert carrier(values, 5.0) == (3, pytest.approx(squares[3] / squares.sum()))
    assert carrier(values, 9.0) is None  # within the margin
    assert carrier(values[:5], 0.0) is None  # too few
    assert carrier([1.0] * 6, 0.0) is None
    assert carrier([], 0.0) is None


def test_several_seeds_far_below_the_median_are_found_and_those_above_are_not() -> None:
    values = [0.9, 0.2, 0.91, 0.89, 0.1, 0.905]
    assert far_below(values, 0.01) == [1, 4]
    assert far_below([-value for value in values], 0.01) == []
    assert far_below(values, 0.75) == [4]
    assert far_below(values[:5], 0.01) == []


def collapsed(data: StudyData, finalist: FinalistData, place: int) -> StudyData:
    """The study, one of whose finalist's runs is right on a tenth of the test images."""
    runs = list(finalist.runs)
    correct = np.arange(data.test_images) % 10 == 0
    runs[place] = replace(runs[place], correct=correct, scores=correct.astype(float))
    new = replace(finalist, runs=tuple(runs))
    return replace(data, finalists=tuple(new if one is finalist else one for one in data.finalists))


def test_a_seed_that_collapses_is_a_limitation_and_the_median_stands_beside_the_mean(
    data: StudyData,
) -> None:
    about = ("of the variance of the differences between seeds", "far worse than its median")
    assert not any(words in caveat for caveat in find(data).caveats for words in about)
    plain = data.tuned("plain")
    findings = find(collapsed(data, plain, 3))
    [carries] = [caveat for caveat in findings.caveats if about[0] in caveat]
    [below] = [caveat for caveat in findings.caveats if about[1] in caveat]
    difference = findings.verdict.difference
    median = data.measure.number(difference.median, sign=True)
    assert carries.startswith("Seed 4 alone has 8")
    assert f"the median is {median} points" in carries
    assert below.startswith("Seed 4 of tuned plain ended far worse than its median of ")
    assert "at worst with 10.00 %" in below
    before = paired(data.tuned("scheduled"), plain)
    assert difference.mean - before.mean > 0.05
    assert abs(difference.median - before.median) < 0.02
    [table] = drawn_figures(findings)["differences"].tables
    assert table.rows[0][table.columns.index("median")] == median
