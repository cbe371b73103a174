"""Where two finalists differ: class by class, and the confusions that changed most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports.read.data import FinalistData, StudyData
from reports.statistics import Difference, holm, paired_difference

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A test image by its place in the split, and how many runs of a and b confused it so."""

    image: int
    a: int
    b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Images of class `label` that are taken for `taken`.

    `a` and `b` are images a run; `difference` is that of shares of the class's `images`.
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
    """How a differs from b on the same `seeds` seeds; classes of fewer than two images are out."""

    a: FinalistData
    b: FinalistData
    seeds: int
    classes: tuple[ClassDifference, ...]
    confusions: tuple[Confusion, ...]


def class_name(data: StudyData, label: int) -> str:
    """The name of a class, or its number while the data set is not there."""
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
    said_a = np.stack([left[replicate] for replicate in common])
    said_b = np.stack([right[replicate] for replicate in common])
    return ClassFindings(
        a=a,
        b=b,
        seeds=len(common),
        classes=class_differences(said_a, said_b, data.labels),
        confusions=changed_confusions(said_a, said_b, data.labels),
    )


def _predictions(one: FinalistData) -> dict[int, Integers]:
    return {run.replicate: run.predicted for run in one.tested if run.predicted is not None}


def class_differences(
    said_a: Integers, said_b: Integers, labels: Integers
) -> tuple[ClassDifference, ...]:
    """Compare two tables of predicted classes [S, N] on each class of labels [N].

    Intervals are those of the verdict, over seeds and the class's test images.
    """
    found = []
    for label in np.unique(labels):
        right_a, right_b = (said[:, labels == label] == label for said in (said_a, said_b))
        if right_a.shape[1] > 1:
            found.append((int(label), right_a, right_b, paired_difference(right_a, right_b)))
    adjusted = holm([difference.p for *_, difference in found])
    return tuple(
        ClassDifference(
            label=label,
            images=right_a.shape[1],
            a=float(right_a.mean()),
            b=float(right_b.mean()),
            difference=difference,
            p_holm=p,
        )
        for (label, right_a, right_b, difference), p in zip(found, adjusted, strict=True)
    )


def changed_confusions(
    said_a: Integers, said_b: Integers, labels: Integers
) -> tuple[Confusion, ...]:
    """Return the confusions whose images a run changed most, the largest change first."""
    change = _confusion_counts(said_a, labels) - _confusion_counts(said_b, labels)
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:MOST_CONFUSIONS]
    places = [divmod(int(place), change.shape[1]) for place in order]
    return tuple(
        _confusion(said_a, said_b, labels, label, taken)
        for label, taken in places
        if change[label, taken] and np.count_nonzero(labels == label) > 1
    )


def _confusion_counts(said: Integers, labels: Integers) -> Integers:
    """Count images over all seeds by their class and the class predicted: [C, C]."""
    classes = int(max(said.max(), labels.max())) + 1
    counts = np.bincount((labels * classes + said).ravel(), minlength=classes**2)
    return counts.reshape(classes, classes)


def _confusion(
    said_a: Integers, said_b: Integers, labels: Integers, label: int, taken: int
) -> Confusion:
    places = np.flatnonzero(labels == label)
    so_a, so_b = said_a[:, places] == taken, said_b[:, places] == taken
    return Confusion(
        label=label,
        taken=taken,
        images=len(places),
        a=float(so_a.sum() / len(so_a)),
        b=float(so_b.sum() / len(so_b)),
        difference=paired_difference(so_a, so_b),
        examples=_examples(places, so_a.sum(0), so_b.sum(0)),
    )


def _examples(places: Integers, a: Integers, b: Integers) -> tuple[Example, ...]:
    """Return the images on which the finalists differ most, in the direction of the whole."""
    direction = 1 if a.sum() > b.sum() else -1
    change = direction * (a - b)
    order: Sequence[int] = np.argsort(-change, kind="stable")[:MOST_EXAMPLES].tolist()
    return tuple(
        Example(image=int(places[place]), a=int(a[place]), b=int(b[place]))
        for place in order
        if change[place] > 0
    )
