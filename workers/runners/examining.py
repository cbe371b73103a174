"""Jobs of the `doctor` command: describe the device, and test computations on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.data.views import render
from kd.errors import WorkerError
from kd.losses import features
from kd.losses import logits as logit_losses
from kd.losses.adapters import Adapters, feature_loss
from kd.losses.hard import hard
from kd.models.families.torchvision import imagenet_files
from kd.models.numerics import place
from kd.models.taps import TapReading, attention_map
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES
from kd.recipe import Recipe
from kd.training.loop import Plan, train
from kd.training.state import TrainingState
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from workers.device import accelerator_count, memory_share
from workers.events import Event, Result, ShouldStop
from workers.jobs import ExamineJob, MachineJob
from workers.runners.loading import open_parts, untrained_student

TOLERANCE = 1e-2  # of a loss or its gradient: what TensorFloat-32 may change
Values = dict[str, Tensor]


def run_machine(job: MachineJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Describe the accelerators, and list the torchvision weights on disk."""
    files = imagenet_files()
    yield Result.of(
        device=str(device),
        accelerators=[_accelerator(index) for index in range(accelerator_count())],
        memory_share=memory_share(device),
        weights_folder=str(next(iter(files.values())).parent),
        weights=[name for name, path in files.items() if path.exists()],
    )


def _accelerator(index: int) -> dict[str, Any]:
    """Return name, memory in bytes, capability and bfloat16; None for unknown values."""
    current = torch.accelerator.current_accelerator()
    kind = current.type if current else "cpu"
    ask = getattr(torch.get_device_module(kind), "get_device_properties", None)
    properties = ask(index) if ask else None
    major, minor = (getattr(properties, name, None) for name in ("major", "minor"))
    is_cuda = kind == "cuda" and torch.version.hip is None
    return {
        "name": getattr(properties, "name", kind),
        "memory": getattr(properties, "total_memory", None),
        "capability": f"{major}.{minor}" if major is not None else None,
        "bf16": bool(major and major >= 8) if is_cuda else None,
    }


def run_examine(job: ExamineJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Test one part. Raises WorkerError if the device's results differ from the CPU's."""
    yield Result.of(description=PARTS[job.part](job, device))


def _views(job: ExamineJob, device: torch.device) -> str:
    """Render a view on the device, and compare its pixels with the CPU's."""
    data, _ = open_parts(job, torch.device("cpu"))
    rows = data.view(0, 0, job.protocol.augment)
    here = render(data.values, rows)
    there = render(data.values.to(device), rows.to(device))
    if not torch.equal(here, there.cpu()):
        raise WorkerError(f"{device} renders pixels that differ from the CPU's")
    if not data.inputs.normalise(there).isfinite().all():
        raise WorkerError(f"{device} renders pixels that are not finite")
    return f"{len(data)} images on {device}, equal to the CPU's in every pixel"


def _losses(job: ExamineJob, device: torch.device) -> str:
    """Compute every loss and its gradient on the device, and compare them with the CPU's."""
    on_cpu, on_device = _computed(torch.device("cpu")), _computed(device)
    for name, value in on_cpu.items():
        difference = float((on_device[name].cpu() - value).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(value.abs().max())):
            raise WorkerError(f"{name} on {device} differs from the CPU's by {difference:.3g}")
    return f"{len(on_cpu) // 2} losses and their gradients on {device}, as on the CPU"


def _computed(device: torch.device) -> Values:
    """Return each loss and its gradient by the student's output, for the same random numbers."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    student, maps = random(32, 10).requires_grad_(), random(32, 16, 8, 8).requires_grad_()
    teacher = random(32, 10)
    labels = torch.arange(32, device=device) % 10
    reading = TapReading(
        features=random(32, 16, 4, 4), attention=attention_map(random(32, 16, 8, 8)), variance=1.0
    )
    of_logits = {
        name: logit_losses.load(name).loss(student, teacher, labels, 4.0)
        for name in LOGIT_LOSSES.names
    }
    of_logits["hard"] = hard(student, labels, label_smoothing=0.1)
    channels = {"last1": 16}
    of_maps = {
        name: feature_loss(
            features.load(name),
            {"last1": maps},
            {"last1": reading},
            Adapters.of(name, channels, channels, seed=0).to(device),
        )
        for name in FEATURE_LOSSES.names
    }
    computed: Values = {}
    for losses, variable in ((of_logits, student), (of_maps, maps)):
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, variable)
            computed |= {name: loss.detach(), f"the gradient of {name}": gradient}
    return computed


def _checkpoint(job: ExamineJob, device: torch.device) -> str:
    """Train one step, and restore its checkpoint into another student, bit for bit."""
    data, validation = open_parts(job, device)
    trained, other = _fresh_state(job, 0, device), _fresh_state(job, 1, device)
    plan = Plan.of(job.protocol, epochs=1, view_seed=0, views=(0,), seed=0)
    list(train(trained, Recipe(lr=0.05), plan, data, validation))
    path, run = Path(job.folder) / "checkpoint.safetensors", {"run": "of the doctor"}
    write_checkpoint(path, run, trained.tensors(), trained.history)
    other.restore(*read_checkpoint(path, run))
    kept, restored = trained.tensors(), other.tensors()
    wrong = [name for name in kept if not torch.equal(kept[name], restored[name])]
    if wrong or other.history != trained.history:
        raise WorkerError(f"the checkpoint differs in {', '.join(wrong) or 'history'}")
    return f"{len(kept)} tensors were read back, equal bit for bit"


def _fresh_state(job: ExamineJob, seed: int, device: torch.device) -> TrainingState:
    network = place(untrained_student(job, seed), device)
    return TrainingState.start(
        network, Adapters({}, {}, seed=0), Recipe(lr=0.05), job.protocol.optimizer
    )


PARTS: dict[str, Callable[[ExamineJob, torch.device], str]] = {
    "views": _views,
    "losses": _losses,
    "checkpoint": _checkpoint,
}
