"""Read safetensors files as NumPy arrays, for code that must not import torch.

The header of a file has a JSON note and a digest over note and tensors (`storage.files.tensors`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kd.errors import ArtifactError
from storage.files.artifacts import CONTINUES, replacing

HEADER = "retort"  # key of the note and digest in a file's header

Arrays = Mapping[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Arrays, note: Any = None, *, sync: bool = True) -> None:
    """Write arrays, and a JSON `note` in the header, as one file: all or nothing.

    `sync` as in `storage.files.artifacts.replacing`. Raises ArtifactError when the file cannot be
    written, ValueError for NaN or infinity in the note.
    """
    text = json.dumps(note, sort_keys=True, allow_nan=False)
    header = json.dumps({"note": text, "digest": _digest(arrays, text)}, sort_keys=True)
    try:
        with replacing(path, sync=sync) as temporary:
            save_file(dict(arrays), temporary, metadata={HEADER: header})
    except SafetensorError as error:
        raise ArtifactError(f"{path} cannot be written: {error}; {CONTINUES}") from None


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return arrays and note. Raises ArtifactError if unreadable or different from the digest."""
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None
    return arrays, read_header(path, arrays, metadata)


def read_rows(path: Path, name: str, rows: Sequence[int]) -> NDArray[Any]:
    """Return some rows of one array, without reading the others; the digest is not compared.

    Raises ArtifactError when there is no such file, array or row.
    """
    try:
        with safe_open(path, framework="np") as file:
            part = file.get_slice(name)
            return np.concatenate([part[:0], *(part[row : row + 1] for row in rows)])
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> ArtifactError:
    """Return the error for an unreadable file, with advice unless permission is missing."""
    advice = "" if isinstance(error, PermissionError) else f"; {made_again(path)}"
    return ArtifactError(f"{path} cannot be read: {error}{advice}")


def made_again(path: Path) -> str:
    """Return the advice for a damaged file: delete its folder, which is created as a whole."""
    return f"delete {path.parent} to have it made again"


def read_header(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> Any:
    """Return the note. Raises ArtifactError unless the digest is that of arrays and note."""
    try:
        header = json.loads(metadata[HEADER])
        text, digest = header["note"], header["digest"]
        intact = digest == _digest(arrays, text)
        note = json.loads(text)
    except (KeyError, TypeError, AttributeError, ValueError):
        intact, note = False, None
    if not intact:
        raise ArtifactError(f"{path} is damaged: its digest differs; {made_again(path)}")
    return note


_name_of = cache(str)  # of a dtype; cached, since numpy builds the name at each call


def _digest(arrays: Arrays, note: str) -> str:
    digest = hashlib.sha256(note.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {_name_of(array.dtype)} {list(array.shape)};".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
