"""Workers as actors on Ray, on this machine or on a cluster, under the same supervisor.

Ray starts the processes, shares out CPUs and GPUs, and says when a process or a node has died. What
happens then is the supervisor's decision, so Ray's own restarts and retries are off. An actor dies
with the supervisor that started it. Jobs and events travel as JSON, files through the folder that
`--root` names: every node must see it under the same path.

Ray is an extra; it is imported when a pool is started, and not before.
"""

import importlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kd.errors import WorkerError
from workers.events import LAST_EVENTS, Event, failed_event
from workers.jobs import Job, from_wire, to_wire
from workers.local import SUPERVISED

STARTS = 3  # of workers in a row that may fail before the pool gives up
THREADS = 3  # of an actor: one runs the job, one says what happens, one hears when to stop
STORE_BYTES = 100 * 2**20  # of a local Ray's object store, through which only events pass
PATHS = ("root", "data_dir", "folder", "seal")  # what a job may name relative to the supervisor
PACKAGES = ("kd", "storage", "workers")  # what a node of a cluster needs of the project
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where Ray is, and what a worker takes of it.

    Without an `address` Ray is started on this machine. `gpus_per_trial` lies in (0, 1]; None is a
    whole GPU where there are any, else none. A worker without a GPU takes `threads` CPUs.
    """

    root: Path
    threads: int
    address: str = ""
    gpus_per_trial: float | None = None


@dataclass(slots=True)
class _Worker:
    actor: Any
    reply: Any  # of the call in flight: first the greeting, then what the job says
    mark: Path  # a file in the root, which the worker must see
    name: str = "a Ray worker"
    ticket: int | None = None
    ready: bool = False


class RayPool:
    """A pool of Ray actors, as many as the cluster had room for when the pool was started.

    Where it has less room later, since a node is lost or others are using it, jobs wait here: one
    is given only to a worker that has greeted.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ray: Any = None
        self._demand: dict[str, float] = {}
        self._size = 0
        self._workers: list[_Worker] = []
        self._waiting: deque[tuple[int, Job]] = deque()
        self._said: list[tuple[int, Event]] = []
        self._tickets = 0
        self._failed_starts = 0

    def start(self) -> None:
        """Start Ray here, or connect to the cluster, and start the first worker.

        Raises WorkerError where there is no Ray, or no room for a worker.
        """
        try:
            self._ray = importlib.import_module("ray")
        except ImportError:
            raise WorkerError("--workers ray needs Ray: pip install '.[ray]'") from None
        with _own_signals(block=not self._cluster.address):
            _connect(self._ray, self._cluster.address)
        self._size, self._demand = share_out(self._ray.nodes(), self._cluster)
        self._launch()

    @property
    def size(self) -> int:
        return self._size

    @property
    def busy(self) -> int:
        """Number of jobs that run or wait for a worker."""
        return len(self._waiting) + sum(worker.ticket is not None for worker in self._workers)

    def submit(self, job: Job) -> int:
        """Take `job`, for the next worker that is idle; return its ticket."""
        self._tickets += 1
        self._waiting.append((self._tickets, job))
        self._assign()
        idle = sum(worker.ticket is None for worker in self._workers)
        if idle < len(self._waiting) and len(self._workers) < self._size:
            self._launch()
        return self._tickets

    def stop(self, ticket: int) -> None:
        """Tell the worker to leave the job at the next step; its last event follows."""
        for waiting in self._waiting:
            if waiting[0] == ticket:
                self._waiting.remove(waiting)
                self._said.append((ticket, {"event": "stopped"}))
                return
        for worker in self._workers:
            if worker.ticket == ticket:
                worker.actor.stop.remote(ticket)

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        """Wait until a job says something, and return (ticket, event) pairs in order.

        Raises WorkerError when no worker can be started, or one has not what jobs need.
        """
        found, self._said = self._said, []
        replies = {worker.reply: worker for worker in self._workers}
        if replies and not found:
            self._ray.wait(list(replies), timeout=timeout)
        for reply in self._ray.wait(list(replies), num_returns=len(replies), timeout=0)[0]:
            found += self._read(replies[reply])
        self._assign()
        return found

    def _read(self, worker: _Worker) -> list[tuple[int, Event]]:
        """Take all that a worker has said; a dead one is replaced, and its job failed."""
        try:
            reply = json.loads(self._ray.get(worker.reply))
        except self._ray.exceptions.RayError as error:
            return self._bury(worker, error)
        worker.reply = worker.actor.hear.remote()
        if not worker.ready:
            self._welcome(worker, reply)
            return []
        found = [(ticket, event) for ticket, event in reply if ticket == worker.ticket]
        if found and found[-1][1]["event"] in LAST_EVENTS:
            worker.ticket = None
        return found

    def _welcome(self, worker: _Worker, greeting: dict[str, Any]) -> None:
        """Let a worker in, if it sees the root and has the supervisor's version of torch."""
        worker.mark.unlink(missing_ok=True)
        node, torch = greeting["node"], version("torch")
        if not greeting["sees_root"]:
            raise WorkerError(
                f"Ray node {node} does not see {worker.mark.parent}: mount the folder of --root "
                "there, under the same path, and start again"
            )
        if greeting["torch"] != torch:
            raise WorkerError(
                f"Ray node {node} has torch {greeting['torch']}, the supervisor {torch}: results "
                "depend on it, so install the same version on both"
            )
        worker.name = f"Ray worker {greeting['pid']} on {node}"
        worker.ready = True
        self._failed_starts = 0

    def _bury(self, worker: _Worker, error: Exception) -> list[tuple[int, Event]]:
        self._dismiss(worker)
        reason = " ".join(str(error).split())
        died = WorkerError(f"{worker.name} died: {reason}")
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise WorkerError(f"no Ray worker can be started: {reason}")
        self._launch()
        return [] if worker.ticket is None else [(worker.ticket, failed_event(died))]

    def _assign(self) -> None:
        """Give jobs that wait to workers that are idle."""
        for worker in self._workers:
            if self._waiting and worker.ready and worker.ticket is None:
                worker.ticket, job = self._waiting.popleft()
                worker.actor.run.remote(worker.ticket, json.dumps(_absolute(to_wire(job))))

    def _launch(self) -> None:
        mark = self._cluster.root.absolute() / f".ray-{secrets.token_hex(8)}"
        mark.touch()
        options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": THREADS}
        actor_class = self._ray.remote(RayWorker).options(**options, **self._demand)
        actor = actor_class.remote(self._demand.get("num_gpus", 0))
        self._workers.append(_Worker(actor, actor.greet.remote(str(mark)), mark))

    def _dismiss(self, worker: _Worker) -> None:
        """End a worker, which may only seem dead: its job is given to another."""
        self._workers.remove(worker)
        worker.mark.unlink(missing_ok=True)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)

    def close(self) -> None:
        """End all workers, busy or not, and Ray itself where it was started here."""
        while self._workers:
            self._dismiss(self._workers[-1])
        if self._ray:
            self._ray.shutdown()


