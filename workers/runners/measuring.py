"""Jobs that test the teacher, and measure the size and latency of teacher and students."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from kd.models import cost
from kd.models.build import Network
from kd.models.latency import Latency
from kd.models.numerics import place
from kd.seeds import derive_seed
from kd.training.evaluation import evaluate, predict
from storage.files.artifacts import write_json
from storage.files.datasets import open_part, open_test
from storage.files.layout import RunLayout
from storage.files.records import Cost, Costs, StudentSize, StudentSizes
from storage.files.tensors import write_tensors
from workers.events import Event, Result, ShouldStop
from workers.jobs import CostJob, JobContext, StudentsJob, TeacherTestJob
from workers.runners.loading import load_teacher, placed, untrained_student

BATCH_SIZES = (1, 256)
REPEATS = 40


def run_teacher_test(
    job: TeacherTestJob, device: torch.device, stopped: ShouldStop
) -> Iterator[Event]:
    """Test a teacher; `result.json` is written last."""
    alone = job.alone
    teacher = place(load_teacher(alone), device)
    who = job.protocol.teacher_roles[job.place] if job.place else "the teacher"
    folder = job.layout.dataset(job.dataset)
    test = open_test(folder, job.protocol.dataset, Path(job.seal), who)
    logits = predict(teacher, placed(test, device))
    run = RunLayout(Path(job.folder))
    write_tensors(run.predictions, {"logits": logits, "labels": test.labels})
    tested = evaluate(logits, test.labels)
    write_json(run.result, {key: tested[key] for key in ("accuracy", "nll", "ece")})
    yield Result.of(**tested)


def run_cost(job: CostJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Measure teachers and students; the first student twice, to show the noise of the clock."""
    protocol = job.protocol
    teachers = dict(zip(protocol.teacher_roles, protocol.teachers, strict=True))
    networks = {
        **{role: load_teacher(job.with_teacher(k)) for k, role in enumerate(teachers)},
        "distilled": untrained_student(job, 0),
        "plain": untrained_student(job, 1),
        **_students(job, protocol.students[1:]),
    }
    names = {**teachers, "distilled": protocol.student, "plain": protocol.student}
    latency = _latency(job, networks, BATCH_SIZES, device)
    costs = {
        name: Cost(
            model=names.get(name, name),
            parameters=cost.parameter_count(network),
            macs=cost.macs(network),
            bytes=cost.state_bytes(network),
            latency=latency[name],
        )
        for name, network in networks.items()
    }
    record = Costs(device=str(device), threads=torch.get_num_threads(), models=costs)
    yield Result.of(costs=record.to_json())


def run_students(job: StudentsJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Measure every untrained student; its latency only if the protocol limits it."""
    networks = _students(job, job.protocol.students)
    timed = networks if job.protocol.max_latency_ms else {}
    latency = _latency(job, timed, (1,), device)
    record = StudentSizes(
        protocol=job.protocol.hash,
        dataset=job.dataset,
        device=str(device),
        threads=torch.get_num_threads(),
        models={
            name: StudentSize(
                parameters=cost.parameter_count(network),
                latency_ms=latency[name][0].median_ms if name in latency else None,
            )
            for name, network in networks.items()
        },
    )
    yield Result.of(sizes=record.to_json())


def _students(job: JobContext, names: Sequence[str]) -> dict[str, Network]:
    return {name: untrained_student(job, 0, name) for name in names}


def _latency(
    job: JobContext,
    networks: Mapping[str, Network],
    batch_sizes: Sequence[int],
    device: torch.device,
) -> dict[str, list[Latency]]:
    """Time the networks in turns on training examples, each at its own size."""
    return cost.measure_latency(
        networks,
        open_part(job.layout.dataset(job.dataset), "train"),
        batch_sizes=batch_sizes,
        device=device,
        repeats=REPEATS,
        seed=derive_seed(job.protocol.seed, "latency"),
    )
