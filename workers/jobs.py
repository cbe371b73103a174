"""Jobs: the units of work of a worker, as frozen dataclasses that are sent as JSON.

Each names its runner, a function that runs it in a worker and yields events. The name is a string,
because runners import torch and the supervisor does not.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from kd.json_data import JsonData, from_wire, kinds_in
from kd.protocol import Protocol
from kd.recipe import Recipe
from storage.files.layout import Layout, RunLayout

J = TypeVar("J", bound="Job")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext(JsonData):
    """What the jobs of a study share: its protocol, the folder of `--root`, and earlier results.

    `dataset`, and those of each teacher and its shards, are fingerprints, empty before a job has
    made them; `cache` is how much of the teachers is cached: all, logits or none. `taps` are the
    names of those in use, once they are known.
    """

    protocol: Protocol
    root: str
    dataset: str = ""
    teachers: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    cache: str = ""
    taps: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        return Layout(Path(self.root))

    def with_teacher(self, place: int) -> Self:
        """Return this context with one of the protocol's teachers alone, from place 0.

        A teacher and its cache depend on no other, so that studies share them.
        """
        return replace(
            self,
            protocol=self.protocol.with_teacher(place),
            teachers=self.teachers[place : place + 1],
            shards=self.shards[place : place + 1],
        )

    def job(self, kind: type[J], **values: Any) -> J:
        """Make a job of this study; `values` are the fields that belong to its kind alone."""
        shared = {field.name: getattr(self, field.name) for field in fields(JobContext)}
        return kind(**shared, **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(JobContext):
    """A job. `runner` is the module of `workers.runners` and the function in it that run it."""

    runner: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTeacher(JobContext):
    """A job of one teacher: that at `place` among the protocol's, from 0."""

    place: int = 0

    @property
    def alone(self) -> Self:
        """This job in a study without other teachers."""
        return replace(self.with_teacher(self.place), place=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareJob(Job):
    """Turn the data set into tensor files. Result: `dataset`, its fingerprint."""

    runner: ClassVar[str] = "preparing.run_prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsJob(Job):
    """Test the kernels of this study's convolutions once.

    Result: `limit`, the instruction set that workers of this processor are limited to, `reason`,
    and `used`, the kernels in words; all empty on an accelerator.
    """

    runner: ClassVar[str] = "kernels.run_kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsJob(Job):
    """Try out the models that are not of the catalogue before anything is trained with them.

    Without `dataset`, this is what needs no data: names, imports and shapes.
    """

    runner: ClassVar[str] = "model_test.run_models"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossJob(Job):
    """Try out the protocol's loss of the user's own before anything is trained with it.

    Without `dataset`, this is what needs no data: that the file imports and has the function.
    """

    runner: ClassVar[str] = "loss_test.run_loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class TapsJob(Job):
    """Find the taps that teachers and students have in common.

    Result: `taps`, for each of their names the module of each model, under the names of
    `Protocol.teacher_roles` and of the students.
    """

    runner: ClassVar[str] = "tap_names.run_taps"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsJob(Job):
    """Load the weights that teachers and students start from. Result: `lines`, what was loaded."""

    runner: ClassVar[str] = "preparing.run_weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherJob(OfTeacher, Job):
    """Fine-tune a teacher, or find it. Result: `teacher`, its fingerprint, and `accuracy`."""

    runner: ClassVar[str] = "preparing.run_teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionJob(OfTeacher, Job):
    """Begin a teacher's cache. Result: `shards`, a fingerprint, and `sizes` of a view in bytes."""

    runner: ClassVar[str] = "caching.run_projections"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob(OfTeacher, Job):
    """Cache a teacher's outputs for view `view`, with features or logits alone."""

    runner: ClassVar[str] = "caching.run_shard"
    view: int
    features: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob(Job):
    """Train one student in `folder`, resuming from a checkpoint found there.

    `views` are the views in the order of the epochs, `horizon` the epochs that are planned, and
    `until` the last that is trained (0: all); its checkpoint is kept, for a job that goes on.
    With `confirm`, a purpose in words, the student is tested at the end: the seal at `seal`
    records the purpose, and the student and its test logits are kept.
    Result: `test`, its scores, or None.
    """

    runner: ClassVar[str] = "training.run_train"
    recipe: Recipe
    seed: int
    horizon: int
    views: list[int]
    folder: str
    until: int = 0
    confirm: str = ""
    seal: str = ""

    @property
    def run(self) -> RunLayout:
        return RunLayout(Path(self.folder))

    @property
    def end(self) -> int:
        """The last epoch that is trained."""
        return self.until or self.horizon


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTestJob(OfTeacher, Job):
    """Test a teacher once; its logits are kept in `folder`."""

    runner: ClassVar[str] = "measuring.run_teacher_test"
    folder: str
    seal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CostJob(Job):
    """Measure parameters, MACs, bytes and latency of teachers and students. Result: `costs`."""

    runner: ClassVar[str] = "measuring.run_cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentsJob(Job):
    """Measure the parameters and, if limited, the latency of each student. Result: `sizes`."""

    runner: ClassVar[str] = "measuring.run_students"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyJob(OfTeacher, Job):
    """Compare random rows of a teacher's shard `view` with its output.

    Result: the largest `difference`, the `rows` that were compared, and the `errors` of their
    cached logits (see `kd.training.cached_logits`).
    """

    runner: ClassVar[str] = "caching.run_verify"
    view: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob(Job):
    """Write the student whose file is `weights` to `folder`, also as ONNX if `onnx`, and check it.

    `accuracy` is what the run that trained it scored on the validation split, 0-1; `student` the
    model that its recipe names, if it does. Result: `images` that were compared, and
    `onnx_differences`, the largest of logits by batch size.
    """

    runner: ClassVar[str] = "exporting.run_export"
    weights: str
    folder: str
    accuracy: float
    onnx: bool
    student: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineJob(Job):
    """Describe a worker's device. Result: `device`, `accelerators`, `weights`.

    Each accelerator has its name, memory in bytes, capability and whether it computes in bfloat16;
    `memory_share`, 0-1, is how much of its device's memory the worker may allocate; `weights` are
    the models whose ImageNet weights are in `weights_folder`.
    """

    runner: ClassVar[str] = "examining.run_machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamineJob(Job):
    """Test a `part` of training: views, losses or checkpoint. Result: a `description`."""

    runner: ClassVar[str] = "examining.run_examine"
    part: str
    folder: str


JOBS = kinds_in(globals(), Job)


def job_from_wire(wire: Any) -> Job:
    """Return the job that `to_wire` wrote. Raises ProtocolError if it is not a job."""
    job: Job = from_wire(wire, JOBS)
    return job
