"""Shards of the teacher cache, written at once."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from kd.training.teacher import TeacherReading
from storage.files.shards import write_shard


def fill_shard(
    folder: Path, k: int, chunks: Sequence[TeacherReading], cache_logits: str = "float32"
) -> None:
    """Write the shard of view `k`, of which `chunks` have all rows."""
    rows = sum(len(chunk.logits) for chunk in chunks)
    deque(write_shard(folder, k, rows, chunks, cache_logits), maxlen=0)
