"""Run a job of any kind, and report how it ended."""

import importlib
from collections.abc import Iterator

import torch

from workers.events import Event, LastEvent, ShouldStop, Stopped
from workers.jobs import Job
from workers.runners.failures import last_event
from workers.runners.kernels import limit_kernels


def execute(job: Job, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Yield the job's events, the last of which is how it ended.

    An exception becomes the last event; see `workers.runners.failures`.
    """
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
        last = last_event(job, error)
    yield last
