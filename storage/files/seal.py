"""The record of every opening of a study's test split, which is sealed until confirmation.

The test split is read only through `storage.files.datasets.open_test`, which writes a record here
first, except for the few images that a report shows after the first opening. This module imports no
torch, because the report shows the record.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd.errors import ArtifactError
from storage.files.arrays import read_rows
from storage.files.artifacts import locked, read_json, write_json
from storage.files.layout import dataset_part, lock_of


def record_opening(seal_path: Path, purpose: str) -> None:
    """Add an opening, with the current time, to the record. A resumed confirmation adds another.

    Raises ArtifactError when the record is damaged: it is never replaced.
    """
    with locked(lock_of(seal_path), wait=True):
        time = datetime.now(UTC).isoformat(timespec="seconds")
        record = [*openings(seal_path), {"time": time, "purpose": purpose}]
        write_json(seal_path, {"openings": record})


def openings(seal_path: Path) -> list[dict[str, str]]:
    """Return all openings in order: `time` (ISO 8601, UTC) and `purpose`.

    Raises ArtifactError when the record is damaged.
    """
    if not seal_path.exists():
        return []
    try:
        record = read_json(seal_path).get("openings")
    except ArtifactError:
        record = None
    if not isinstance(record, list) or not all(_is_opening(entry) for entry in record):
        raise ArtifactError(
            f"{seal_path}, the record of every opening of the test split, is damaged: "
            "restore it, or begin a new study"
        )
    return record


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


def _is_opening(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"time", "purpose"}:
        return False
    return all(isinstance(value, str) for value in entry.values())
