"""Jobs that fill and verify the teacher cache."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kd.data.examples import Examples
from kd.data.inputs import Inputs
from kd.data.views import augment_digest
from kd.json_data import plain
from kd.models.build import Network
from kd.models.numerics import place
from kd.names import parse_model
from kd.protocol import Protocol
from kd.seeds import derive_seed
from kd.training.cached_logits import HALF_STEP, columns, distance, errors
from kd.training.evaluation import predict
from kd.training.teacher import LiveTeacher, Projection, TeacherReading, fit_projections
from storage.files import shards
from storage.files.artifacts import fingerprint, is_finished, locked, read_manifest, sweep
from storage.files.layout import lock_of, view_folder
from storage.files.shard_folders import cached_taps, verify_shard
from workers.events import Event, Progress, Result, ShouldStop
from workers.jobs import ProjectionJob, ShardJob, VerifyJob
from workers.runners.loading import load_live_teacher, load_teacher, open_parts, received_inputs
from workers.runners.tap_names import teacher_modules

CHUNK = 256  # images that the teacher reads at once; bits depend on it, so `format` changes with it
CHUNK_PIXELS = CHUNK * 64 * 64  # larger images come in smaller chunks on a CPU, for memory
LEAST_CHUNK = 16


def run_projections(
    job: ProjectionJob, device: torch.device, stopped: ShouldStop
) -> Iterator[Event]:
    """Fit a teacher's projections and begin its cache, unless that has been done."""
    job = job.alone
    protocol, layout = job.protocol, job.layout
    weights = layout.teacher_weights(job.teachers[0])
    checksum = read_manifest(weights.parent, "teacher").files[weights.name]
    inputs = received_inputs(job, protocol.teacher, teacher=True)
    identity = shards_identity(protocol, job.dataset, checksum, teacher_modules(job), inputs)
    folder = layout.shards(fingerprint(identity))
    with locked(lock_of(folder), wait=True):
        if not is_finished(folder):
            data, validation = open_parts(job, device)
            teacher = place(load_teacher(job), device)
            projections = fit_projections(teacher, data, job.taps)
            logits = predict(teacher, validation)
            sizes = _sizes(teacher, data, projections, protocol.cache_logits)
            shards.begin(folder, identity, projections, logits, sizes, protocol.cache_logits)
        manifest = read_manifest(folder, "shards", identity)
        manifest.verify()
    yield Result.of(shards=folder.name, sizes=manifest.info["sizes"])


def view_seed(protocol: Protocol) -> int:
    """Return the seed of a study's views."""
    return derive_seed(protocol.seed, "views")


def shards_identity(
    protocol: Protocol, dataset: str, weights: str, taps: Sequence[Any], inputs: Inputs
) -> dict[str, Any]:
    """Return everything that a shard depends on except its view number.

    `dataset` is the fingerprint of the data set, `weights` the SHA-256 of the teacher's weights,
    `taps` the modules of the teacher that are read (see `workers.runners.tap_names`), `inputs` what
    it receives: equal weights read images of another size or normalisation differently. So may the
    code of a model of the user's own, of which the name has a digest.
    """
    return {
        "format": 2,
        "teacher": weights,
        "code": parse_model(protocol.teacher).digest,
        "dataset": dataset,
        "inputs": plain(inputs),
        "view_seed": view_seed(protocol),
        "augment": protocol.augment,
        "augmented": augment_digest(protocol.augment, protocol.stored_size),
        "taps": list(taps),
        "dtypes": [protocol.cache_logits, "float16"],
        "threads": protocol.threads,
        "torch": torch.__version__,
    }


def _sizes(
    teacher: Network, data: Examples, projections: dict[str, Projection], cache_logits: str
) -> dict[str, int]:
    """Return the bytes of one view's `logits` and `features`, from the reading of one image."""
    live = LiveTeacher(teacher, projections, torch.empty(0))
    reading = live.read(0, torch.zeros(1, dtype=torch.long), data.first(1).values, [*projections])
    numbers = sum(tap.features.numel() + tap.attention.numel() for tap in reading.taps.values())
    kept = columns(cache_logits, reading.logits.shape[1]).values()
    row = sum(dtype.itemsize * count for dtype, count in kept)
    return {"logits": row * len(data), "features": 2 * numbers * len(data)}


def run_shard(job: ShardJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Cache the teacher's readings of one view; a lock lets only one worker make it."""
    started, job = time.perf_counter(), job.alone
    folder = job.layout.shards(job.shards[0])
    target = view_folder(folder, job.view)
    missing = not is_finished(target)
    with locked(lock_of(target), wait=True):
        sweep(target / shards.READING)
        if not (missing and is_finished(target)):  # otherwise another worker has just made it
            if stopped():
                return
            data, _ = open_parts(job, device)
            live = load_live_teacher(job, device)
            order = torch.arange(len(data)).split(chunk_size(live.network.inputs, device))
            taps = job.taps if job.features else ()
            chunks = _readings(live, job, data, order, taps)
            kept = job.protocol.cache_logits
            writing = shards.write_shard(folder, job.view, len(data), chunks, kept)
            for done in writing:
                if stopped():
                    writing.close()
                    return
                yield Progress(done=done, total=len(data))
    yield Result.of(seconds=time.perf_counter() - started)


def chunk_size(inputs: Inputs, device: torch.device) -> int:
    """Return how many images the teacher reads at once."""
    if device.type != "cpu":
        return CHUNK
    return min(CHUNK, max(LEAST_CHUNK, CHUNK_PIXELS // inputs.places))


def _readings(
    live: LiveTeacher,
    job: ShardJob | VerifyJob,
    data: Examples,
    order: Sequence[torch.Tensor],
    taps: Sequence[str],
) -> Iterator[TeacherReading]:
    """Yield the teacher's readings of each index of the job's view."""
    view = data.view(view_seed(job.protocol), job.view, job.protocol.augment)
    for index, (images, _) in zip(order, data.batches(order, view), strict=True):
        yield live.read(job.view, index, images, taps)


def run_verify(job: VerifyJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Compare random rows of a shard with its teacher's present output."""
    job = job.alone
    data, _ = open_parts(job, device)
    live = load_live_teacher(job, device)
    generator = torch.Generator().manual_seed(derive_seed(job.protocol.seed, "verify", job.view))
    index = torch.randperm(len(data), generator=generator)[: job.rows].sort().values
    folder = job.layout.shards(job.shards[0])
    verify_shard(folder, job.view)
    taps = cached_taps(folder, job.view)
    cached = shards.CachedTeacher(folder, device, job.protocol.cache_logits)
    kept = cached.read(job.view, index, torch.empty(0), taps)
    [fresh] = _readings(live, job, data, [index], taps)
    gaps = [distance(fresh.logits, cached.kept_logits(job.view, index))]
    for tap in taps:
        gaps.append(_gap(fresh.taps[tap].features, kept.taps[tap].features))
        gaps.append(_gap(fresh.taps[tap].attention, kept.taps[tap].attention))
    yield Result.of(
        difference=float(torch.stack(gaps).max()),
        rows=len(index),
        errors=errors(fresh.logits, kept.logits),
    )


def _gap(fresh: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return how far values are at most from kept ones, a scalar; both were rounded to float16.

    Neighbours in float16 count as equal: values that differ in their last bits may be rounded to
    either, and above 2 neighbours are farther apart than rounding moves a logit.
    """
    return ((fresh - kept).abs() - 2 * HALF_STEP * kept.abs()).clamp(min=0).max()
