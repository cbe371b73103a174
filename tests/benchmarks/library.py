"""The same distillation by torchdistill, a library for it, in the way of that library's examples.

The recipe is one that both can express: cross-entropy and KL at a constant temperature and weight.
Student, images, batch size, SGD and the schedule of its learning rate are the same; batch order and
crops are drawn by each in its own way. torchdistill asks the teacher for every batch and takes
images from a DataLoader over PIL images; Retort reads its cache. Both have one thread and no other
process.
"""

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torchdistill.losses.mid_level  # noqa: F401 - registers the losses
from torch import nn
from torch.utils.data import RandomSampler
from torchdistill.common.constant import def_logger
from torchdistill.core.distillation import DistillationBox

from kd.data.examples import Examples
from kd.losses.adapters import Adapters
from kd.models.numerics import place
from kd.optimizers.sgd import MOMENTUM
from kd.recipe import Recipe, Schedule
from kd.schedules import warmup_cosine
from kd.training.evaluation import accuracy, predict
from kd.training.loop import Plan, train
from kd.training.state import TrainingState
from storage.files.shards import CachedTeacher
from tests.benchmarks.harness import Figure, ratio, spread
from tests.benchmarks.pictures import Pictures
from tests.benchmarks.recording import record
from tests.benchmarks.training import CPU, LARGE, SMALL, Bench, Pair, default_pair, shrunk
from workers.jobs import TrainJob
from workers.runners.caching import view_seed
from workers.runners.loading import load_teacher, open_parts, untrained_student

TEMPERATURE = 4.0
ALPHA = 0.9
RECIPE = Recipe(
    soft_kind="kl",
    temperature=Schedule(shape="constant", initial=TEMPERATURE, final=TEMPERATURE),
    alpha=Schedule(shape="constant", initial=ALPHA, final=ALPHA),
)
SEEDS = 8


def figures(quick: bool) -> Iterator[Figure]:
    """Compare epochs of three pairs, then whole runs on `digits`: their time, what they reach."""
    torch.set_num_threads(1)
    def_logger.setLevel(logging.WARNING)
    pairs = {
        "the default pair": (default_pair(), 15),
        "resnet20 to resnet20, 32x32": (SMALL, 7),
        "ResNet50 to ResNet18, ImageNet stem, 32x32": (LARGE, 5),
    }
    for name, (pair, rounds) in pairs.items():
        with TemporaryDirectory() as folder:
            yield _epochs(
                name, shrunk(pair) if quick else pair, Path(folder), 1 if quick else rounds
            )
    with TemporaryDirectory() as folder:
        yield from _runs(Path(folder), 1 if quick else SEEDS, 2 if quick else None)


def _epochs(name: str, pair: Pair, folder: Path, rounds: int) -> Figure:
    bench = Bench(pair, folder)
    box = _box(
        bench.live.network.body,
        bench.network(pair.student).body,
        bench.data,
        pair.augment,
        batch_size=pair.batch,
        total=100_000,
        warmup=0.1,
    )
    return ratio(
        f"an epoch by torchdistill / by Retort, {name}",
        partial(_train_epoch, box),
        bench.epoch(RECIPE, bench.cached),
        rounds=rounds,
        note=bench.shape,
    )


def _runs(root: Path, seeds: int, epochs: int | None) -> Iterator[Figure]:
    """Train students of the default study by both, from the same weights, one seed a round."""
    more = () if epochs is None else ("--epochs", str(epochs), "--teacher-epochs", str(epochs))
    study = record(root, "--trials", "1", "--name", "library", *more, search_only=True)
    job = next(span.job for span in study.trials)
    assert isinstance(job, TrainJob)
    torch.set_num_threads(1)
    runs = {"torchdistill": _by_library, "Retort": _by_retort}
    times: dict[str, list[float]] = {name: [] for name in runs}
    reached: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(seeds):
        for name in list(runs)[:: -1 if seed % 2 else 1]:
            started = time.perf_counter()
            reached[name].append(100 * runs[name](job, seed))
            times[name].append(time.perf_counter() - started)
    ratios = [theirs / ours for theirs, ours in zip(*times.values(), strict=True)]
    what = "a run by torchdistill / by Retort, digits, the cache filled"
    yield spread(what, ratios, note=f"{job.protocol.student}, {job.horizon} epochs, validated each")
    for name, values in reached.items():
        note = f"mean {mean(values):.1f} % of {len(values)} seeds"
        yield spread(f"validation accuracy of that run, {name}", values, unit="%", note=note)


