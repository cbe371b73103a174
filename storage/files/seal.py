"""Records of who opened a test split, which is sealed until confirmation.

The test split is read only through `storage.files.datasets.open_test`, which writes two records
first; only the few images that a report shows after the first opening are read without. A study's
seal has each of its openings. The record of the cache, beside its data sets, has every study that
opened one of their test splits: one that is begun again under another name, root, seed, space or
margin has a new seal, and tests the same images. This module imports no torch, because the report
shows the records.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd.errors import ArtifactError
from kd.json_data import JsonData
from storage.files.arrays import read_rows
from storage.files.artifacts import Manifest, locked, read_record, write_json
from storage.files.layout import dataset_part, lock_of, openings_record, whole_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(JsonData):
    """One opening of the test split: when (ISO 8601, UTC), and for what."""

    time: str
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(JsonData):
    """One choice of finalists, after `opened` openings of the test split.

    `trials` are those that each arm had by then, `tuned` the folder of each arm's tuned recipe.
    """

    time: str
    opened: int
    trials: dict[str, int]
    tuned: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal(JsonData):
    """The record of one study; `study` tells it from all others, also once it was moved."""

    study: str = ""  # empty before there is a record
    openings: tuple[Opening, ...] = ()
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitIdentity(JsonData):
    """What tells a test split from others. Three digests, and the `dataset` of the protocol.

    `images` is of its images as they are stored, and their labels; `rows` of the labels of all
    examples, and which of them it has; `data` of all images and labels, however they are split.
    """

    images: str
    rows: str
    data: str
    dataset: str

    @classmethod
    def of(cls, manifest: Manifest, dataset: str) -> "SplitIdentity":
        """Return that of the data set with this manifest, which `dataset` names."""
        images = manifest.files[dataset_part(manifest.folder, "test").name]
        return cls(images=images, dataset=dataset, **manifest.info["digests"])

    def is_same(self, other: "SplitIdentity") -> bool:
        """Whether both have the same images; from the same place, also in another size."""
        place = (self.dataset, self.rows) == (other.dataset, other.rows)
        return place or self.images == other.images

    def overlaps(self, other: "SplitIdentity") -> bool:
        """Whether both are of the same data, so that some of their images may be the same."""
        return self.dataset == other.dataset or self.data == other.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener(JsonData):
    """A study that opened a test split, with the time of its first and its last opening.

    `study` is that of its seal; `name` and `root` are where it was then.
    """

    study: str
    name: str
    root: str
    split: SplitIdentity
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Openers(JsonData):
    """The record of a cache: a study has an entry for each test split that it opened."""

    openers: tuple[Opener, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherStudies:
    """The other studies that opened the test split of `study`, or another split of its data.

    `study` is empty for one that has opened nothing. A study is in one of the two alone.
    """

    study: str = ""
    same: tuple[Opener, ...] = ()
    overlapping: tuple[Opener, ...] = ()

    @property
    def all(self) -> tuple[Opener, ...]:
        return *self.same, *self.overlapping


def record_opening(seal_path: Path, purpose: str) -> str:
    """Add an opening, with the current time, to a study's seal; return what names the study.

    A resumed confirmation adds another. Raises ArtifactError when the record is damaged: it is
    never replaced.
    """
    with locked(lock_of(seal_path), wait=True):
        seal = _begun(read_seal(seal_path))
        opening = Opening(time=_now(), purpose=purpose)
        _write_seal(seal_path, replace(seal, openings=(*seal.openings, opening)))
    return seal.study


def record_choice(seal_path: Path, trials: Mapping[str, int], tuned: Mapping[str, str]) -> None:
    """Add a choice of finalists to a study's seal, unless it is the one before.

    `trials` and `tuned` are those of a `Choice`. Raises ArtifactError when the record is damaged.
    """
    with locked(lock_of(seal_path), wait=True):
        seal = _begun(read_seal(seal_path))
        last = seal.choices[-1] if seal.choices else None
        if last and (last.trials, last.tuned) == (dict(trials), dict(tuned)):
            return
        choice = Choice(
            time=_now(), opened=len(seal.openings), trials=dict(trials), tuned=dict(tuned)
        )
        _write_seal(seal_path, replace(seal, choices=(*seal.choices, choice)))


def read_seal(seal_path: Path) -> Seal:
    """Return a study's record, empty if there is none. Raises ArtifactError if it is damaged."""
    try:
        return read_record(seal_path, Seal) if seal_path.exists() else Seal()
    except ArtifactError:
        raise ArtifactError(
            f"{seal_path}, the record of every opening of the test split, is damaged: "
            "restore it, or begin a new study"
        ) from None


def openings(seal_path: Path) -> tuple[Opening, ...]:
    """Return all openings in order. Raises ArtifactError when the record is damaged."""
    return read_seal(seal_path).openings


def record_opener(folder: Path, split: SplitIdentity, seal_path: Path, study: str) -> None:
    """Record that `study`, of this seal, opens the test split of the data set in `folder`.

    Raises ArtifactError when the record is damaged: it is never replaced.
    """
    path, place = openings_record(folder), seal_path.parent
    with locked(lock_of(path), wait=True):
        known = {(one.study, one.split): one for one in read_openers(folder)}
        before, time = known.get((study, split)), _now()
        known[study, split] = Opener(
            study=study,
            name=place.name,
            root=str(whole_path(place.parent)),
            split=split,
            first=before.first if before else time,
            last=time,
        )
        write_json(path, Openers(openers=tuple(known.values())).to_json())


def read_openers(folder: Path) -> tuple[Opener, ...]:
    """Return the studies that opened test splits of the cache which has the data set in `folder`.

    Raises ArtifactError when the record is damaged.
    """
    path = openings_record(folder)
    try:
        return read_record(path, Openers).openers if path.exists() else ()
    except ArtifactError:
        raise ArtifactError(
            f"{path}, the record of all studies that opened a test split, is damaged: restore it, "
            "or delete it, and with it what is known of them"
        ) from None


def other_studies(openers: Iterable[Opener], split: SplitIdentity, study: str) -> OtherStudies:
    """Return the studies other than `study` that opened this test split, or one that overlaps."""
    others = [one for one in openers if one.study != study]
    same = {one.study: one for one in others if one.split.is_same(split)}
    overlapping = {
        one.study: one for one in others if one.split.overlaps(split) and one.study not in same
    }
    return OtherStudies(
        study=study, same=tuple(same.values()), overlapping=tuple(overlapping.values())
    )


def opened_images(folder: Path, seal_path: Path, rows: Sequence[int]) -> NDArray[np.uint8]:
    """Return some images [R, C, H, W] of the test split in `folder`, for a report to show.

    Raises ArtifactError while the split is sealed, and for a file that does not hold them.
    """
    if not openings(seal_path):
        raise ArtifactError(f"the test split is sealed: {seal_path} has no opening; run confirm")
    path = dataset_part(folder, "test")
    images = read_rows(path, "inputs", rows)
    if images.dtype == np.float32:  # of more than 8 bits, in the same range
        images = np.rint(images).astype(np.uint8)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(rows):
        raise ArtifactError(f"{path} does not hold the images that were tested; delete {folder}")
    return images


def _begun(seal: Seal) -> Seal:
    """Return a seal that names its study."""
    return seal if seal.study else replace(seal, study=secrets.token_hex(8))


def _write_seal(path: Path, seal: Seal) -> None:
    write_json(path, seal.to_json())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
