"""Workers as Ray actors, on this machine or on a cluster.

Ray starts the processes, assigns CPUs and GPUs, and reports when a process or a node has died. The
supervisor decides what happens then, so Ray's own restarts and retries are off. An actor dies with
the supervisor that started it. Jobs and events are sent as JSON, files are exchanged through the
folder `--root`, which every node must see under the same path.
"""

import json
import os
import secrets
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kd.errors import WorkerError
from kd.json_data import to_wire
from workers.events import Event, Failed, LastEvent, Stopped, event_from_wire
from workers.jobs import Job
from workers.pools.cluster import Cluster, check_node, connect, count_workers, reason

STARTS = 3  # of workers in a row that may fail before the pool gives up
SILENCE_SECONDS = 10.0  # without an event, after which Ray itself is checked
THREADS = 3  # of an actor: one runs the job, one returns its events, one receives requests to stop
# fields of jobs with paths that may be relative to the supervisor's working directory
PATHS = ("root", "folder", "seal", "weights")


@dataclass(slots=True)
class _Worker:
    actor: Any
    reply: Any  # of the pending call: the greeting, later events
    mark: Path  # a file in the root, which the worker must see
    name: str = "a Ray worker"
    ticket: int | None = None
    ready: bool = False


class RayPool:
    """A pool of Ray actors, as many as the cluster had resources for when the pool was started.

    If resources are lost later (a node has died, others use it), jobs wait here: a job is sent only
    to a worker that has sent its greeting.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ray: Any = None
        self._demand: dict[str, float] = {}
        self._size = 0
        self._workers: list[_Worker] = []
        self._waiting: deque[tuple[int, Job]] = deque()
        self._ready_events: list[tuple[int, Event]] = []
        self._tickets = 0
        self._failed_starts = 0

    def start(self) -> None:
        """Start Ray here, or connect to the cluster, and start the first worker.

        Raises WorkerError if Ray is missing, or lacks resources for one worker.
        """
        self._ray = connect(self._cluster.address)
        self._size, self._demand = count_workers(self._ray.nodes(), self._cluster)
        self._launch()

    @property
    def size(self) -> int:
        return self._size

    @property
    def busy(self) -> int:
        """Number of jobs that run or wait for a worker."""
        return len(self._waiting) + sum(worker.ticket is not None for worker in self._workers)

    def submit(self, job: Job) -> int:
        """Queue `job` for the next idle worker; return its ticket."""
        self._tickets += 1
        self._waiting.append((self._tickets, job))
        self._assign()
        idle = sum(worker.ticket is None for worker in self._workers)
        if idle < len(self._waiting) and len(self._workers) < self._size:
            self._launch()
        return self._tickets

    def stop(self, ticket: int) -> None:
        """Stop a job at its next step; its last event follows."""
        for waiting in self._waiting:
            if waiting[0] == ticket:
                self._waiting.remove(waiting)
                self._ready_events.append((ticket, Stopped()))
                return
        for worker in self._workers:
            if worker.ticket == ticket:
                worker.actor.stop.remote(ticket)

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        """Wait for events, and return (ticket, event) pairs in order.

        The list is empty after a greeting, or after a while without events. Raises WorkerError if
        Ray has died, no worker can be started, or a worker cannot run jobs.
        """
        events, self._ready_events = self._ready_events, []
        patience = SILENCE_SECONDS if timeout is None else min(timeout, SILENCE_SECONDS)
        replies = {worker.reply: worker for worker in self._workers}
        try:
            if not (events or self._ray.wait(list(replies), timeout=patience)[0]):
                check_node(self._ray)
            for reply in self._ray.wait(list(replies), num_returns=len(replies), timeout=0)[0]:
                events += self._read(replies[reply])
        except ConnectionError as error:
            raise WorkerError(f"Ray does not answer any more: {reason(error)}") from None
        self._assign()
        return events

    def _read(self, worker: _Worker) -> list[tuple[int, Event]]:
        """Read all events of a worker; a dead one is replaced, and its job has failed."""
        try:
            reply = json.loads(self._ray.get(worker.reply))
        except self._ray.exceptions.RayError as error:
            return self._replace(worker, error)
        worker.reply = worker.actor.events.remote()
        if not worker.ready:
            self._greeted(worker, reply)
            return []
        events = [
            (ticket, event_from_wire(wire)) for ticket, wire in reply if ticket == worker.ticket
        ]
        if events and isinstance(events[-1][1], LastEvent):
            worker.ticket = None
        return events

    def _greeted(self, worker: _Worker, greeting: dict[str, Any]) -> None:
        worker.mark.unlink(missing_ok=True)
        check_greeting(greeting, self._cluster.root)
        worker.name = f"Ray worker {greeting['pid']} on {greeting['node']}"
        worker.ready = True
        self._failed_starts = 0

    def _replace(self, worker: _Worker, error: Exception) -> list[tuple[int, Event]]:
        check_node(self._ray)
        self._dismiss(worker)
        died = WorkerError(f"{worker.name} died: {reason(error)}")
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise WorkerError(f"no Ray worker can be started: {reason(error)}")
        self._launch()
        return [] if worker.ticket is None else [(worker.ticket, Failed.of(died))]

    def _assign(self) -> None:
        """Give waiting jobs to idle workers."""
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
        """End a worker; it may be unreachable rather than dead, and its job is given to another."""
        self._workers.remove(worker)
        worker.mark.unlink(missing_ok=True)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)

    def close(self) -> None:
        """End all workers, busy or not, and Ray itself if it was started here."""
        while self._workers:
            self._dismiss(self._workers[-1])
        if self._ray:
            self._ray.shutdown()


def check_greeting(greeting: dict[str, Any], root: Path) -> None:
    """Raise WorkerError unless a worker sees the root and has the supervisor's version of torch."""
    node, torch = greeting["node"], version("torch")
    if not greeting["sees_root"]:
        raise WorkerError(
            f"Ray node {node} does not see {root.absolute()}: mount the folder of --root there, "
            "under the same path, and start again"
        )
    if greeting["torch"] != torch:
        raise WorkerError(
            f"Ray node {node} has torch {greeting['torch']}, the supervisor {torch}: results "
            "depend on it, so install the same version on both"
        )


