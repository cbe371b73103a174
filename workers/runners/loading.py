"""Loads splits, networks and teacher outputs for the other runners."""

from typing import Any

import torch

from kd.data.examples import Examples
from kd.data.inputs import Inputs, read_inputs
from kd.errors import ArtifactError
from kd.models.build import Network, build
from kd.models.network import load_state
from kd.models.numerics import place
from kd.models.pixels import received
from kd.names import parse_model
from kd.protocol import Protocol
from kd.seeds import derive_seed
from kd.training.several_teachers import AveragedTeacher
from kd.training.teacher import LiveTeacher, TeacherSource
from storage.files import shards
from storage.files.artifacts import read_manifest
from storage.files.datasets import open_part
from storage.files.shards import CachedTeacher
from storage.files.tensors import map_tensors
from workers.device import data_room
from workers.jobs import JobContext, TrainJob


def dataset_info(job: JobContext) -> dict[str, Any]:
    """Return what the manifest of the job's data set has (see `storage.files.datasets.prepare`)."""
    return read_manifest(job.layout.dataset(job.dataset), "dataset").info


def open_parts(job: JobContext, device: torch.device) -> tuple[Examples, Examples]:
    """Return the training and the validation split for `device`; see `placed`."""
    folder = job.layout.dataset(job.dataset)
    train, validation = open_part(folder, "train"), open_part(folder, "validation")
    return placed(train, device), placed(validation, device)


def placed(split: Examples, device: torch.device) -> Examples:
    """Return a split for a device: in its memory, or streamed if it needs too large a share."""
    return split.to(device, data_room(device))


def received_inputs(job: JobContext, name: str, *, teacher: bool = False) -> Inputs:
    """Return the description of what a model receives, as the study's teacher or as a student."""
    protocol = job.protocol
    starts = protocol.teacher_start if teacher else protocol.student_weights
    size = (protocol.teacher_size if teacher else 0) or protocol.image_size
    stored, pretrained = read_inputs(dataset_info(job)), starts == "pretrained"
    return received(parse_model(name), stored, size, pretrained=pretrained)


def build_network(
    job: JobContext,
    name: str,
    *,
    teacher: bool = False,
    weights: str = "none",
    seed: int = 0,
    new_head: bool = True,
) -> Network:
    """Build a model as the study uses it, as its teacher or as a student."""
    protocol = job.protocol
    return build(
        name,
        classes=len(dataset_info(job)["classes"]),
        inputs=received_inputs(job, name, teacher=teacher),
        stem=protocol.stem,
        weights=weights,
        new_head=new_head,
        seed=seed,
        taps=protocol.teacher_paths if teacher else protocol.student_paths,
        files=job.layout.own,
    )


def untrained_teacher(job: JobContext) -> Network:
    """Build the first teacher as it is before fine-tuning.

    Without any, its head must fit the classes.
    """
    protocol = job.protocol
    return build_network(
        job,
        protocol.teacher,
        teacher=True,
        weights=protocol.teacher_start,
        seed=initial_seed(protocol),
        new_head=protocol.teacher_epochs > 0,
    )


def initial_seed(protocol: Protocol) -> int:
    """Return the seed of a teacher's initialisation."""
    return derive_seed(protocol.seed, "teacher initialisation")


def untrained_student(job: JobContext, seed: int, student: str = "") -> Network:
    """Build a student, by default the first, with random weights from the seed of a run."""
    name = student or job.protocol.student
    return build_network(job, name, seed=derive_seed(seed, "initialisation"))


def starting_student(job: JobContext, seed: int, student: str = "") -> Network:
    """Build the student that a run with `seed` starts from, with the protocol's weights if any."""
    name, weights = student or job.protocol.student, job.protocol.student_weights
    return build_network(job, name, weights=weights, seed=derive_seed(seed, "initialisation"))


def load_teacher(job: JobContext) -> Network:
    """Load the fine-tuned first teacher, frozen.

    Raises ArtifactError when its file is damaged.
    """
    name, path = job.protocol.teacher, job.layout.teacher_weights(job.teachers[0])
    network = build_network(job, name, teacher=True)
    tensors, own = map_tensors(path), network.state_dict()
    other = [key for key in tensors if key in own and tensors[key].dtype != own[key].dtype]
    if other:
        raise ArtifactError(f"{path} does not fit {name}: {other[0]} of another dtype")
    load_state(network, tensors, str(path), name)
    return network.eval().requires_grad_(False)


def load_live_teacher(
    job: JobContext, device: torch.device, cache_logits: str = "float32"
) -> LiveTeacher:
    """Load the first teacher, and the projections that its cache began with, onto `device`.

    Its logits are exact, as a shard is made of, or as `cache_logits` keeps them.
    """
    projections, logits = shards.read_projections(job.layout.shards(job.shards[0]))
    moved = {tap: projection.to(device) for tap, projection in projections.items()}
    return LiveTeacher(place(load_teacher(job), device), moved, logits, cache_logits)


def teacher_source(job: TrainJob, device: torch.device) -> TeacherSource:
    """Return the cheapest source of teacher outputs for the job's recipe.

    A plain recipe needs only the cached logits of the validation split. Teachers without a share
    are not loaded.
    """
    count = len(job.protocol.teachers)
    shares = {place: share for place, share in enumerate(job.recipe.shares(count)) if share}
    sources = [_one_source(job.with_teacher(place), device) for place in shares]
    return AveragedTeacher(sources, [*shares.values()]) if len(sources) > 1 else sources[0]


def _one_source(job: TrainJob, device: torch.device) -> TeacherSource:
    """Return the source of the first teacher."""
    recipe, kept = job.recipe, job.protocol.cache_logits
    cached = job.cache == "all" or (job.cache == "logits" and not recipe.reads_taps)
    if cached or not recipe.distils:
        return CachedTeacher(job.layout.shards(job.shards[0]), device, kept)
    return load_live_teacher(job, device, kept)
