"""Read a data set and split it into training, validation and test images.

The split is a function of the labels and of the protocol's fractions and `split_seed`, never of the
study's seed: studies that differ only in their seed are compared on the same images.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from kd.data import own_sources, reading
from kd.data.own_sources import read_own_source
from kd.data.reading.blocks import resized
from kd.data.reading.files import printable
from kd.data.reading.images import one_line
from kd.data.reading.source import Progress, Reading, Source
from kd.dataset_names import SOURCES, parse_dataset, parse_own_dataset
from kd.errors import DataError
from kd.protocol import Protocol
from kd.seeds import derive_seed

Pools = list[NDArray[np.int64]]  # rows of the source, one array per class


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The rows of the source in each part, ascending int64; no row is in two parts."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def load_source(
    dataset: str,
    how: Reading,
    downloads: Path,
    progress: Progress | None = None,
    own: Path | None = None,
) -> Source:
    """Read a data set and resize its images to the size of `how` where they differ.

    A data set without a path is downloaded to `downloads`; `own` has copies of the user's files.
    `progress` is called as images are decoded or resized. Raises DataError, with one line that
    includes the remedy, and ProtocolError for a user's function that fails.
    """
    report = progress or _silent
    function = parse_own_dataset(dataset)
    if function and own:
        return _finished(read_own_source(function, own, how, report), how, report)
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        return _finished(member.read(path or downloads, how, report), how, report)


def reading_of(protocol: Protocol) -> Reading:
    """Return how the protocol's data set is read."""
    return Reading(
        protocol.stored_size, protocol.fit, protocol.follow_links, protocol.skip_bad_images
    )


def listing_digest(dataset: str, how: Reading) -> str:
    """Return a digest that changes whenever the result of `load_source` may change.

    It covers the source's `listing` of the path, and the code that reads it; no image is read.
    Raises DataError for a path without a data set.
    """
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        content = member.listing(path, how) if hasattr(member, "listing") else dataset
    folders = Path(str(member.__file__)).parent, Path(str(reading.__file__)).parent
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    readers = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    text = json.dumps([content, *readers, *how.identity])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def passed_over(dataset: str, how: Reading) -> str:
    """Return one sentence on what is skipped at a data set's path; empty if nothing is."""
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        return str(member.passed_over(path, how)) if hasattr(member, "passed_over") else ""


def origins(dataset: str, how: Reading) -> dict[str, str]:
    """Return what a data set's own parts are called at its path, by the part; see the sources."""
    member, path = _member(dataset)
    with _failing_as_data_error(dataset):
        return dict(member.origins(path, how)) if hasattr(member, "origins") else {}


def split(source: Source, protocol: Protocol) -> Split:
    """Return the parts that the source defines, and draw the others, stratified by class.

    A test or validation split that the source defines is used unchanged. Otherwise it is drawn from
    the examples without a part; the rest of these is added to the source's training examples.
    A smaller `train_size` selects a subset of what a larger one selects, and limits the drawn
    validation split to as many images, because few labels mean few to validate with. Raises
    DataError if a part would lack a class, `train_size` exceeds the training images, or a
    `split_seed` changes nothing.
    """
    parts = _parts(source, protocol)
    if protocol.split_seed and _same(parts, _parts(source, replace(protocol, split_seed=0))):
        own = {"test", "validation"} <= set(source.official)
        why = ", since its test and validation splits are its own" if own else ""
        raise DataError(
            f"--split-seed {protocol.split_seed} changes nothing: the data set is split as with "
            f"--split-seed 0{why}; omit the flag"
        )
    return parts


def _same(one: Split, other: Split) -> bool:
    pairs = zip(asdict(one).values(), asdict(other).values(), strict=True)
    return all(np.array_equal(rows, others) for rows, others in pairs)


def _parts(source: Source, protocol: Protocol) -> Split:
    rows = [np.flatnonzero(source.labels == label) for label in range(len(source.classes))]
    given = np.full(len(source.labels), "") if source.part is None else source.part

    def own(name: str) -> Pools:
        return [pool[given[pool] == name] for pool in rows]

    test, validation, free = own("test"), own("validation"), own("")
    free = _shuffled(free, protocol.split_seed)
    drawn = [name for name in ("test", "validation") if name not in source.official]
    if drawn and not sum(map(len, free)):
        raise DataError(
            f"a data set needs {drawn[0]} examples, but every example is assigned to another part: "
            f"assign some to {drawn[0]}, or leave the part of some empty so that it can be drawn"
        )
    if "test" in drawn:
        test, free = _cut(free, protocol.test_fraction)
    if "validation" in drawn:
        validation, free = _cut(free, protocol.validation_fraction)
    fixed = _shuffled(own("train"), protocol.split_seed)
    train = [np.concatenate(pools) for pools in zip(fixed, free, strict=True)]
    train = _keep(train, protocol.train_size)
    if "validation" in drawn and protocol.train_size < sum(map(len, validation)):
        validation = _keep(validation, protocol.train_size)
    for part, pools in (("test", test), ("validation", validation), ("training", train)):
        _check_part(part, pools, rows, source.classes)
    return Split(train=_merged(train), validation=_merged(validation), test=_merged(test))


def apportion(sizes: Sequence[int], share: float) -> list[int]:
    """Return `share` of every size as whole numbers with the exact total, by largest remainder.

    The share is used as the decimal that is written, so that 0.29 of 100 is 29.
    """
    exact = [Fraction(str(share)) * size for size in sizes]
    counts = [math.floor(quota) for quota in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: round(sum(exact)) - sum(counts)]:
        counts[index] += 1
    return counts


def spread(sizes: Sequence[int], total: int) -> list[int]:
    """Return counts that sum to `total`, as even as the sizes allow, the remainder on the first."""
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


def _finished(source: Source, how: Reading, progress: Progress) -> Source:
    """Return a source in the size wanted, with names of classes that stand on one line."""
    named = replace(source, classes=tuple(map(printable, source.classes)))
    return resized(named, how, progress)


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def _member(dataset: str) -> tuple[ModuleType | SimpleNamespace, Path | None]:
    """Return the module of a data set's source, and the path behind its name, if any.

    A user's function has none of the optional functions: its name has the digest of its file.
    """
    source, path = parse_dataset(dataset)
    if parse_own_dataset(dataset):
        return SimpleNamespace(__file__=own_sources.__file__), None
    return SOURCES.load(source), Path(path).expanduser() if path else None


def _shuffled(pools: Pools, split_seed: int) -> Pools:
    seeds = [derive_seed(split_seed, "split", label) for label in range(len(pools))]
    return [
        np.random.default_rng(seed).permutation(pool)
        for seed, pool in zip(seeds, pools, strict=True)
    ]


def _cut(pools: Pools, share: float) -> tuple[Pools, Pools]:
    """Return the first `share` of every pool, and the rest."""
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
            f"images available for training, got {train_size}"
        )
    counts = spread(sizes, train_size)
    return [pool[:count] for pool, count in zip(train, counts, strict=True)]


def _check_part(part: str, pools: Pools, rows: Pools, classes: Sequence[str]) -> None:
    for name, pool, all_rows in zip(classes, pools, rows, strict=True):
        if not len(pool):
            raise DataError(
                f"every class needs an image in each part, but class {name!r} has "
                f"{len(all_rows)} in all and none for {part}: add images, remove the class, or "
                "change validation_fraction or test_fraction"
            )


def _merged(pools: Pools) -> NDArray[np.int64]:
    return np.sort(np.concatenate(pools))