def _absolute(wire: dict[str, Any]) -> dict[str, Any]:
    """Make the paths of a job absolute: a worker has another working directory."""
    named = {name: str(Path(wire[name]).absolute()) for name in PATHS if wire.get(name)}
    return {**wire, **named}


class RayWorker:
    """The actor. Ray runs each method in its own thread."""

    def __init__(self, gpus: float) -> None:
        self._events: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        self._stopped: set[int] = set()
        self._gpus = gpus

    def greet(self, mark: str) -> str:
        """Return the worker's host, process, view of the root (`mark`) and version of torch."""
        from workers.device import choose_device, limit_memory

        self._device = choose_device(0)  # Ray shows a worker its own GPU alone, as the first
        limit_memory(self._device, self._gpus)
        greeting = {
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "sees_root": Path(mark).exists(),
            "torch": version("torch"),
        }
        return json.dumps(greeting)

    def run(self, ticket: int, wire: str) -> None:
        """Run a job; `events` returns its events."""
        from workers.execute import execute_message

        execute_message(
            json.loads(wire),
            self._device,
            stopped=lambda: ticket in self._stopped,
            report=lambda event: self._events.put((ticket, event)),
        )

    def events(self) -> str:
        """Wait for events of the job; return (ticket, event) pairs."""
        events = [self._events.get()]
        while not self._events.empty():
            events.append(self._events.get())
        return json.dumps([(ticket, to_wire(event)) for ticket, event in events])

    def stop(self, ticket: int) -> None:
        """Stop the job at its next step."""
        self._stopped.add(ticket)
