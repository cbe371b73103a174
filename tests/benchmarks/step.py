"""Where the time of a training step goes, by torch's profiler, and how near it is to the machine.

The measure of nearness is what one matrix product of 1,024 x 1,024 reaches on the same thread: no
convolution in float32 can be faster. A step counts three forward passes of multiplications and
additions: its own, the gradient of the weights and that of the inputs.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

from kd.models.cost import macs
from tests.benchmarks.harness import Figure, spread
from tests.benchmarks.training import HINT, SMALL, Bench, Pair, default_pair

SIDE = 1024  # of the matrices
REST = "input, losses, and torch's own calls"
# part of a step: what the names of its operators contain
PARTS = {
    "convolutions": ("conv",),
    "batch norm": ("batch_norm", "batchnorm"),
    "ReLU, sums of branches, pooling": ("relu", "threshold", "clamp_min", "add", "pool"),
    "the optimizer": ("sgd",),
    REST: ("",),
}


def figures(quick: bool) -> Iterator[Figure]:
    """Profile epochs of the default student and of resnet20, with cached logits and one hint."""
    torch.set_num_threads(1)
    os.environ["KINETO_LOG_LEVEL"] = "6"  # the profiler says on standard error that it begins
    limit = spread(
        "a matrix product", [product() for _ in range(1 if quick else 9)], unit="GFLOP/s"
    )
    yield limit
    for name, pair in (("the default student", default_pair()), ("resnet20, 32x32", SMALL)):
        with TemporaryDirectory() as folder:
            bench = Bench(pair, Path(folder))
            epoch = bench.epoch(HINT, bench.cached)
            epoch()
            yield from reached(name, pair, epoch, bench, limit.median, 1 if quick else 9)
            yield from shares(name, epoch)


def product() -> float:
    """Return the GFLOP/s of one matrix product on one thread."""
    left, right = torch.randn(2, SIDE, SIDE)
    left @ right
    started = time.perf_counter()
    left @ right
    return 2 * SIDE**3 / (time.perf_counter() - started) / 1e9


def reached(
    name: str, pair: Pair, epoch: Callable[[], object], bench: Bench, limit: float, rounds: int
) -> Iterator[Figure]:
    """Tell images a second, and the share of the matrix product's speed that their work makes."""
    images = pair.images // pair.batch * pair.batch
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        epoch()
        rates.append(images / (time.perf_counter() - started))
    work = 6 * macs(bench.network(pair.student)) / 1e9  # GFLOP an image
    note = f"{1000 * work:.1f} MFLOP an image"
    yield spread(f"training, {name}", rates, unit="images/s", note=note)
    parts = [100 * rate * work / limit for rate in rates]
    yield spread(f"that is, of the matrix product, {name}", parts, unit="%")


def shares(name: str, epoch: Callable[[], object]) -> Iterator[Figure]:
    """Tell which operators an epoch's time is spent in; what is left is Python."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        started = time.perf_counter()
        epoch()
        whole = time.perf_counter() - started
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        spent[part_of(event.key)] += event.self_cpu_time_total / 1e6
    for part in PARTS:
        yield spread(f"a step of {name}: {part}", [100 * spent[part] / whole], unit="%")
    outside = max(0.0, whole - sum(spent.values()))
    yield spread(f"a step of {name}: Python", [100 * outside / whole], unit="%")


def part_of(operator: str) -> str:
    """Return the part of a step that an operator belongs to."""
    lower = operator.lower()
    return next(part for part, words in PARTS.items() if any(word in lower for word in words))
