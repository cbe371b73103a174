"""Run a job of any kind, and report how it ended."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from workers.events import LAST_EVENTS, Event, Stopped
from workers.jobs import (
    CostJob,
    ExamineJob,
    ExportJob,
    Job,
    KernelsJob,
    MachineJob,
    ModelsJob,
    PrepareJob,
    ProjectionJob,
    ShardJob,
    StudentsJob,
    TeacherJob,
    TeacherTestJob,
    TrainJob,
    VerifyJob,
)
from workers.runners.caching import run_projections, run_shard, run_verify
from workers.runners.comparing import run_cost, run_students, run_teacher_test
from workers.runners.examining import run_examine, run_machine
from workers.runners.exporting import run_export
from workers.runners.failures import last_event
from workers.runners.kernels import limit_kernels, run_kernels
from workers.runners.preparing import run_models, run_prepare, run_teacher
from workers.runners.training import run_train


def execute(job: Job, device: torch.device, stopped: Stopped) -> Iterator[Event]:
    """Yield the job's events; the last one says how it ended.

    Whatever a job raises becomes its last event; see `workers.runners.failures`.
    """
    torch.set_num_threads(job.protocol.threads)
    last = {"event": "stopped"}  # unless the job says how it ended
    try:
        limit_kernels(job, device)
        for event in RUNNERS[type(job)](job, device, stopped):
            if event["event"] in LAST_EVENTS:
                last = event
            else:
                yield event
    except (Exception, SystemExit) as error:
        last = last_event(job, error)
    yield last


RUNNERS: dict[type[Job], Callable[[Any, torch.device, Stopped], Iterator[Event]]] = {
    PrepareJob: run_prepare,
    KernelsJob: run_kernels,
    ModelsJob: run_models,
    TeacherJob: run_teacher,
    ProjectionJob: run_projections,
    ShardJob: run_shard,
    TrainJob: run_train,
    TeacherTestJob: run_teacher_test,
    CostJob: run_cost,
    StudentsJob: run_students,
    VerifyJob: run_verify,
    ExportJob: run_export,
    MachineJob: run_machine,
    ExamineJob: run_examine,
}
