"""Checkpoints: the complete state of a training run after its last full epoch, in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kd.errors import ArtifactError, ProtocolError
from kd.training.history import EpochMetrics
from storage.files.tensors import read_checked, write_tensors


def write_checkpoint(
    path: Path, run: Mapping[str, Any], tensors: Mapping[str, Tensor], history: list[EpochMetrics]
) -> None:
    """Write `tensors` and `history` of the run that `run` identifies.

    The file is not synced to disk, which can take longer than an epoch: a kill loses nothing, and
    after a power cut a damaged checkpoint is detected and the run starts again.
    """
    note = {"run": dict(run), "history": [metrics.to_json() for metrics in history]}
    write_tensors(path, tensors, note, sync=False)


def read_checkpoint(
    path: Path, run: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[EpochMetrics]]:
    """Return tensors and history of the checkpoint at `path`.

    Raises ArtifactError when it is damaged, or was made by another run than `run`.
    """
    tensors, note = read_checked(path)
    try:
        history = [EpochMetrics.from_json(item) for item in note["history"]]
        made_by = note["run"]
    except (KeyError, TypeError, ProtocolError) as error:
        raise ArtifactError(f"{path} is not a checkpoint: {error}") from None
    if made_by != dict(run):
        raise ArtifactError(f"{path} is the checkpoint of another run; delete it")
    return tensors, history
