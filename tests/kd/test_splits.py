"""Splits are stratified, exact, repeatable, and complete in every class."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from kd.data.reading.source import Reading, Source
from kd.data.splits import apportion, load_source, split, spread
from kd.errors import DataError
from kd.protocol import Protocol

PROTOCOL = Protocol(
    dataset="digits",
    image_size=8,
    teachers=("resnet20",),
    teacher_epochs=1,
    students=("resnet8",),
    epochs=1,
)


def source_of(sizes: list[int], test_sizes: list[int] | None = None) -> Source:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    part = None
    if test_sizes is not None:
        part = np.repeat(["", "test"], [len(labels), sum(test_sizes)])
        labels = np.concatenate([labels, np.repeat(np.arange(len(sizes)), test_sizes)])
    images = np.zeros((len(labels), 1, 4, 4), np.uint8)
    classes = tuple("abcdefghij"[: len(sizes)])
    return Source(inputs=images, labels=labels, classes=classes, part=part)


@pytest.mark.parametrize("official", [False, True])
def test_parts_are_disjoint_sorted_and_cover_everything(official):
    source = source_of([40, 33, 57], [5, 6, 7] if official else None)
    parts = split(source, PROTOCOL)
    everything = [*parts.train, *parts.validation, *parts.test]
    assert sorted(everything) == list(range(len(source.labels)))
    assert all((np.diff(rows) > 0).all() for rows in (parts.train, parts.validation, parts.test))
    if official:
        np.testing.assert_array_equal(parts.test, np.flatnonzero(source.part == "test"))


def test_parts_are_stratified_within_one_image_and_exact_in_total(tmp_path):
    source = load_source("digits", Reading(8), tmp_path)
    parts = split(source, PROTOCOL)
    assert len(parts.test) == round(0.2 * 1797)
    assert len(parts.validation) == round(0.1 * (1797 - len(parts.test)))
    whole = np.bincount(source.labels)
    test = np.bincount(source.labels[parts.test])
    validation = np.bincount(source.labels[parts.validation])
    assert (abs(test - 0.2 * whole) < 1).all()
    assert (abs(validation - 0.1 * (whole - test)) < 1).all()


def parted(**parts: tuple[int, int]) -> Source:
    """Two classes; `free` are the examples that may be drawn from, the others have a part."""
    names = ["" if name == "free" else name for name in parts for _ in "ab"]
    counts = [count for both in parts.values() for count in both]
    labels = np.repeat([0, 1] * len(parts), counts)
    inputs = np.zeros((len(labels), 1, 4, 4), np.uint8)
    return Source(inputs=inputs, labels=labels, classes=("a", "b"), part=np.repeat(names, counts))


def test_parts_that_the_source_has_are_taken_as_they_are():
    source = parted(test=(2, 3), validation=(9, 8), train=(30, 5))
    assert source.official == ["train", "validation", "test"]
    parts = split(source, replace(PROTOCOL, test_fraction=0.5, validation_fraction=0.5))
    for name in source.official:
        np.testing.assert_array_equal(getattr(parts, name), np.flatnonzero(source.part == name))
    few = split(source, replace(PROTOCOL, train_size=4))
    assert set(few.train) < set(parts.train)
    assert source.labels[few.train].tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(few.validation, parts.validation)  # it is not for us to cut


def test_another_split_seed_draws_other_images_of_what_is_drawn():
    source = source_of([40, 33, 57])
    first, again, other = (split(source, replace(PROTOCOL, split_seed=s)) for s in (0, 0, 1))
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert set(getattr(first, name)) != set(getattr(other, name))
        assert len(getattr(first, name)) == len(getattr(other, name))
    np.testing.assert_array_equal(
        split(source, replace(PROTOCOL, seed=5)).test, first.test
    )  # the study's seed draws nothing
    official = source_of([40, 33], [5, 6])
    redrawn = split(official, replace(PROTOCOL, split_seed=1))
    np.testing.assert_array_equal(redrawn.test, split(official, PROTOCOL).test)


def test_a_split_seed_that_changes_nothing_is_refused():
    source = parted(test=(2, 3), validation=(9, 8), train=(30, 5))
    with pytest.raises(DataError) as caught:
        split(source, replace(PROTOCOL, split_seed=3))
    assert str(caught.value) == (
        "--split-seed 3 changes nothing: the data set is split as with --split-seed 0, since its "
        "test and validation splits are its own; omit the flag"
    )
    few = replace(PROTOCOL, train_size=4)  # which of the training images are kept is drawn
    assert set(split(source, replace(few, split_seed=3)).train) != set(split(source, few).train)


def test_only_what_has_no_part_is_drawn_from():
    source = parted(validation=(6, 6), free=(40, 40), train=(7, 7))
    parts = split(source, PROTOCOL)
    assert (source.part[parts.validation] == "validation").all()
    assert len(parts.validation) == 12
    assert (source.part[parts.test] == "").all()
    assert len(parts.test) == round(0.2 * 80)
    left = {*range(len(source.labels))} - {*parts.validation, *parts.test}
    assert set(parts.train) == left
    np.testing.assert_array_equal(parts.test, split(parted(free=(40, 40)), PROTOCOL).test + 12)


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_part_that_is_neither_there_nor_can_be_drawn_is_named(missing):
    parts = {name: (5, 5) for name in ("train", "validation", "test") if name != missing}
    with pytest.raises(DataError, match=f"^a data set needs {missing} examples, but "):
        split(parted(**parts), PROTOCOL)


def test_split_depends_on_the_fractions_but_not_on_the_seed():
    source = source_of([40, 40])
    first = split(source, PROTOCOL)
    again = split(source, replace(PROTOCOL, seed=7, students=("resnet14",), epochs=9))
    other = split(source, replace(PROTOCOL, validation_fraction=0.3))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
    np.testing.assert_array_equal(first.test, other.test)
    assert set(first.validation) < set(other.validation)


def test_split_is_a_draw_and_not_the_same_places_of_every_class():
    test = split(source_of([50, 50]), PROTOCOL).test
    assert set(test[test < 50]) != set(range(10))
    assert set(test[test < 50]) != set(test[test >= 50] - 50)


def test_train_size_is_spread_evenly_and_smaller_ones_are_subsets():
    source = source_of([10, 100, 100])
    kept = {}
    for size in (3, 20, 50, 100):
        rows = split(source, replace(PROTOCOL, train_size=size)).train
        assert len(rows) == size
        kept[size] = set(rows)
    assert kept[3] < kept[20] < kept[50] < kept[100]
    counts = [np.bincount(source.labels[sorted(kept[size])]).tolist() for size in (3, 20, 50, 100)]
    assert counts == [[1, 1, 1], [7, 7, 6], [7, 22, 21], [7, 47, 46]]  # 7 of class a can be kept


def test_apportion_takes_exact_totals_by_largest_remainder():
    assert apportion([100], 0.29) == [29]
    assert apportion([10, 15, 25], 0.1) == [1, 2, 2]  # quotas 1, 1.5, 2.5, total 5
    assert apportion([7, 7, 7], 1e-5) == [0, 0, 0]


def test_spread_grows_in_every_class_alike():
    sizes = [1, 9, 4]
    taken = [spread(sizes, total) for total in range(15)]
    assert taken[5] == [1, 2, 2]
    assert taken[14] == sizes
    for less, more in pairwise(taken):
        assert sum(more) == sum(less) + 1
        assert all(a <= b for a, b in zip(less, more, strict=True))


def test_validation_is_never_larger_than_a_training_split_that_was_cut():
    source = source_of([50, 50, 50])
    whole = split(source, replace(PROTOCOL, train_size=0)).validation
    few = split(source, replace(PROTOCOL, train_size=6)).validation
    assert len(few) == 6 < len(whole)
    assert set(few) < set(whole)
    assert np.bincount(source.labels[few]).tolist() == [2, 2, 2]
    many = split(source, replace(PROTOCOL, train_size=len(whole) + 3)).validation
    np.testing.assert_array_equal(many, whole)


@pytest.mark.parametrize("train_size", [2, 1000])
def test_train_size_must_fit_the_classes_and_the_images(train_size):
    with pytest.raises(DataError, match=rf"3 classes and the 108 images .* got {train_size}"):
        split(source_of([50, 50, 50]), replace(PROTOCOL, train_size=train_size))


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (source_of([50, 1]), "test"),
        (source_of([50, 5]), "validation"),
        (source_of([50, 5], [5, 0]), "test"),
        (source_of([50, 0], [5, 5]), "validation"),
    ],
)
def test_class_that_is_missing_from_a_part_is_named(source, part):
    count = int((source.labels == 1).sum())
    with pytest.raises(DataError, match=f"class 'b' has {count} in all and none for {part}"):
        split(source, PROTOCOL)