def _by_retort(job: TrainJob, seed: int) -> float:
    """Train one student from the cache; return its accuracy after the last epoch."""
    protocol = job.protocol
    network = place(untrained_student(job, seed), CPU)
    data, validation = open_parts(job, CPU)
    state = TrainingState.start(network, Adapters({}, {}, seed=0), RECIPE)
    plan = Plan(
        epochs=job.horizon,
        batch_size=protocol.batch_size,
        warmup=protocol.warmup,
        augment=protocol.augment,
        view_seed=view_seed(protocol),
        views=job.views,
        seed=seed,
    )
    source = CachedTeacher(job.layout.shards(job.shards[0]), CPU)
    return list(train(state, RECIPE, plan, data, validation, source))[-1].accuracy


def _by_library(job: TrainJob, seed: int) -> float:
    """Train one student with the teacher at hand; return its accuracy after the last epoch."""
    torch.manual_seed(seed)  # of crops and of the order of batches
    protocol = job.protocol
    student = untrained_student(job, seed)
    data, validation = open_parts(job, CPU)
    box = _box(
        place(load_teacher(job), CPU).body,
        student.body,
        data,
        protocol.augment,
        batch_size=protocol.batch_size,
        total=job.horizon * (len(data) // protocol.batch_size),
        warmup=protocol.warmup,
    )
    reached = 0.0
    for _ in range(job.horizon):
        _train_epoch(box)
        reached = accuracy(predict(student, validation), validation.labels)
    return reached


def _box(
    teacher: nn.Module,
    student: nn.Module,
    data: Examples,
    augment: str,
    *,
    batch_size: int,
    total: int,
    warmup: float,
) -> DistillationBox:
    """Return what torchdistill trains with; `total` are the steps that the schedule is made for.

    Both models are bodies of networks, since `Pictures` are normalised.
    """
    logits = {"module_path": ".", "module_io": "output"}
    ends = {f"{side}_{key}": logits[key] for side in ("student", "teacher") for key in logits}
    # Its weights are those of cross-entropy and of KL, which it multiplies by T².
    terms = {
        "temperature": TEMPERATURE,
        "alpha": 1 - ALPHA,
        "beta": ALPHA,
        "reduction": "batchmean",
    }
    kd = {"criterion": {"key": "KDLoss", "kwargs": ends | terms}, "weight": 1.0}
    settings = {
        "lr": RECIPE.lr,
        "momentum": MOMENTUM,
        "nesterov": True,
        "weight_decay": RECIPE.weight_decay,
    }
    config: dict[str, Any] = {
        "num_epochs": 1,  # told, and not used: whoever holds the box counts epochs
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": batch_size, "drop_last": True},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": kd}}},
        "optimizer": {"key": "SGD", "kwargs": settings},
        "scheduler": {
            "key": "LambdaLR",
            "kwargs": {"lr_lambda": lambda step: warmup_cosine(min(step / total, 1.0), warmup)},
            "scheduling_step": 1,
        },
    }
    parts = {"train": Pictures(data, augment)}
    return DistillationBox(teacher.eval(), student, parts, config, CPU, None, False, 1)


def _train_epoch(box: DistillationBox) -> None:
    """Train one epoch as the examples of the library do, without what they print."""
    box.pre_epoch_process()
    for images, labels, extra in box.train_data_loader:
        loss = box.forward_process(images, targets=labels, supp_dict=extra)
        box.post_forward_process(loss=loss)
    box.post_epoch_process()