def share_out(nodes: list[dict[str, Any]], cluster: Cluster) -> tuple[int, dict[str, float]]:
    """Return how many workers the nodes of a cluster have room for, and what each is to ask for.

    Raises WorkerError when there is room for none.
    """
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(room.get("GPU", 0)) for room in rooms)
    share = cluster.gpus_per_trial or float(gpus > 0)
    if share:  # whoever has a GPU needs few CPUs, so these are not counted
        size = gpus * int(1 / share + 1e-6)
        demand = {"num_gpus": share, "num_cpus": 0}
    else:
        size = sum(int(room.get("CPU", 0)) // cluster.threads for room in rooms)
        demand = {"num_cpus": cluster.threads}
    if not size:
        cpus = sum(int(room.get("CPU", 0)) for room in rooms)
        raise WorkerError(
            f"Ray has no room for a worker of {share:g} GPUs or {cluster.threads} threads: its "
            f"nodes have {gpus} GPUs and {cpus} CPUs; see --gpus-per-trial and --threads"
        )
    return size, demand


def _connect(ray: Any, address: str) -> None:
    """Connect to Ray, quietly. Raises WorkerError, in one line, when that fails."""
    os.environ.update(QUIET)
    options: dict[str, Any] = {"address": "local", "include_dashboard": False}
    options["object_store_memory"] = STORE_BYTES
    if address:  # a cluster, whose nodes need not have the project
        folders = [str(Path(__file__).parents[1] / name) for name in PACKAGES]
        options = {"address": address, "runtime_env": {"py_modules": folders}}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"at {address} " if address else ""
        reason = " ".join(str(error).split())
        raise WorkerError(f"Ray {where}cannot be reached or started: {reason}") from None


@contextmanager
def _own_signals(*, block: bool) -> Iterator[None]:
    """Keep the supervisor's answer to SIGTERM, which Ray replaces by an exit.

    With `block`, the processes that Ray starts meanwhile inherit that interrupts are blocked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED if block else ())
    try:
        yield
    except SystemExit:  # Ray's answer
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _absolute(wire: dict[str, Any]) -> dict[str, Any]:
    """Name files as the supervisor does: a worker's own folder is another."""
    named = {name: str(Path(wire[name]).absolute()) for name in PATHS if wire.get(name)}
    return {**wire, **named}


class RayWorker:
    """The actor: each method runs in a thread of its own."""

    def __init__(self, gpus: float) -> None:
        self._events: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        self._stopped: set[int] = set()
        self._gpus = gpus

    def greet(self, mark: str) -> str:
        """Say where this is, and whether it has what jobs need."""
        from workers.device import choose_device

        self._device = choose_device(0)  # Ray shows a worker its own GPU alone, as the first
        _limit_memory(self._gpus)
        greeting = {
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "sees_root": Path(mark).exists(),
            "torch": version("torch"),
        }
        return json.dumps(greeting)

    def run(self, ticket: int, wire: str) -> None:
        """Run a job; `hear` says how it goes."""
        from workers.execute import execute

        def stopped() -> bool:
            return ticket in self._stopped

        try:
            for event in execute(from_wire(json.loads(wire)), self._device, stopped):
                self._events.put((ticket, event))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self._events.put((ticket, failed_event(error)))

    def hear(self) -> str:
        """Wait until the job says something; return (ticket, event) pairs."""
        found = [self._events.get()]
        while not self._events.empty():
            found.append(self._events.get())
        return json.dumps(found)

    def stop(self, ticket: int) -> None:
        """Have the job leave at its next step."""
        self._stopped.add(ticket)


def _limit_memory(gpus: float) -> None:
    """Keep a worker to its share of the GPU's memory, where it has a share and torch can."""
    import torch

    if 0 < gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus, 0)
