"""Differences by class and changed confusions, from predictions made by hand."""

import numpy as np
import pytest

from reports.compute.classes import changed_confusions, class_differences
from reports.findings import find
from reports.read.data import StudyData
from reports.statistics import paired_difference
from tests.support.study_fixture import drawn_figures

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
# three seeds; class 0: a is right on 4, 3, 3 of 4, b on 2, 2, 1; class 1: both are right on 2 of 3
A = np.array(
    [
        [0, 0, 0, 0, 1, 1, 2, 2],
        [0, 0, 0, 2, 1, 1, 2, 2],
        [0, 0, 0, 1, 1, 1, 2, 2],
    ]
)
B = np.array(
    [
        [0, 0, 1, 1, 1, 1, 2, 0],
        [0, 0, 1, 1, 1, 1, 2, 0],
        [0, 1, 1, 2, 1, 1, 2, 0],
    ]
)


def test_each_class_has_the_paired_difference_of_its_own_images() -> None:
    zero, one = class_differences(A, B, LABELS)
    assert (zero.label, zero.images, one.label, one.images) == (0, 4, 1, 3)
    assert (zero.a, zero.b) == pytest.approx((10 / 12, 5 / 12))
    assert zero.difference.per_seed == pytest.approx((2 / 4, 1 / 4, 2 / 4))
    assert zero.difference == paired_difference(A[:, :4] == 0, B[:, :4] == 0)
    assert (one.a, one.b, one.difference.mean) == pytest.approx((2 / 3, 2 / 3, 0))


def test_classes_are_corrected_for_their_number() -> None:
    zero, one = class_differences(A, B, LABELS)
    assert zero.p_holm == pytest.approx(2 * zero.difference.p)
    assert one.p_holm == one.difference.p == 1


def test_a_class_of_one_image_is_left_out() -> None:
    assert [found.label for found in class_differences(A, B, LABELS)] == [0, 1]
    assert all(found.label != 2 for found in changed_confusions(A, B, LABELS))


def test_confusions_come_by_the_change_in_images_a_run() -> None:
    first, *others = changed_confusions(A, B, LABELS)
    assert (first.label, first.taken, first.images) == (0, 1, 4)
    assert (first.a, first.b) == pytest.approx((1 / 3, 6 / 3))
    assert first.difference == paired_difference(A[:, :4] == 1, B[:, :4] == 1)
    assert all(found.label != found.taken for found in (first, *others))
    assert (1, 2) not in {(found.label, found.taken) for found in others}  # it did not change


def test_examples_are_the_images_that_changed_most_in_the_direction_of_the_whole() -> None:
    (first, *_) = changed_confusions(A, B, LABELS)
    assert [(one.image, one.a, one.b) for one in first.examples] == [
        (2, 0, 3),
        (1, 0, 1),
        (3, 1, 2),
    ]
    (back, *_) = changed_confusions(B, A, LABELS)
    assert [(one.image, one.a, one.b) for one in back.examples] == [(2, 3, 0), (1, 1, 0), (3, 2, 1)]


def test_the_title_states_first_how_many_classes_differ_beyond_chance(data: StudyData) -> None:
    found = find(data)
    sure = sum(one.p_holm < 0.05 for one in found.classes.classes)
    title = drawn_figures(found)["classes"].title
    assert title.startswith(f"{sure or 'None'} of 10 classes differ")
    assert "beyond chance; tuned scheduled minus tuned plain ranges from +" in title


def test_finalists_with_the_same_predictions_have_no_changed_confusion() -> None:
    assert changed_confusions(A, A, LABELS) == ()
