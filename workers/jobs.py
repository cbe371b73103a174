"""Jobs: what a worker can be asked to do, as frozen records that travel as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.errors import ArtifactError
from kd.protocol import Protocol
from kd.recipe import Recipe
from storage.files.layout import Layout
from storage.files.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Record):
    """What every job needs: the protocol, and the folder that `--root` names."""

    protocol: Protocol
    root: str

    @property
    def layout(self) -> Layout:
        return Layout(Path(self.root))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareJob(Job):
    """Turn the data set into tensor files. Result: `dataset`, its fingerprint."""

    data_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsJob(Job):
    """Try the kernels of this study's convolutions, where that has not been done.

    Result: `limit`, the instruction set that workers of this processor are limited to, `reason`,
    and `used`, both with the version in words; all empty on an accelerator.
    """

    dataset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsJob(Job):
    """Try out the models of the user's own, before anything is trained with them."""

    dataset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherJob(Job):
    """Fine-tune the teacher, or find it. Result: `teacher`, its fingerprint, and `accuracy`."""

    dataset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionJob(Job):
    """Begin the teacher cache. Result: `shards`, its fingerprint, and a view's `sizes` in bytes."""

    dataset: str
    teacher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob(Job):
    """Cache what the teacher says of view `view`, with features or logits alone."""

    dataset: str
    teacher: str
    shards: str
    view: int
    features: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob(Job):
    """Train one student in `folder`, resuming from a checkpoint found there.

    `views` are the views in the order of the epochs, `horizon` the epochs planned and trained.
    With `confirm`, a purpose in words, the seal is broken for it at the end: the student and its
    logits of the test split are kept. Events: `epoch`; result: `seconds` and `test`.
    """

    dataset: str
    teacher: str
    shards: str
    cache: str
    recipe: Recipe
    seed: int
    horizon: int
    views: list[int]
    folder: str
    confirm: str = ""
    seal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTestJob(Job):
    """Test the teacher once, for the comparison; its logits are kept in `folder`."""

    dataset: str
    teacher: str
    folder: str
    seal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CostJob(Job):
    """Measure parameters, MACs, bytes and latency of teacher and students. Result: `costs`."""

    dataset: str
    teacher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentsJob(Job):
    """Measure what the budget of the protocol asks of each student. Result: `sizes`."""

    dataset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyJob(Job):
    """Ask the teacher anew about random rows of shard `view`. Result: `difference`, the largest."""

    dataset: str
    teacher: str
    shards: str
    view: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob(Job):
    """Write the student whose file is `weights` to `folder`, also as ONNX if `onnx`, and check it.

    `accuracy` is what the run that trained it scored on the validation split, 0-1; `student` the
    model that its recipe names, if it does. Result: `images` that were compared, and
    `onnx_differences`, the largest of logits by batch size.
    """

    dataset: str
    weights: str
    folder: str
    accuracy: float
    onnx: bool
    student: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineJob(Job):
    """Say what a worker computes with. Result: `device`, `accelerators`, and torchvision's weights.

    Each accelerator has its name, memory in bytes, capability and whether it computes in bfloat16;
    `memory_share`, 0-1, is how much of its device's memory the worker may allocate; `weights` are
    the models whose ImageNet weights are in `weights_folder`.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamineJob(Job):
    """Try `part` of what training takes: views, losses or checkpoint. Result: what was `said`."""

    dataset: str
    part: str
    folder: str


def to_wire(job: Job) -> dict[str, Any]:
    return {"kind": type(job).__name__, **job.to_json()}


def from_wire(given: dict[str, Any]) -> Job:
    """Raises ArtifactError for what is not a job."""
    values = dict(given)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in JOBS:
        raise ArtifactError(f"not a job: {kind!r}")
    return JOBS[kind].from_json(values)


JOBS: dict[str, type[Job]] = {
    kind.__name__: kind
    for kind in (
        PrepareJob,
        KernelsJob,
        ModelsJob,
        TeacherJob,
        ProjectionJob,
        ShardJob,
        TrainJob,
        TeacherTestJob,
        CostJob,
        StudentsJob,
        VerifyJob,
        ExportJob,
        MachineJob,
        ExamineJob,
    )
}
