"""A checkpoint gives back the state of its own run, and of no other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kd.data.examples import Examples
from kd.errors import ArtifactError
from kd.training.history import EpochMetrics
from kd.training.loop import train
from kd.training.state import TrainingState
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from storage.files.tensors import write_tensors
from tests.support.small import PLAIN, begin, labelled, plan, same_bits

RUN: dict[str, Any] = {"protocol": "a", "recipe": PLAIN.to_json(), "seed": 1, "horizon": 2}
DATA, VALIDATION = labelled(16), labelled(8, seed=1)


@pytest.fixture(scope="module")
def state() -> TrainingState:
    """A run after the first of two epochs."""
    state = begin(PLAIN, None)
    next(epochs(state, DATA))
    return state


def epochs(state: TrainingState, data: Examples) -> Any:
    return train(state, PLAIN, plan(epochs=2), data, VALIDATION)


@pytest.fixture
def path(tmp_path, state: TrainingState) -> Path:
    path = tmp_path / "run" / "checkpoint.safetensors"
    write_checkpoint(path, RUN, state.tensors(), state.history)
    return path


def test_tensors_and_history_survive_the_disk(path: Path, state: TrainingState) -> None:
    tensors, history = read_checkpoint(path, RUN)
    assert same_bits(tensors, state.tensors())
    assert history == state.history
    assert [metrics.epoch for metrics in history] == [1]
    assert isinstance(history[0], EpochMetrics)


def test_a_run_continues_from_the_file_as_if_it_had_not_stopped(path: Path) -> None:
    whole, resumed = begin(PLAIN, None), begin(PLAIN, None)
    list(epochs(whole, DATA))
    resumed.restore(*read_checkpoint(path, RUN))
    (last,) = epochs(resumed, DATA)
    assert same_bits(resumed.tensors(), whole.tensors())
    assert replace(last, seconds=0.0) == replace(whole.history[-1], seconds=0.0)


def test_going_on_leaves_the_file_alone(path: Path) -> None:
    """Its tensors are mapped from the file, and training changes them."""
    before = path.read_bytes()
    resumed = begin(PLAIN, None)
    resumed.restore(*read_checkpoint(path, RUN))
    list(epochs(resumed, DATA))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "b"},
        {"recipe": replace(PLAIN, lr=0.06).to_json()},
        {"seed": 2},
        {"horizon": 3},
        {"more": None},
    ],
    ids=repr,
)
def test_the_checkpoint_of_another_run_is_refused(path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="is the checkpoint of another run; delete it"):
        read_checkpoint(path, {**RUN, **changes})


def test_a_damaged_checkpoint_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        read_checkpoint(path, RUN)


@pytest.mark.parametrize(
    "note",
    [
        None,
        [],
        "text",
        {},
        {"run": RUN},
        {"history": []},
        {"run": RUN, "history": None},
        {"run": RUN, "history": [{}]},
        {"run": RUN, "history": [None]},
    ],
    ids=lambda note: repr(note)[:40],
)
def test_a_tensor_file_that_is_no_checkpoint_is_refused(path: Path, note: Any) -> None:
    write_tensors(path, {"a": torch.ones(1)}, note)
    with pytest.raises(ArtifactError, match="is not a checkpoint"):
        read_checkpoint(path, RUN)


def test_a_missing_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"none cannot be read"):
        read_checkpoint(tmp_path / "none", RUN)


def test_only_what_cannot_be_made_again_is_waited_for(
    tmp_path: Path, state: TrainingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch does not wait for the disk; a student that was confirmed does."""
    synced: list[int] = []
    monkeypatch.setattr("storage.files.artifacts.os.fsync", synced.append)
    write_checkpoint(tmp_path / "checkpoint.safetensors", RUN, state.tensors(), state.history)
    assert synced == []
    write_tensors(tmp_path / "student.safetensors", state.tensors())
    assert len(synced) == 1
