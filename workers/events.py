"""Events: what a worker says while it runs a job, as plain JSON objects.

{"event": "progress", "done": 3, "total": 12}      part of a job is done
{"event": "epoch", "metrics": {…}, "total": 12}    an epoch was trained (`kd.training.history`)
{"event": "note", "text": "…"}                     something the user should read
{"event": "result", …}                             the job's result; the last event
{"event": "diverged", "reason": "…"}               a loss stopped being finite; the last event
{"event": "failed", "kind": "…", "reason": "…"}    the job failed; the last event
{"event": "stopped"}                               the job was told to stop; the last event
"""

from collections.abc import Callable
from typing import Any

from kd.training.history import EpochMetrics

Event = dict[str, Any]
Stopped = Callable[[], bool]  # asked between steps: whether to leave the job

LAST_EVENTS = ("result", "diverged", "failed", "stopped")


def progress_event(done: int, total: int) -> Event:
    return {"event": "progress", "done": done, "total": total}


def epoch_event(metrics: EpochMetrics, total: int) -> Event:
    return {"event": "epoch", "metrics": metrics.to_json(), "total": total}


def note_event(text: str) -> Event:
    return {"event": "note", "text": text}


def result_event(**values: Any) -> Event:
    return {"event": "result", **values}


def failed_event(error: BaseException) -> Event:
    return {"event": "failed", "kind": type(error).__name__, "reason": str(error) or repr(error)}
