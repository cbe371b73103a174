"""Read files of weights: a state dict in safetensors, or in a checkpoint of PyTorch.

A checkpoint is read without running anything in it (`weights_only=True`). It may be a state dict,
or a dict that has one under a usual name; averaged weights are preferred, as they are the ones that
their trainer evaluated.
"""

import argparse
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kd.errors import ArtifactError, one_line
from kd.names import DIGEST_LENGTH, WeightsFile

AVERAGED = ("model_ema", "state_dict_ema", "ema")
WRAPPERS = (*AVERAGED, "model_state_dict", "state_dict", "model")
AVERAGES = "n_averaged"  # a counter of `torch.optim.swa_utils.AveragedModel`, no weight
# plain attributes, in which timm's and torchvision's scripts keep their arguments
HARMLESS = (argparse.Namespace,)
DEEPEST = 3  # wrappers inside one another


@dataclass(frozen=True, slots=True)
class Weights:
    """A state dict, and its file in words, with the wrapper that it was taken from."""

    state: Mapping[str, Tensor]
    source: str


def read_weights(file: WeightsFile) -> Weights:
    """Return the state dict in a file, which is read once in a process while it is unchanged.

    Raises ArtifactError, in one line, if it cannot be read, is not that of the digest, or has
    something else than named tensors.
    """
    path = Path(file.path)
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    digest, weights = _read(path, stat.st_mtime_ns, stat.st_size)
    if file.digest and digest[:DIGEST_LENGTH] != file.digest:
        raise ArtifactError(
            f"{path} has changed since the study was begun: its SHA-256 begins with "
            f"{digest[:DIGEST_LENGTH]}, not {file.digest}; restore it, or choose another --name"
        )
    return weights


@lru_cache(maxsize=2)  # a teacher's and a student's
def _read(path: Path, changed: int, size: int) -> tuple[str, Weights]:
    """Return the SHA-256 of a file, and its weights."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    digest = hashlib.sha256(content).hexdigest()
    if path.suffix == ".safetensors":
        try:
            return digest, Weights(safetensors.torch.load(content), str(path))
        except safetensors.SafetensorError as error:
            raise _unreadable(path, error) from None
    return digest, _unwrapped(path, _checkpoint(path, content))


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    what = "safetensors" if path.suffix == ".safetensors" else "a checkpoint of PyTorch"
    return ArtifactError(f"{path} cannot be read as {what}: {one_line(error)}")


def _checkpoint(path: Path, content: bytes) -> object:
    """Return what `torch.save` wrote, if it consists of tensors and plain containers."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*HARMLESS]):
            warnings.simplefilter("ignore")  # about files that are refused
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        text = str(error)
        if type(error).__name__ == "UnpicklingError":  # its module is not imported, for safety
            if "Unsupported" not in text and "weights_only" not in text.lower():
                raise _unreadable(path, error) from None
            reason = "has pickled objects beside tensors, which Retort does not load"
        elif "TorchScript" in text:
            reason = "is a TorchScript program, which Retort does not run"
        else:
            raise _unreadable(path, error) from None
    if "TorchScript" in reason:
        read = f'whole = torch.jit.load("{path}")'
    else:
        read = f'whole = torch.load("{path}", weights_only=False)'
    raise ArtifactError(
        f"{path} {reason}; if you trust it, save its state dict with two lines of Python, and give "
        f'that file: {read} and torch.save(whole.state_dict(), "{path.stem}-state.pth") (of a '
        'dict, its entry, as in whole["model"])'
    )


def _unwrapped(path: Path, found: object) -> Weights:
    """Return the state dict in a checkpoint. Raises ArtifactError if there is none."""
    taken: list[str] = []
    for _ in range(DEEPEST):
        inner = {key: _entry(found, key) for key in WRAPPERS}
        name = next((key for key, value in inner.items() if value), "")
        if not name:
            break
        taken.append(name)
        found = inner[name]
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        keys = f" with the keys {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ArtifactError(
            f"{path} has no state dict, but a {type(found).__name__}{keys}; it must be one, or "
            f"have it under {', '.join(WRAPPERS[:-1])} or {WRAPPERS[-1]}"
        )
    averaged = taken and taken[-1] in AVERAGED
    state = {str(k): v for k, v in found.items() if not (averaged and k == AVERAGES)}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise ArtifactError(f"{path} has {name}, which is no dense tensor but {_kind(value)}")
    source = f"{path} ({'/'.join(taken)})" if taken else str(path)
    return Weights({name: value.detach() for name, value in state.items()}, source)


def _entry(found: object, key: str) -> Mapping[str, object] | None:
    """Return the dict under a wrapper's key, if there is one."""
    inner = found.get(key) if isinstance(found, Mapping) else None
    return inner if isinstance(inner, Mapping) else None


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" + (" of another layout" if isinstance(value, Tensor) else "")
