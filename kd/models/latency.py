"""The record of a latency measurement; no torch, because reports read it."""

from dataclasses import dataclass

from kd.json_data import JsonData


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(JsonData):
    """Time of one forward pass over a batch, in ms, over `repeats` passes."""

    batch_size: int
    median_ms: float
    p95_ms: float
    repeats: int
