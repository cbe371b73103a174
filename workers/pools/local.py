"""Workers as local processes, forked from a server that has already imported torch.

A worker runs jobs until it is closed. It exits at once when the supervisor dies: a thread waits for
the end of a pipe that only the supervisor holds open. The server has touched no device.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any

from kd.errors import WorkerError
from kd.json_data import to_wire
from workers.events import Event, Failed, LastEvent, event_from_wire
from workers.jobs import Job
from workers.machine import usable_cores

PRELOADED = ["torch", "torchvision", "safetensors.torch", "numpy", "workers.pools.frozen"]
CLOSING_SECONDS = 5  # for a worker to exit by itself
# Ctrl-C and batch systems signal every process of a group. What happens then is the supervisor's
# decision: workers, and the server that they are forked from, are started with these blocked.
SUPERVISED = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class _Worker:
    process: ForkServerProcess
    connection: Connection
    lifeline: Connection  # the end that only the supervisor holds
    slot: int
    ticket: int | None = None
    ready: bool = False


class LocalPool:
    """A pool of `size` worker processes: None for one per accelerator or, without any, per core."""

    def __init__(self, size: int | None = None) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._size = size
        self._workers: list[_Worker] = []
        self._tickets = 0

    def start(self) -> None:
        """Start the server that workers are forked from, without waiting for it.

        The first worker is waited for when it is needed; it reports the number of accelerators,
        which may decide the number of workers.
        """
        _start_server()

    @property
    def size(self) -> int:
        """Number of workers. Waits for the first worker if accelerators decide the number."""
        if self._size is None:
            worker = self._workers[0] if self._workers else self._launch(0)
            try:
                if not worker.ready:
                    self._greeted(worker, _receive(worker.connection))
            except (EOFError, OSError):
                raise WorkerError(f"worker {worker.process.pid} died as it was started") from None
        return self._size or 1

    @property
    def busy(self) -> int:
        return sum(worker.ticket is not None for worker in self._workers)

    def submit(self, job: Job) -> int:
        """Give `job` to an idle worker; return its ticket. Raises WorkerError if all are busy."""
        size = self.size  # first: it may start the first worker
        idle = [worker for worker in self._workers if worker.ticket is None]
        if not idle:
            if len(self._workers) >= size:
                raise WorkerError(f"all {size} workers are busy")
            idle = [self._launch(len(self._workers))]
        self._tickets += 1
        worker = idle[0]
        worker.ticket = self._tickets
        with suppress(OSError):  # it has died: `events` notices the end of its pipe
            _send(worker.connection, {"ticket": self._tickets, "job": to_wire(job)})
        return self._tickets

    def stop(self, ticket: int) -> None:
        """Stop the job at its next step; its last event follows."""
        for worker in self._workers:
            if worker.ticket == ticket:
                with suppress(OSError):
                    _send(worker.connection, {"stop": ticket})

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        """Wait for events, and return (ticket, event) pairs in order."""
        connections = {worker.connection: worker for worker in self._workers}
        events: list[tuple[int, Event]] = []
        for connection in wait(list(connections), timeout):
            events += self._read(connections[connection])  # type: ignore[index]
        return events

    def _read(self, worker: _Worker) -> list[tuple[int, Event]]:
        """Read all events of a worker; a dead one is replaced, and its job has failed."""
        events: list[tuple[int, Event]] = []
        try:
            while worker.connection.poll():
                message = _receive(worker.connection)
                if not worker.ready:
                    self._greeted(worker, message)
                elif message["ticket"] == worker.ticket:
                    event = event_from_wire(message["event"])
                    events.append((message["ticket"], event))
                    if isinstance(event, LastEvent):
                        worker.ticket = None
        except (EOFError, OSError):
            events += self._replace(worker)
        return events

    def _replace(self, worker: _Worker) -> list[tuple[int, Event]]:
        worker.process.join(CLOSING_SECONDS)
        code = worker.process.exitcode
        worker.connection.close()
        worker.lifeline.close()
        self._workers.remove(worker)
        died = WorkerError(f"worker {worker.process.pid} died with exit code {code}")
        if worker.ticket is None and not worker.ready:
            raise died  # a replacement would fail to start as well
        self._launch(worker.slot)
        return [] if worker.ticket is None else [(worker.ticket, Failed.of(died))]

    def close(self) -> None:
        """End all workers, busy or not."""
        for worker in self._workers:
            worker.lifeline.close()
        for worker in self._workers:
            worker.process.join(CLOSING_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _launch(self, slot: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        line_end, lifeline = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=serve,
            args=(theirs, line_end, slot, self._size or 1),
            name=f"retort-worker-{slot}",
            daemon=True,
        )
        with _without_main():
            process.start()
        theirs.close()
        line_end.close()
        worker = _Worker(process, ours, lifeline, slot)
        self._workers.append(worker)
        return worker

    def _greeted(self, worker: _Worker, greeting: dict[str, Any]) -> None:
        worker.ready = True
        if self._size is None:
            self._size = greeting["accelerators"] or usable_cores()


def _start_server() -> None:
    """Start the fork server with signals blocked; it and all workers inherit that."""
    resource_tracker.ensure_running()  # first, since starting it unblocks signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED)
    with _search_path_inherited():
        forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _search_path_inherited() -> Iterator[None]:
    """Let the server import from where this process does.

    It ignores the `sys.path` that it receives, and would import another Retort that is installed.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module while a process starts, which else would run it: a user's script.

    It may be a script without a guard (`if __name__ == "__main__"`), which would begin its study
    again in each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def serve(connection: Connection, lifeline: Connection, slot: int, workers: int) -> None:
    """Run as worker `slot` of `workers`: send a greeting, then run the jobs that arrive."""
    threading.Thread(target=_exit_after, args=(lifeline,), daemon=True).start()
    _keep_locks_within_the_process()
    from workers.device import accelerator_count, choose_device
    from workers.execute import execute_message

    device = choose_device(slot, workers)
    _send(connection, {"accelerators": accelerator_count()})
    while True:
        message = _receive(connection)
        if "job" not in message:
            continue  # a stop that came after the job's last event
        stopped = _StopRequest(connection, message["ticket"])
        report = partial(_report, connection, message["ticket"])
        execute_message(message["job"], device, stopped, report)


def _keep_locks_within_the_process() -> None:
    """Compiling and the ONNX export use tqdm, whose default lock would outlive a worker.

    It is a semaphore of the system, which a worker that exits at once leaves behind, and of which
    Python warns when the study ends.
    """
    if find_spec("tqdm"):
        importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())


class _StopRequest:
    """Whether the supervisor has requested to stop the running job."""

    def __init__(self, connection: Connection, ticket: int) -> None:
        self._connection = connection
        self._ticket = ticket
        self._requested = False

    def __call__(self) -> bool:
        while not self._requested and self._connection.poll():
            self._requested = _receive(self._connection).get("stop") == self._ticket
        return self._requested


def _exit_after(lifeline: Connection) -> None:
    """End the process as soon as the supervisor's end of the pipe is closed."""
    wait([lifeline])
    os._exit(1)


def _report(connection: Connection, ticket: int, event: Event) -> None:
    _send(connection, {"ticket": ticket, "event": to_wire(event)})


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv_bytes())
    return message
