"""What narrower instruction sets cost, where wider kernels are found to be wrong.

Each instruction set has a process of its own, since oneDNN keeps the first that it meets.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection

import torch

from kd.models.build import build
from kd.models.numerics import place, training_backward
from kd.training.kernels import INSTRUCTION_SETS, VARIABLE
from tests.benchmarks.formats import step
from tests.benchmarks.harness import Figure, ratio
from tests.support.small import floats

# model, side of an image, channels, images of a step, steps of a round
CASES = (
    ("resnet8-w0.125", 16, 1, 64, 50),
    ("resnet20", 32, 3, 64, 5),
    ("resnet18", 32, 3, 16, 2),
    ("mobilenet_v2", 32, 3, 32, 3),
)


def figures(quick: bool) -> Iterator[Figure]:
    """Compare a training step under each instruction set with one under the widest, one thread."""
    for case in CASES[:1] if quick else CASES:
        where = f"{case[0]}, {case[1]}x{case[1]}"
        with ExitStack() as stack:
            widest, *narrower = (
                stack.enter_context(_Stepper(case, limit)) for limit in ("", *INSTRUCTION_SETS)
            )
            for limit, other in zip(INSTRUCTION_SETS, narrower, strict=True):
                yield ratio(
                    f"a step with at most {limit} / with all there is, {where}",
                    other.run,
                    widest.run,
                    rounds=1 if quick else 5,
                    note=f"{torch.backends.cpu.get_cpu_capability()} processor",
                )


class _Stepper:
    """A process that trains one model by some steps whenever it is asked to."""

    def __init__(self, case: tuple[str, int, int, int, int], limit: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, case, limit), daemon=True)

    def __enter__(self) -> "_Stepper":
        self._process.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._here.send(False)
        self._process.join()

    def run(self) -> None:
        self._here.send(True)
        self._here.recv()


def _serve(there: Connection, case: tuple[str, int, int, int, int], limit: str) -> None:
    os.environ[VARIABLE] = limit  # before the first convolution
    torch.set_num_threads(1)
    act = _action(case)
    while there.recv():
        act()
        there.send(True)


def _action(case: tuple[str, int, int, int, int]) -> Callable[[], None]:
    name, size, channels, batch, steps = case
    device = torch.device("cpu")
    inputs = floats(channels, size)
    network = place(build(name, classes=10, inputs=inputs, stem="cifar", seed=0), device)
    images = torch.randn(batch, channels, size, size)
    one = step(network, images, training_backward(network, device))

    def act() -> None:
        for _ in range(steps):
            one()

    return act
