"""The tiny study with which the doctor tests a worker."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from conductor.request import Request
from conductor.tools.verifying import TOLERANCE
from kd.errors import ArtifactError, WorkerError
from kd.protocol import Protocol
from reports.wording import show_size
from search_spaces.space import load_space
from workers.events import LastEvent, Result
from workers.jobs import (
    ExamineJob,
    Job,
    JobContext,
    KernelsJob,
    MachineJob,
    PrepareJob,
    ProjectionJob,
    ShardJob,
    TeacherJob,
    TrainJob,
    VerifyJob,
)
from workers.pools.worker_pool import Pool, WorkerPool, error_of

PATIENCE = 120.0  # s that a job may take here: a driver that hangs reports nothing
# One step each of the teacher and the student: a batch has room for all training images.
PROTOCOL = Protocol(
    dataset="digits",
    image_size=16,
    train_size=64,
    augment=(  # all that there are: each is compared with the CPU
        "resized-crop=0.35,crop=4,flip,trivial,jitter=0.4,erase=0.25,cutout=4,mixup=0.2,cutmix=1"
    ),
    teachers=("resnet8-w0.25",),
    teacher_epochs=1,
    students=("resnet8-w0.125",),
    epochs=1,
    batch_size=64,
)


def doctor_request(root: Path, **options: Any) -> Request:
    """Return the request of the doctor's study."""
    arms = ["scheduled", "plain"]
    return Request(name="doctor", root=root, protocol=PROTOCOL, spaces=arms, command=[], **options)


class TinyStudy:
    """The stages of the tiny study as jobs of `pool`, under the root `folder`, in order.

    Every stage returns a description, and raises the error of its job.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool = pool
        self._workers = WorkerPool(pool)
        self._folder = folder
        self._silent = False
        self._context = JobContext(protocol=PROTOCOL, root=str(folder), taps=PROTOCOL.tap_names)
        self.machine: dict[str, Any] | None = None  # the values of its `MachineJob`

    def worker(self) -> str:
        started = time.monotonic()
        self._pool.start()
        self.machine = self._run(MachineJob).values
        return f"responded after {time.monotonic() - started:.1f} s"

    def data(self) -> str:
        result = self._run(PrepareJob)
        self._context = replace(self._context, dataset=result["dataset"])
        count = sum(sum(classes) for classes in result["counts"].values())
        return f"{count:,} images of {PROTOCOL.dataset} stored as tensors"

    def kernels(self) -> str:
        result = self._run(KernelsJob)
        if not result["used"]:
            return "not tested on an accelerator"
        why = f" ({result['reason']})" if result["reason"] else ""
        return f"{result['used']}{why}: equal to float64 but for rounding"

    def views(self) -> str:
        return str(self._examine("views")["description"])

    def losses(self) -> str:
        return str(self._examine("losses")["description"])

    def checkpoint(self) -> str:
        return str(self._examine("checkpoint")["description"])

    def _examine(self, part: str) -> Result:
        return self._run(ExamineJob, part=part, folder=str(self._folder))

    def teacher(self) -> str:
        result = self._run(TeacherJob, place=0)
        self._context = replace(self._context, teachers=(result["teacher"],))
        return f"one step of {PROTOCOL.teacher} in {result['seconds']:.2f} s"

    def shards(self) -> str:
        """Fit projections, cache the teacher's outputs for a view, and compare both.

        Raises ArtifactError when they differ by more than rounding.
        """
        begun = self._run(ProjectionJob, place=0)
        self._context = replace(self._context, shards=(begun["shards"],), cache="all")
        self._run(ShardJob, place=0, view=0, features=True)
        verified = self._run(VerifyJob, place=0, view=0, rows=PROTOCOL.train_size)
        if not verified["difference"] <= TOLERANCE:
            raise ArtifactError(f"a shard differs by {verified['difference']:.3g} from the teacher")
        return f"{show_size(sum(begun['sizes'].values()))} equal to the teacher's output"

    def student(self) -> str:
        space = load_space("scheduled")
        recipe = space.suggest(optuna.trial.FixedTrial({**space.enqueued["classic"]}))
        self._run(
            TrainJob,
            recipe=recipe,
            seed=0,
            horizon=1,
            views=[0],
            folder=str(self._folder / "student"),
        )
        return f"one step of {PROTOCOL.student}, distilled from the shard"

    def _run(self, kind: type[Job], **fields: Any) -> Result:
        """Return the result of one job. Raises its error, or WorkerError if it does not respond."""
        if self._silent:
            raise WorkerError("the worker stopped responding")
        self._workers.start("", self._context.job(kind, **fields))
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            for _, event in self._workers.events(left):
                if isinstance(event, Result):
                    return event
                if isinstance(event, LastEvent):
                    raise error_of(event)
        self._silent = True
        raise WorkerError(f"no response in {PATIENCE:.0f} s")
