"""Make a data set of arrays of the user's own: layout of images, kinds of numbers, labels, parts.

Images are uint8 or uint16 [N, H, W], [N, H, W, C] or [N, C, H, W]; all other numbers are arrays for
a model of the user's own, float32 or int64, in the shape that they have.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd.data.reading.images import from_16_bits, squared
from kd.data.reading.parts import part_of
from kd.data.reading.source import Reading, Source
from kd.errors import DataError

Array = NDArray[Any]
ONE_HOT = "one class an example, as [N], [N, 1] or one-hot [N, classes]"


def source_of(
    parts: Mapping[str, tuple[Array, Array]], how: Reading, classes: Sequence[str] = ()
) -> Source:
    """Return the data set of inputs [N, ...] and labels of each part, named as in `Source`.

    Images that are not square become so. Labels are [N] or [N, 1], numbers or names, or one-hot
    [N, classes]. Without `classes` these are the distinct labels in their order. Raises DataError
    for arrays that do not fit together.
    """
    named = {part: part or "training" for part in parts}
    inputs = {part: _inputs(found, how, named[part]) for part, (found, _) in parts.items()}
    deep = {found.dtype.name == "uint16" and found.ndim in (3, 4) for found, _ in parts.values()}
    forms = {(one.dtype.name, one.shape[1:]) for one in inputs.values()}
    if len(forms) > 1 or len(deep) > 1:
        listed = ", ".join(
            f"{named[part]} {'x'.join(map(str, inputs[part].shape[1:]))} {found.dtype.name}"
            for part, (found, _) in parts.items()
        )
        raise DataError(f"inputs of all splits must have one shape and type, got {listed}")
    flat = {part: _flat(labels, named[part]) for part, (_, labels) in parts.items()}
    for part, labels in flat.items():
        if len(labels) != len(inputs[part]):
            raise DataError(
                f"there must be one label for each example, got {len(inputs[part])} examples and "
                f"{len(labels)} labels for {named[part]}"
            )
    labels, names = numbered(list(flat.values()), classes)
    return Source(
        inputs=np.ascontiguousarray(np.concatenate(list(inputs.values()))),
        labels=labels,
        classes=names,
        part=np.repeat(list(parts), [len(one) for one in flat.values()]),
        deep=deep == {True},
    )


def parts_of(splits: Array, count: int) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each part that `splits` [N] names. Raises DataError for other names."""
    names = [str(text_of(name)) for name in splits.ravel().tolist()]
    if len(names) != count:
        raise DataError(f"there must be one split for each example, got {len(names)} for {count}")
    known = {name: part_of(name) if name.strip() else "" for name in set(names)}
    unknown = sorted(name for name, part in known.items() if part is None)
    if unknown:
        raise DataError(f"splits must be train, validation, test or empty, got {unknown[0]!r}")
    parts = np.array([known[name] for name in names])
    return {str(part): np.flatnonzero(parts == part) for part in dict.fromkeys(parts.tolist())}


def _inputs(array: Array, how: Reading, what: str) -> Array:
    """Return inputs as `Source` takes them."""
    kind, shape = array.dtype.kind, array.shape
    if kind not in "fiub" or not array.size or len(shape) < 2:
        raise DataError(f"inputs for {what} must be numbers [N, ...], got {array.dtype} {[*shape]}")
    if array.dtype.name in ("uint8", "uint16") and len(shape) in (3, 4):
        images = _channels_first(array)
        images = from_16_bits(images) if array.dtype.name == "uint16" else images
        height, width = images.shape[2:]
        return images if height == width else squared(images, how)
    return array.astype(np.float32 if kind == "f" else np.int64, copy=False)


def _channels_first(images: Array) -> Array:
    """Return images [N, C, H, W]: the channels are not one of two equal sides, or are the fewest.

    Raises DataError where all three sides are equal, as in volumes.
    """
    if images.ndim == 3:
        return images[:, None]
    _, first, middle, last = images.shape
    square = (middle == last, first == middle)  # with the channels first, with the channels last
    if square[0] != square[1]:
        return images if square[0] else images.transpose(0, 3, 1, 2)
    if first == last:
        raise DataError(
            f"images of {first}x{middle}x{last} may have their channels first or last: store "
            "images as [N, H, W, C] with fewer channels, or volumes as float32 for a model of "
            "your own"
        )
    return images if first < last else images.transpose(0, 3, 1, 2)


def _flat(labels: Array, what: str) -> Array:
    """Return labels [N]. Raises DataError for several classes an example."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "fiub":
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise DataError(f"labels for {what} must be {ONE_HOT}, got several an example")
        return np.asarray(labels.argmax(1))
    if labels.ndim != 1:
        raise DataError(f"labels for {what} must be {ONE_HOT}, got {list(labels.shape)}")
    if labels.dtype.kind == "f" and np.array_equal(labels, np.floor(labels)):
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iubUSO":
        raise DataError(f"labels must be whole numbers or names, got {labels.dtype} for {what}")
    return labels


def numbered(labels: Sequence[Array], classes: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Return labels that count from 0 in the order of the classes, and the names of these."""
    values = [text_of(value) for part in labels for value in part.tolist()]
    numbers = all(isinstance(value, int) for value in values)
    if not numbers:
        values = [str(value) for value in values]
    known: list[Any] = sorted(set(values))
    if numbers and (negative := [value for value in known if value < 0]):
        raise DataError(f"labels must be 0 or more, got {negative[0]}")
    names = tuple(map(str, classes))
    if names and len(set(names)) < len(names):
        raise DataError(f"names of classes must differ, got {list(names)}")
    if names and numbers:
        if known[-1] >= len(names):
            raise DataError(
                f"labels must lie in 0-{len(names) - 1}, one per class, got {known[-1]}"
            )
        return np.array(values, np.int64), names
    if names:
        if unnamed := sorted({*known} - {*names}):
            raise DataError(
                f"labels must be those of the classes {list(names)}, got {unnamed[0]!r}"
            )
        known = list(names)
    if len(known) < 2:
        raise DataError(f"there must be at least 2 classes, got {known}")
    place = {value: number for number, value in enumerate(known)}
    return np.array([place[value] for value in values], np.int64), tuple(map(str, known))


def text_of(value: object) -> object:
    """Return a text for bytes; all else as it is."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
