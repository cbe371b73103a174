"""Read a data set and split it into training, validation and test images.

The split is a function of the labels and of the protocol's fractions, never of the study's seed:
studies that differ only in their seed are compared on the same images.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kd.data.sources import Progress, Source
from kd.data.sources._images import one_line, resized
from kd.errors import DataError
from kd.names import SOURCES, parse_dataset
from kd.protocol import Protocol
from kd.seeds import derive_seed

Pools = list[NDArray[np.int64]]  # rows of the source, one array a class


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Rows of the source, ascending int64, that make each part; no row is in two parts."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def load_source(
    dataset: str, image_size: int, data_dir: Path, progress: Progress | None = None
) -> Source:
    """Read a data set with every image in `image_size`; only what differs in size is resized.

    `data_dir` is the folder for downloads. `progress` is called as images are decoded or resized.
    Raises DataError, one line that says what to do.
    """
    report = progress or _silent
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        source = member.read(path or data_dir, image_size, report)
        return resized(source, image_size, report)


def listing_digest(dataset: str, image_size: int) -> str:
    """Return a digest that stays the same while `load_source` would return the same.

    No image is read: what lies at a path is judged by the source's `listing`, and by the file that
    reads it. Raises DataError for a path without a data set.
    """
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        listed = member.listing(path) if hasattr(member, "listing") else dataset
        reader = hashlib.sha256(Path(str(member.__file__)).read_bytes()).hexdigest()
    text = json.dumps([listed, reader, image_size])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def passed_over(dataset: str) -> str:
    """Return what at a data set's path is not read, in one sentence; empty for most data sets."""
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        return str(member.passed_over(path)) if hasattr(member, "passed_over") else ""


def split(source: Source, protocol: Protocol) -> Split:
    """Take the parts that the source has, and draw the others, stratified, with exact totals.

    A test or a validation split of the source's own is taken as it is. Otherwise it is drawn from
    the examples of no part; what is left of these trains, beside what the source has for training.
    A smaller `train_size` keeps a subset of what a larger one keeps, and draws at most as many
    images for validation: who has few labels has few to validate with. Raises DataError when a
    class would be missing from a part, or when `train_size` is more than there is.
    """
    rows = [np.flatnonzero(source.labels == label) for label in range(len(source.classes))]
    given = np.full(len(source.labels), "") if source.part is None else source.part

    def own(name: str) -> Pools:
        return [pool[given[pool] == name] for pool in rows]

    test, validation, free = own("test"), own("validation"), _shuffled(own(""))
    drawn = [name for name in ("test", "validation") if name not in source.official]
    if drawn and not sum(map(len, free)):
        raise DataError(
            f"every example of the data set has a part, and none is {drawn[0]}: give some that "
            "part, or leave it empty where it may be drawn"
        )
    if "test" in drawn:
        test, free = _cut(free, protocol.test_fraction)
    if "validation" in drawn:
        validation, free = _cut(free, protocol.validation_fraction)
    fixed = _shuffled(own("train"))
    train = [np.concatenate(pools) for pools in zip(fixed, free, strict=True)]
    train = _keep(train, protocol.train_size)
    if "validation" in drawn and protocol.train_size < sum(map(len, validation)):
        validation = _keep(validation, protocol.train_size)
    for part, pools in (("test", test), ("validation", validation), ("training", train)):
        _check_part(part, pools, rows, source.classes)
    return Split(train=_merged(train), validation=_merged(validation), test=_merged(test))


def apportion(sizes: Sequence[int], share: float) -> list[int]:
    """Take `share` of every size: whole numbers, by largest remainder, with the exact total.

    The share is taken as the decimal that it is written as, so that 0.29 of 100 is 29.
    """
    exact = [Fraction(str(share)) * size for size in sizes]
    counts = [math.floor(quota) for quota in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: round(sum(exact)) - sum(counts)]:
        counts[index] += 1
    return counts


def spread(sizes: Sequence[int], total: int) -> list[int]:
    """Take `total` as evenly over the sizes as these allow; what is left over, from the first."""
    counts = [0] * len(sizes)
    while total:
        unfilled = [index for index, size in enumerate(sizes) if counts[index] < size]
        step = max(1, total // len(unfilled))
        for index in unfilled:
            taken = min(step, sizes[index] - counts[index], total)
            counts[index] += taken
            total -= taken
    return counts


@contextmanager
def _failing_as_data_error(dataset: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{dataset!r} cannot be read: {one_line(error)}") from error


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def _member(dataset: str) -> tuple[ModuleType, Path | None]:
    """Return the module of a data set's source, and the path behind its name, if any."""
    source, path = parse_dataset(dataset)
    return SOURCES.load(source), Path(path).expanduser() if path else None


def _shuffled(pools: Pools) -> Pools:
    seeds = [derive_seed(0, "split", label) for label in range(len(pools))]  # 0: of no study
    return [
        np.random.default_rng(seed).permutation(pool)
        for seed, pool in zip(seeds, pools, strict=True)
    ]


def _cut(pools: Pools, share: float) -> tuple[Pools, Pools]:
    """Cut the share off the front of every pool."""
    counts = apportion([len(pool) for pool in pools], share)
    taken = [pool[:count] for pool, count in zip(pools, counts, strict=True)]
    left = [pool[count:] for pool, count in zip(pools, counts, strict=True)]
    return taken, left


def _keep(train: Pools, train_size: int) -> Pools:
    sizes = [len(pool) for pool in train]
    if train_size == 0:
        return train
    if not len(sizes) <= train_size <= sum(sizes):
        raise DataError(
            f"train_size must be 0, or lie between the {len(sizes)} classes and the {sum(sizes)} "
            f"images that are left for training, got {train_size}"
        )
    counts = spread(sizes, train_size)
    return [pool[:count] for pool, count in zip(train, counts, strict=True)]


def _check_part(part: str, pools: Pools, rows: Pools, classes: Sequence[str]) -> None:
    for name, pool, all_rows in zip(classes, pools, rows, strict=True):
        if not len(pool):
            raise DataError(
                f"every class needs an image in each part, but class {name!r} has "
                f"{len(all_rows)} in all and none of them for {part}: add images, remove the "
                "class, or change validation_fraction or test_fraction"
            )


def _merged(pools: Pools) -> NDArray[np.int64]:
    return np.sort(np.concatenate(pools))
