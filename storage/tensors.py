"""Tensor files: safetensors, written then renamed, read memory-mapped."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kd.errors import ArtifactError
from storage.artifacts import replacing

HEADER = "retort"  # the key of what the header keeps


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Any = None) -> None:
    """Write tensors, and a JSON `note` in the header, as one file: all or nothing.

    The header also keeps the digest that `read_checked` checks. The same tensors and note give the
    same bytes: they share one key, since safetensors writes several in any order. Raises
    ArtifactError when the disk does not take the file.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(note, sort_keys=True, allow_nan=False)
    header = json.dumps({"note": text, "digest": _digest(plain, text)}, sort_keys=True)
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, metadata={HEADER: header})
    except SafetensorError as error:
        raise ArtifactError(f"{path} cannot be written: {error}") from None


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Return the file's tensors on the CPU, memory-mapped.

    Raises ArtifactError when the file is missing or not safetensors.
    """
    return _read(path)[0]


def read_checked(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return tensors and note after comparing them with the digest. Raises ArtifactError."""
    tensors, metadata = _read(path)
    try:
        header = json.loads(metadata[HEADER])
        text, digest = header["note"], header["digest"]
        intact = digest == _digest(tensors, text)
        note = json.loads(text)
    except (KeyError, TypeError, AttributeError, ValueError):
        intact, note = False, None
    if not intact:
        raise ArtifactError(f"{path} is damaged: its digest differs; delete it")
    return tensors, note


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def _digest(tensors: Mapping[str, Tensor], note: str) -> str:
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
