"""Run a job of any kind, and report how it ended."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kd.errors import DivergenceError, ProtocolError, RetortError, one_line
from kd.own_files import own_place
from storage.files.logs import keep_traceback
from workers.events import Diverged, Event, Failed, LastEvent, ShouldStop, Stopped
from workers.jobs import Job, job_from_wire
from workers.runners.kernels import limit_kernels

LACKS = (OSError, MemoryError, torch.OutOfMemoryError)  # no bugs: memory or disk is missing
SHOWN = 300  # characters of a message; the log file has all of it
RESTART = "correct it there, and start again with another --name"


def execute(job: Job, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Yield the job's events; the last one reports how the job ended, also after an exception."""
    torch.set_num_threads(job.protocol.threads)
    last: LastEvent = Stopped()  # unless the job yields another
    try:
        limit_kernels(job, device)
        module, function = job.runner.split(".")
        run = getattr(importlib.import_module(f"workers.runners.{module}"), function)
        for event in run(job, device, stopped):
            if isinstance(event, LastEvent):
                last = event
            else:
                yield event
    except (Exception, SystemExit) as error:
        last = _last_event(job, error)
    yield last


def execute_message(
    message: Any, device: torch.device, stopped: ShouldStop, report: Callable[[Event], None]
) -> None:
    """Execute a job that was sent as JSON, in a process that receives no signals."""
    try:
        job = job_from_wire(message)
        for event in execute(job, device, stopped):
            report(event)
    except RetortError as error:  # not a job here: this machine has another version of Retort
        report(Failed.of(error))
    except (KeyboardInterrupt, GeneratorExit) as error:  # of a model, since signals are blocked
        report(_last_event(job, error))


def _last_event(job: Job, error: BaseException) -> LastEvent:
    """Return the last event of a job that raised `error`, with a reason of one line.

    For an error in a file of the user's own the reason names file, line and function. For a bug of
    Retort it names the file in which the traceback is kept.
    """
    if isinstance(error, DivergenceError):
        return Diverged(reason=str(error))
    if isinstance(error, RetortError):
        return Failed.of(error)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not memory and (place := own_place(error)):
        return Failed.of(ProtocolError(f"{one_line(error)} ({place}); {RESTART}"))
    reason = " ".join((str(error) or repr(error)).split())
    if not isinstance(error, LACKS):
        reason = f"{reason[:SHOWN]}; {keep_traceback(job.layout, error)}"
    return Failed(kind=type(error).__name__, reason=reason)
