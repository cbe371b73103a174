"""One benchmark in a process of its own.

The number of torch's threads, what an allocator keeps and what has been imported last as long as a
process, so that benchmarks in one would disturb each other.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.connection import Connection, wait

from tests.benchmarks.harness import Figure


class BenchmarkError(Exception):
    """A benchmark did not come to its end."""


def measured(name: str, quick: bool) -> Iterator[Figure]:
    """Run one benchmark in a process of its own, and yield its figures as they come.

    Raises BenchmarkError when the process ends otherwise than by coming to its end.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(name, quick, there))
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    try:
        while True:
            yield here.recv()
    except EOFError:
        process.join()
    if process.exitcode:
        raise BenchmarkError(f"the benchmark {name} failed: exit code {process.exitcode}")


def _measure(name: str, quick: bool, there: Connection) -> None:
    """Send what one module measures; only what was chosen is imported."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    for figure in import_module(f"tests.benchmarks.{name}").figures(quick):
        there.send(figure)


def _leave_with_parent() -> None:
    """End the process when its parent has died: going on, it would disturb what is measured next.

    Workers that it has started see its end, and leave too.
    """
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)
