"""Jobs of the comparison: the teacher on the test split, and what the models cost."""

from collections.abc import Iterator
from pathlib import Path

import torch

from kd import cost
from kd.evaluation import predict, scores
from kd.seeds import derive_seed
from storage.artifacts import read_manifest, write_json
from storage.datasets import open_test
from storage.records import Cost, Costs, Latency
from storage.tensors import write_tensors
from workers.events import Event, Stopped, result_event
from workers.jobs import CostJob, TeacherTestJob
from workers.loading import load_teacher, untrained_student

BATCH_SIZES = (1, 256)
REPEATS = 40


def run_teacher_test(
    job: TeacherTestJob, device: torch.device, stopped: Stopped
) -> Iterator[Event]:
    """Test the teacher; `result.json` is written last."""
    teacher = load_teacher(job.protocol, job.layout, job.dataset, job.teacher).to(device)
    test = open_test(job.layout.dataset(job.dataset), Path(job.seal), "the teacher")
    logits = predict(teacher, test.to(device))
    folder = Path(job.folder)
    write_tensors(folder / "test.safetensors", {"logits": logits, "labels": test.labels})
    found = scores(logits, test.labels)
    write_json(folder / "result.json", {key: found[key] for key in ("accuracy", "nll", "ece")})
    yield result_event(**found)


def run_cost(job: CostJob, device: torch.device, stopped: Stopped) -> Iterator[Event]:
    """Measure teacher and student, and the student once more, as a control of the clock."""
    protocol, layout = job.protocol, job.layout
    channels = read_manifest(layout.dataset(job.dataset), "dataset").info["channels"]
    size = protocol.image_size
    networks = {
        "teacher": load_teacher(protocol, layout, job.dataset, job.teacher).to(device),
        "distilled": untrained_student(protocol, layout, job.dataset, 0).to(device),
        "plain": untrained_student(protocol, layout, job.dataset, 1).to(device),
    }
    latency = cost.measure_latency(
        networks,
        channels=channels,
        image_size=size,
        batch_sizes=BATCH_SIZES,
        device=device,
        repeats=REPEATS,
        seed=derive_seed(protocol.seed, "latency"),
    )
    costs = {
        name: Cost(
            model=protocol.teacher if name == "teacher" else protocol.student,
            parameters=cost.parameter_count(network),
            macs=cost.macs(network, channels, size),
            bytes=cost.state_bytes(network),
            latency=[Latency.from_json(each.to_json()) for each in latency[name]],
        )
        for name, network in networks.items()
    }
    record = Costs(device=str(device), threads=torch.get_num_threads(), models=costs)
    yield result_event(costs=record.to_json())
