"""Exports of untrained students of any kind, checked as those of a study are."""

from pathlib import Path

import torch
from torch import nn

from conductor.stages.own_files import keep_own, pin_functions
from kd.data.examples import Examples
from kd.data.inputs import Inputs
from kd.models.build import Network, build
from storage.files.layout import Layout
from tests.support.small import made_up
from workers.runners.exporting import description, write_student

CLASSES = 5


def kept(root: Path, source: str, function: str) -> str:
    """Keep a file as a study in `root` does; return the name of the model in its protocol."""
    (root / "mine.py").write_text(source)
    pinned, files = pin_functions({"teachers": (f"{root}/mine.py:{function}",)})
    keep_own(Layout(root), files)
    return str(pinned["teachers"][0])


def student(root: Path, name: str, inputs: Inputs, seed: int = 3) -> Network:
    """Build an untrained student, of whose batch norms each channel has other statistics."""
    files, stem = Layout(root).own, "cifar"
    network = build(name, classes=CLASSES, inputs=inputs, stem=stem, seed=seed, files=files)
    generator = torch.Generator().manual_seed(seed)
    for buffer in network.buffers():
        if buffer.is_floating_point() and buffer.dim() == 1:
            buffer.add_(torch.rand(buffer.shape, generator=generator) / 4)
    return network.eval().requires_grad_(False)


def written(root: Path, network: Network, count: int = 3) -> tuple[nn.Module, Examples]:
    """Export a student to `root/out`; return it in plain PyTorch, and what it was compared on."""
    names = [str(number) for number in range(CLASSES)]
    config = description(network.name, names, network.inputs, "cifar", Layout(root).own)
    values, labels = made_up(network.inputs, count), torch.zeros(count, dtype=torch.int64)
    some = Examples(values=values, labels=labels, inputs=network.inputs)
    return write_student(root / "out", network, config, Layout(root).own, some), some
