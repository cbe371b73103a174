"""Write and read safetensors files; reading maps them into memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.files.arrays import read_header, unreadable, write_arrays


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], note: Any = None, *, sync: bool = True
) -> None:
    """Write tensors, and a JSON `note` in the header, as one file: all or nothing.

    The header also has the digest that `read_checked` compares. The same tensors and note give the
    same bytes: note and digest share one key, since safetensors does not sort keys. `sync` as in
    `storage.files.artifacts.replacing`. Raises ArtifactError when the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    write_arrays(path, plain, note, sync=sync)


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Return the file's tensors on the CPU, memory-mapped.

    Raises ArtifactError when the file is missing or not safetensors.
    """
    return _read(path)[0]


def read_checked(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return tensors and note. Raises ArtifactError if unreadable or different from the digest."""
    tensors, metadata = _read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return tensors, read_header(path, arrays, metadata)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None
