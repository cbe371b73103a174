"""Jobs before the search: the data set and the teacher."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import torch

from kd.data.inputs import Inputs, read_inputs
from kd.data.reading.files import NAMED
from kd.data.views import augment_digest
from kd.dataset_names import parse_own_dataset
from kd.errors import require
from kd.json_data import plain
from kd.losses.adapters import Adapters
from kd.models.numerics import check_device, place
from kd.names import parse_cache_logits, parse_model, parse_weights, refusing_deep
from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.evaluation import evaluate, predict
from kd.training.loop import Plan
from kd.training.state import TrainingState
from storage.files.artifacts import fingerprint, finish, is_finished, locked, read_manifest, sha256
from storage.files.datasets import find_listing, prepare, read_listing
from storage.files.layout import lock_of
from storage.files.tensors import write_tensors
from workers.device import DATA_SHARE, data_room, device_memory
from workers.events import Event, Progress, Result, ShouldStop
from workers.jobs import PrepareJob, TeacherJob, WeightsJob
from workers.machine import usable_cores
from workers.runners.loading import (
    initial_seed,
    open_parts,
    starting_student,
    untrained_teacher,
)
from workers.runners.training import checkpointed


def run_prepare(job: PrepareJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Prepare the data set (`storage.files.datasets`) and, as the first job, check the device."""
    check_device(device, job.protocol.precision, job.protocol.compile)
    listing = find_listing(job.layout, job.protocol)
    read_before = listing.exists()
    events: SimpleQueue[Event | None] = SimpleQueue()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(
            prepare,
            job.layout,
            job.protocol,
            progress=lambda done, total: events.put(Progress(done=done, total=total)),
            threads=usable_cores(),
            listing=listing,
        )
        future.add_done_callback(lambda _: events.put(None))
        yield from iter(events.get, None)
    manifest = future.result()
    _check_kind(job.protocol, read_inputs(manifest.info))
    parse_cache_logits(job.protocol.cache_logits, len(manifest.info["classes"]))
    told = read_listing(listing)
    unread = [told["passed_over"], _left_out(told["left_out"])]
    yield Result.of(
        dataset=manifest.folder.name,
        passed_over=[*filter(None, unread)],
        streamed=_streamed(manifest.info, device),
        origins=told["origins"],
        read_before=read_before and bool(parse_own_dataset(job.protocol.dataset)),
        **manifest.info,
    )


def _streamed(info: Mapping[str, Any], device: torch.device) -> str:
    """Return the words on a training split that exceeds its share of memory; empty if none."""
    inputs, room = read_inputs(info), data_room(device)
    size = sum(info["counts"]["train"]) * math.prod(inputs.shape) * inputs.dtype.itemsize
    if size <= room:
        return ""
    where, whose = ("memory", "") if device.type == "cpu" else (f"{device}'s memory", " a worker")
    return (
        f"the training split has {size / 1e9:,.2f} GB, more than {DATA_SHARE:.0%} of {where} "
        f"({device_memory(device) / 1e9:,.1f} GB{whose}): it is read from disk batch by batch"
    )


def _left_out(names: Sequence[str]) -> str:
    """Return the words on images that could not be read; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" * (len(names) > NAMED)
    images = f"{len(names)} image{'s' * (len(names) > 1)}"
    return f"left out {images} that cannot be read: {', '.join(names[:NAMED])}{more}"


def _check_kind(protocol: Protocol, inputs: Inputs) -> None:
    """Raise ProtocolError for augmentations and models that do not take these inputs."""
    augment = protocol.augment
    if inputs.are_images:
        refused = [] if inputs.kept == "uint8" else refusing_deep(augment)
        rule = f"augment must leave out {', '.join(refused)}, which takes 8 bits, for {inputs}"
        require(rule, not refused, augment)
        return
    require(f"augment must be none for {inputs}, which are no images", augment == "none", augment)
    for name in protocol.models:
        own = bool(parse_model(name).digest)
        require(f"a model of {inputs} must be one of your own, as in nets.py:small", own, name)


def run_weights(job: WeightsJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Load the weights that teachers and students start from, which may not fit, once.

    A teacher that has been trained is not loaded again.
    """
    protocol, lines = job.protocol, list[str]()
    for number, role in enumerate(protocol.teacher_roles):
        alone = job.with_teacher(number)
        identity = teacher_identity(Tuning.of(alone.protocol), job.dataset)
        trained = is_finished(job.layout.teacher(fingerprint(identity)))
        if alone.protocol.teacher_start != "none" and not trained:
            lines.append(f"{role} weights: {untrained_teacher(alone).loaded}")
    if protocol.student_weights != "none":
        for name in protocol.students:
            lines.append(f"student weights: {starting_student(job, 0, name).loaded}")
    yield Result.of(lines=lines)


