"""Kernels of all models of the catalogue in both layouts, under glibc's checks of the heap."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kd.names import catalogue
from kd.training import kernels
from kd.training.kernels import VARIABLE
from workers.runners.kernels import CHECKING_LIBRARY, HEAP_CHECKS

ROOT = Path(__file__).parents[2]
NARROW = [f"{name}-w{width}" for name in ("resnet20", "wrn-16-1") for width in (0.125, 0.25, 0.5)]
TRY = """
import sys, torch
from kd.data.examples import Examples
from kd.data.inputs import Images
from kd.training import kernels
from kd.models.build import build
torch.set_num_threads(1)
name, layout = sys.argv[1:]
inputs = Images(shape=(3, 32, 32), mean=(0.5,) * 3, deviation=(0.3,) * 3)
network = build(name, classes=10, inputs=inputs, stem="cifar", seed=0)
network = network.to(memory_format=getattr(torch, layout))
labels = torch.arange(8)
images = torch.randint(256, (8, *inputs.shape), generator=torch.Generator().manual_seed(0)).byte()
examples = Examples(values=images, labels=labels, inputs=inputs)
kernels.batch_size = lambda inputs, device: 16  # that are evaluated: shapes matter, not how many
settings = dict(batch=8, precision="float32")
kernels.try_kernels(network, examples, **settings, begun=lambda case: print(case, flush=True))
"""
SMALLEST = """
import torch
torch.set_num_threads(1)
for _ in range(20):
    images = torch.randn(4, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(8, 4, 1, 1).to(memory_format=torch.channels_last).requires_grad_()
    torch.nn.functional.conv2d(images, weights, stride=2).sum().backward()
"""
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the checks are glibc's"),
]


def ended(code: str, *arguments: str, limit: str) -> subprocess.CompletedProcess[str]:
    """Run Python code under the checks, with kernels of at most `limit`."""
    checked = {"LD_PRELOAD": CHECKING_LIBRARY, **HEAP_CHECKS, VARIABLE: limit}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **checked},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("name", [*catalogue(), *NARROW])
def test_every_model_computes_as_in_float64_and_within_its_memory(name: str, layout: str) -> None:
    """Where AVX2 is the widest and known to be wrong, with the limit that processors then get."""
    done = ended(TRY, name, layout, limit=kernels.limit())
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]


@pytest.mark.parametrize("limit", ["AVX", "SSE41"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("name", ["resnet20-w0.125", "resnet50", "mobilenet_v2", "vgg11_bn"])
def test_what_processors_are_limited_to_is_right(name: str, layout: str, limit: str) -> None:
    done = ended(TRY, name, layout, limit=limit)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")
    or kernels.onednn_version().rpartition(".")[0] not in kernels.WRONG_AVX2,
    reason="this release of oneDNN, or processor, is not known for it",
)
def test_the_smallest_case_of_the_known_fault_is_still_one() -> None:
    """Once it passes, that release leaves `WRONG_AVX2`."""
    assert ended(SMALLEST, limit="AVX2").returncode != 0
    assert ended(SMALLEST, limit="AVX").returncode == 0
