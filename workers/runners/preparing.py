"""Jobs that come before the search: data, models of the user's own, and teacher."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from kd.data.splits import passed_over
from kd.data.views import Augmentation
from kd.losses.adapters import Adapters
from kd.models.numerics import check_device, place
from kd.models.own import try_out
from kd.names import parse_model
from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.evaluation import predict, scores
from kd.training.loop import Plan, TrainingState
from storage.files.artifacts import fingerprint, finish, is_finished, locked, read_manifest, sha256
from storage.files.datasets import prepare
from storage.files.layout import RunLayout
from storage.files.tensors import write_tensors
from workers.events import Event, Stopped, progress_event, result_event
from workers.jobs import ModelsJob, PrepareJob, TeacherJob
from workers.runners.loading import open_parts, untrained_teacher
from workers.runners.training import checkpointed
from workers.runners.trying import Tryout


def run_prepare(job: PrepareJob, device: torch.device, stopped: Stopped) -> Iterator[Event]:
    """Prepare the data set (`storage.files.datasets`) and, as the first job, check the device."""
    check_device(device, job.protocol.precision, job.protocol.compile)
    events: SimpleQueue[Event | None] = SimpleQueue()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(
            prepare,
            job.layout,
            job.protocol,
            Path(job.data_dir),
            progress=lambda done, total: events.put(progress_event(done, total)),
        )
        future.add_done_callback(lambda _: events.put(None))
        yield from iter(events.get, None)
    manifest = future.result()
    unread = passed_over(job.protocol.dataset)
    yield result_event(dataset=manifest.folder.name, passed_over=unread, **manifest.info)


def run_models(job: ModelsJob, device: torch.device, stopped: Stopped) -> Iterator[Event]:
    """Try out the models of the user's own; see `kd.models.own` and `workers.runners.trying`."""
    protocol = job.protocol
    info = read_manifest(job.layout.dataset(job.dataset), "dataset").info
    for name in dict.fromkeys((protocol.teacher, *protocol.students)):
        if parse_model(name).digest:
            try_out(
                name,
                classes=len(info["classes"]),
                channels=info["channels"],
                image_size=protocol.image_size,
                taps=protocol.taps,
                files=job.layout.models,
            )
            students = name in protocol.students
            trains = students or protocol.teacher_epochs > 0
            Tryout(job, name, device).run(trains=trains, exports=students)
    yield result_event()


def run_teacher(job: TeacherJob, device: torch.device, stopped: Stopped) -> Iterator[Event]:
    """Fine-tune the teacher on the training split alone, unless it is found in the cache."""
    identity = teacher_identity(job.protocol, job.dataset)
    folder = job.layout.teacher(fingerprint(identity))
    with locked(folder.with_suffix(".lock"), wait=True):
        found = is_finished(folder)
        if not found:
            yield from _fine_tune(job, folder, identity, device, stopped)
        if stopped():
            return
        manifest = read_manifest(folder, "teacher", identity)
        manifest.verify()
    yield result_event(teacher=folder.name, found=found, **manifest.info)


def teacher_identity(protocol: Protocol, dataset: str) -> dict[str, Any]:
    """Say what a teacher's weights depend on."""
    weights = protocol.teacher_weights
    return {
        "dataset": dataset,
        "model": protocol.teacher,
        "stem": protocol.stem,
        "weights": sha256(Path(weights)) if weights.endswith(".safetensors") else weights,
        "epochs": protocol.teacher_epochs,
        "lr": protocol.teacher_lr,
        "weight_decay": protocol.teacher_weight_decay,
        "batch_size": protocol.batch_size,
        "warmup": protocol.warmup,
        "augmentation": [protocol.crop_padding, protocol.flip, protocol.cutout],
        "seed": protocol.seed,
        "threads": protocol.threads,
        "precision": protocol.precision,
        "compile": protocol.compile,
    }


def _fine_tune(
    job: TeacherJob, folder: Path, identity: dict[str, Any], device: torch.device, stopped: Stopped
) -> Iterator[Event]:
    protocol = job.protocol
    data, validation = open_parts(job.layout, job.dataset, device)
    network = place(untrained_teacher(protocol, job.layout, job.dataset), device)
    recipe = Recipe(lr=protocol.teacher_lr, weight_decay=protocol.teacher_weight_decay)
    plan = Plan(
        epochs=protocol.teacher_epochs,
        batch_size=protocol.batch_size,
        warmup=protocol.warmup,
        augmentation=Augmentation.of(protocol),
        view_seed=derive_seed(protocol.seed, "teacher views"),
        views=range(protocol.teacher_epochs),
        seed=derive_seed(protocol.seed, "teacher"),
        precision=protocol.precision,
        compile=protocol.compile,
    )
    state = TrainingState.start(network, Adapters({}, {}, seed=0), recipe)
    run = RunLayout(folder.with_suffix(".training"))
    epochs = checkpointed(state, recipe, plan, data, validation, None, run, identity, stopped)
    yield from epochs
    if stopped():
        return
    write_tensors(folder / "weights.safetensors", network.state_dict())
    found = scores(predict(network, validation), validation.labels.cpu())
    info = {key: found[key] for key in ("accuracy", "nll", "ece")}
    info["seconds"] = sum(metrics.seconds for metrics in state.history)
    finish(folder, "teacher", identity, {**info, "epochs": plan.epochs, "model": protocol.teacher})
    shutil.rmtree(run.folder, ignore_errors=True)