def run_teacher(job: TeacherJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Fine-tune a teacher on the training split, unless it is in the cache."""
    job = job.alone
    tuning = Tuning.of(job.protocol)
    identity = teacher_identity(tuning, job.dataset)
    folder = job.layout.teacher(fingerprint(identity))
    with locked(lock_of(folder), wait=True):
        found = is_finished(folder)
        if not found:
            yield from _fine_tune(job, folder, tuning, identity, device, stopped)
        if stopped():
            return
        manifest = read_manifest(folder, "teacher", identity)
        manifest.verify()
    yield Result.of(teacher=folder.name, found=found, **manifest.info)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Everything but the data set that a teacher's weights depend on.

    `weights` are none, pretrained or the SHA-256 of a file; `seed` is for the initialisation.
    """

    model: str
    stem: str
    weights: str
    seed: int
    recipe: Recipe
    plan: Plan
    augmented: str  # digest of what the augmentation does
    threads: int
    optimizer: str = "sgd"
    size: int = 0  # side in pixels of its images (0: as they are stored)

    @classmethod
    def of(cls, protocol: Protocol) -> Self:
        file = parse_weights(protocol.teacher_start)
        size = protocol.teacher_size or protocol.image_size
        return cls(
            model=protocol.teacher,
            stem=protocol.stem,
            weights=sha256(Path(file.path)) if file else protocol.teacher_start,
            seed=initial_seed(protocol),
            recipe=Recipe(lr=protocol.teacher_lr, weight_decay=protocol.teacher_weight_decay),
            plan=Plan.of(
                protocol,
                epochs=protocol.teacher_epochs,
                view_seed=derive_seed(protocol.seed, "teacher views"),
                views=range(protocol.teacher_epochs),
                seed=derive_seed(protocol.seed, "teacher"),
                metric="accuracy",
            ),
            augmented=augment_digest(protocol.augment, protocol.stored_size),
            threads=protocol.threads,
            optimizer=protocol.teacher_optimizer,
            size=size if size < protocol.stored_size else 0,
        )


def teacher_identity(tuning: Tuning, dataset: str) -> dict[str, Any]:
    """Return the identity of a teacher, from which its fingerprint is computed."""
    return {"dataset": dataset, **plain(tuning, defaults=False)}


def _fine_tune(
    job: TeacherJob,
    folder: Path,
    tuning: Tuning,
    identity: dict[str, Any],
    device: torch.device,
    stopped: ShouldStop,
) -> Iterator[Event]:
    protocol = job.protocol
    data, validation = open_parts(job, device)
    network = place(untrained_teacher(job), device)
    recipe, plan = tuning.recipe, tuning.plan
    state = TrainingState.start(network, Adapters({}, {}, seed=0), recipe, tuning.optimizer)
    run = job.layout.teacher_training(folder.name)
    yield from checkpointed(state, recipe, plan, data, validation, None, run, identity, stopped)
    if stopped():
        return
    write_tensors(job.layout.teacher_weights(folder.name), network.state_dict())
    validated = evaluate(predict(network, validation), validation.labels.cpu())
    info = {key: validated[key] for key in ("accuracy", "nll", "ece")}
    info["seconds"] = sum(metrics.seconds for metrics in state.history)
    finish(folder, "teacher", identity, {**info, "epochs": plan.epochs, "model": protocol.teacher})
    shutil.rmtree(run.folder, ignore_errors=True)
