"""Loads splits, networks and teacher outputs for the other runners."""

import torch

from kd.data.inputs import Examples, read_inputs
from kd.errors import ArtifactError
from kd.models.build import Network, build
from kd.models.network import load_state
from kd.models.numerics import place
from kd.protocol import Protocol
from kd.seeds import derive_seed
from kd.training.teacher import LiveTeacher, TeacherSource
from storage.files import shards
from storage.files.artifacts import read_manifest
from storage.files.datasets import open_part
from storage.files.layout import Layout
from storage.files.shards import CachedTeacher
from storage.files.tensors import map_tensors
from workers.jobs import TrainJob


def open_parts(layout: Layout, dataset: str, device: torch.device) -> tuple[Examples, Examples]:
    """Return the training and the validation split on `device`."""
    folder = layout.dataset(dataset)
    return open_part(folder, "train").to(device), open_part(folder, "validation").to(device)


def build_network(
    protocol: Protocol,
    layout: Layout,
    dataset: str,
    *,
    name: str,
    weights: str,
    seed: int,
    new_head: bool = True,
) -> Network:
    """Build a model for the classes and inputs of the data set."""
    info = read_manifest(layout.dataset(dataset), "dataset").info
    return build(
        name,
        classes=len(info["classes"]),
        inputs=read_inputs(info),
        stem=protocol.stem,
        weights=weights,
        new_head=new_head,
        seed=seed,
        files=layout.own,
    )


def untrained_teacher(protocol: Protocol, layout: Layout, dataset: str) -> Network:
    """Build the teacher as it is before fine-tuning. Without any, its head must fit the classes."""
    return build_network(
        protocol,
        layout,
        dataset,
        name=protocol.teacher,
        weights=protocol.teacher_weights,
        seed=initial_seed(protocol),
        new_head=protocol.teacher_epochs > 0,
    )


def initial_seed(protocol: Protocol) -> int:
    """Return the seed of the teacher's initialisation."""
    return derive_seed(protocol.seed, "teacher initialisation")


def untrained_student(
    protocol: Protocol, layout: Layout, dataset: str, seed: int, student: str = ""
) -> Network:
    """Build a student, by default the first, with random weights from the seed of a run."""
    return _student(protocol, layout, dataset, seed, student, "none")


def starting_student(
    protocol: Protocol, layout: Layout, dataset: str, seed: int, student: str = ""
) -> Network:
    """Build the student that a run with `seed` starts from, with the protocol's weights if any."""
    return _student(protocol, layout, dataset, seed, student, protocol.student_weights)


def _student(
    protocol: Protocol, layout: Layout, dataset: str, seed: int, student: str, weights: str
) -> Network:
    seed, name = derive_seed(seed, "initialisation"), student or protocol.student
    return build_network(protocol, layout, dataset, name=name, weights=weights, seed=seed)


def load_teacher(protocol: Protocol, layout: Layout, dataset: str, teacher: str) -> Network:
    """Load the fine-tuned teacher, frozen. Raises ArtifactError when its file is damaged."""
    network = build_network(
        protocol, layout, dataset, name=protocol.teacher, weights="none", seed=0
    )
    path = layout.teacher_weights(teacher)
    tensors, own = map_tensors(path), network.state_dict()
    other = [name for name in tensors if name in own and tensors[name].dtype != own[name].dtype]
    if other:
        raise ArtifactError(f"{path} does not fit {protocol.teacher}: {other[0]} of another dtype")
    load_state(network, tensors, str(path), protocol.teacher)
    return network.eval().requires_grad_(False)


def load_live_teacher(
    protocol: Protocol, layout: Layout, dataset: str, teacher: str, cache: str, device: torch.device
) -> LiveTeacher:
    """Load the teacher, and the projections that its cache `cache` began with, onto `device`."""
    projections, logits = shards.read_projections(layout.shards(cache))
    network = place(load_teacher(protocol, layout, dataset, teacher), device)
    moved = {tap: projection.to(device) for tap, projection in projections.items()}
    return LiveTeacher(network, moved, logits)


def teacher_source(job: TrainJob, device: torch.device) -> TeacherSource:
    """Return the cheapest source of teacher outputs for the job's recipe.

    A plain recipe needs only the cached logits of the validation split.
    """
    recipe = job.recipe
    cached = job.cache == "all" or (job.cache == "logits" and recipe.feature_kind == "none")
    if cached or not recipe.distils:
        return CachedTeacher(job.layout.shards(job.shards), device)
    return load_live_teacher(job.protocol, job.layout, job.dataset, job.teacher, job.shards, device)
