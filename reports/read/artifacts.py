"""Folders of the cache and files of predictions, as the report reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd.errors import ArtifactError
from storage.files.arrays import made_again, read_arrays
from storage.files.artifacts import is_finished, read_manifest

Predictions = tuple[NDArray[np.float32], NDArray[np.int64]]


def info_of(folder: Path, kind: str, what: str, missing: list[str]) -> Mapping[str, Any]:
    """Return the `info` of a folder's manifest; what is `missing` is noted, and gives none."""
    if is_finished(folder):
        return read_manifest(folder, kind).info
    missing.append(f"{what} in the cache")
    return {}


def read_predictions(path: Path) -> Predictions:
    """Return logits [N, C] and labels [N]. Raises ArtifactError when they are damaged."""
    arrays, _ = read_arrays(path)
    logits, labels = arrays.get("logits"), arrays.get("labels")
    if logits is None or labels is None or logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ArtifactError(f"{path} does not hold logits and labels; {made_again(path)}")
    return logits, labels
