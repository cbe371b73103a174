"""Where two finalists differ: class by class, and the confusions that changed most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports.intervals import holm_difference
from reports.read.data import FinalistData, StudyData
from reports.statistics import Difference, holm, paired_difference
from reports.wording import points

MOST_CONFUSIONS = 6
MOST_EXAMPLES = 4

Integers = NDArray[np.int64]
Images = Mapping[int, NDArray[np.uint8]]  # place in the test split: [C, H, W]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDifference:
    """Accuracy on one class, 0-1, of finalists a and b; `p_holm` is corrected over the classes."""

    label: int
    images: int
    a: float
    b: float
    difference: Difference
    p_holm: float

    @property
    def corrected(self) -> Difference:
        """The difference, with the interval that agrees with `p_holm`."""
        return holm_difference(self.difference, self.p_holm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A test image by its place in the split, and how many runs of a and b made this confusion."""

    image: int
    a: int
    b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Images of class `label` that are predicted to be of class `taken`.

    `a` and `b` are numbers of images per run; `difference` is between shares of the class's
    `images`.
    """

    label: int
    taken: int
    images: int
    a: float
    b: float
    difference: Difference
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFindings:
    """How a differs from b on the same `seeds` seeds, on classes of at least two test images."""

    a: FinalistData
    b: FinalistData
    seeds: int
    classes: tuple[ClassDifference, ...]
    confusions: tuple[Confusion, ...]


def one_image(data: StudyData, images: int) -> str:
    """Return what one image is worth, in a study of accuracy."""
    worth = f": one {data.example} is {points(1 / images)} points of accuracy"
    return worth if data.protocol.metric == "accuracy" else ""


def class_name(data: StudyData, label: int) -> str:
    """The name of a class, or its number if the data set is not in the cache."""
    return data.classes[label] if label < len(data.classes) else str(label)


def compare_classes(
    data: StudyData, a: FinalistData | None, b: FinalistData | None
) -> ClassFindings | None:
    """Compare by class on the seeds that both were tested on; None below two of them."""
    if a is None or b is None or data.labels is None:
        return None
    left, right = _predictions(a), _predictions(b)
    common = sorted(set(left) & set(right))
    if len(common) < 2:
        return None
    predicted_a = np.stack([left[replicate] for replicate in common])
    predicted_b = np.stack([right[replicate] for replicate in common])
    return ClassFindings(
        a=a,
        b=b,
        seeds=len(common),
        classes=class_differences(predicted_a, predicted_b, data.labels),
        confusions=changed_confusions(predicted_a, predicted_b, data.labels),
    )


def _predictions(one: FinalistData) -> dict[int, Integers]:
    return {run.replicate: run.predicted for run in one.tested if run.predicted is not None}


def class_differences(
    predicted_a: Integers, predicted_b: Integers, labels: Integers
) -> tuple[ClassDifference, ...]:
    """Compare two tables of predicted classes [S, N] on each class of labels [N].

    Intervals are those of the verdict, over seeds and the class's test images.
    """
    compared = []
    for label in np.unique(labels):
        right_a, right_b = (
            predicted[:, labels == label] == label for predicted in (predicted_a, predicted_b)
        )
        if right_a.shape[1] > 1:
            compared.append((int(label), right_a, right_b, paired_difference(right_a, right_b)))
    adjusted = holm([difference.p for *_, difference in compared])
    return tuple(
        ClassDifference(
            label=label,
            images=right_a.shape[1],
            a=float(right_a.mean()),
            b=float(right_b.mean()),
            difference=difference,
            p_holm=p,
        )
        for (label, right_a, right_b, difference), p in zip(compared, adjusted, strict=True)
    )


def changed_confusions(
    predicted_a: Integers, predicted_b: Integers, labels: Integers
) -> tuple[Confusion, ...]:
    """Return the confusions whose number of images changed most, the largest change first."""
    change = _confusion_counts(predicted_a, labels) - _confusion_counts(predicted_b, labels)
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:MOST_CONFUSIONS]
    places = [divmod(int(place), change.shape[1]) for place in order]
    return tuple(
        _confusion(predicted_a, predicted_b, labels, label, taken)
        for label, taken in places
        if change[label, taken] and np.count_nonzero(labels == label) > 1
    )


def _confusion_counts(predicted: Integers, labels: Integers) -> Integers:
    """Count images over all seeds by their class and the class predicted: [C, C]."""
    classes = int(max(predicted.max(), labels.max())) + 1
    counts = np.bincount((labels * classes + predicted).ravel(), minlength=classes**2)
    return counts.reshape(classes, classes)


def _confusion(
    predicted_a: Integers, predicted_b: Integers, labels: Integers, label: int, taken: int
) -> Confusion:
    places = np.flatnonzero(labels == label)
    confused_a, confused_b = predicted_a[:, places] == taken, predicted_b[:, places] == taken
    return Confusion(
        label=label,
        taken=taken,
        images=len(places),
        a=float(confused_a.sum() / len(confused_a)),
        b=float(confused_b.sum() / len(confused_b)),
        difference=paired_difference(confused_a, confused_b),
        examples=_examples(places, confused_a.sum(0), confused_b.sum(0)),
    )


def _examples(places: Integers, a: Integers, b: Integers) -> tuple[Example, ...]:
    """Return the images that differ most, in the direction of the total change."""
    direction = 1 if a.sum() > b.sum() else -1
    change = direction * (a - b)
    order: Sequence[int] = np.argsort(-change, kind="stable")[:MOST_EXAMPLES].tolist()
    return tuple(
        Example(image=int(places[place]), a=int(a[place]), b=int(b[place]))
        for place in order
        if change[place] > 0
    )
