"""The worker pool: runs jobs under the conductor's keys, and again where a worker has died."""

import time
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kd import errors
from kd.errors import DivergenceError, RetortError, WorkerError
from workers.events import Diverged, EpochDone, Event, Failed, LastEvent, Note, Result, Stopped
from workers.jobs import Job
from workers.pools.cluster import Cluster
from workers.pools.inline import InlinePool
from workers.pools.local import LocalPool
from workers.pools.on_ray import RayPool

CHECK_SECONDS = 5.0  # between two checks that the supervisor still owns the study
RETRIES = 2  # of a job whose worker died, before it has failed
Key = TypeVar("Key", bound=Hashable)


class Pool(typing.Protocol):
    """What a pool offers: jobs go in, (ticket, event) pairs come out."""

    def start(self) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def busy(self) -> int: ...
    def submit(self, job: Job) -> int: ...
    def stop(self, ticket: int) -> None: ...
    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]: ...
    def close(self) -> None: ...


def make_pool(workers: str, cluster: Cluster | None = None) -> Pool:
    """Make the pool that `--workers` names: auto, inline, ray, or a number of processes."""
    if workers == "inline":
        return InlinePool()
    if workers == "ray" and cluster:
        return RayPool(cluster)
    return LocalPool(None if workers == "auto" else int(workers))


@dataclass(slots=True)
class _Task:
    key: Hashable
    job: Job
    deaths: int = 0
    stopped: bool = False


class WorkerPool:
    """Jobs under keys. A job whose worker died is tried again, from its checkpoint.

    `check` is called every few seconds while jobs are waited for, and raises once the study belongs
    to another supervisor.
    """

    def __init__(self, pool: Pool) -> None:
        self.check: Callable[[], None] | None = None
        self._checked = time.monotonic()
        self._pool = pool
        self._tasks: dict[int, _Task] = {}

    @property
    def free(self) -> int:
        return self._pool.size - self._pool.busy

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def start(self, key: Hashable, job: Job) -> None:
        self._tasks[self._pool.submit(job)] = _Task(key, job)

    def stop(self, key: Hashable) -> None:
        """Ask the job to stop at its next step; its last event follows."""
        for ticket, task in self._tasks.items():
            if task.key == key:
                task.stopped = True
                self._pool.stop(ticket)

    def events(self, timeout: float | None = None) -> list[tuple[Any, Event]]:
        """Wait for events; return (key, event) pairs in order.

        No pairs are returned after `timeout` or `CHECK_SECONDS`. Raises what `check` raises.
        """
        found: list[tuple[Any, Event]] = []
        for ticket, event in self._listen(timeout):
            task = self._tasks[ticket]
            if not isinstance(event, LastEvent):
                found.append((task.key, event))
                continue
            del self._tasks[ticket]
            if isinstance(event, Failed) and event.kind == WorkerError.__name__:
                found.append((task.key, self._after_death(task, event)))
            else:
                found.append((task.key, event))
        return found

    def _listen(self, timeout: float | None) -> list[tuple[int, Event]]:
        if self.check is None:
            return self._pool.events(timeout)
        events = self._pool.events(CHECK_SECONDS if timeout is None else timeout)
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self.check()  # before the events are used, also after a long sleep
            self._checked = time.monotonic()
        return events

    def _after_death(self, task: _Task, event: Failed) -> Event:
        """Run the job again, with a note; one with a request to stop has stopped."""
        if task.stopped:
            return Stopped()
        if task.deaths >= RETRIES:
            return event
        task.deaths += 1
        self._tasks[self._pool.submit(task.job)] = task
        return Note(text=f"{event.reason}; trying again")

    def drain(self, seconds: float) -> None:
        """Wait until every job has finished its running epoch or has ended, for at most `seconds`.

        The events are dropped: they are in the checkpoints.
        """
        waiting = set(self._tasks)
        deadline = time.monotonic() + seconds
        while waiting and (left := deadline - time.monotonic()) > 0:
            for ticket, event in self._pool.events(left):
                if isinstance(event, EpochDone | LastEvent):
                    waiting.discard(ticket)

    def run(self, job: Job, listen: Callable[[Event], None] = lambda event: None) -> Result:
        """Run one job to its end, alone, and return its result. Raises what made it fail."""
        for _, event in self.run_all({"": job}, lambda _, event: listen(event)):
            if isinstance(event, Diverged):
                raise DivergenceError(event.reason)
            return event
        raise WorkerError("the job ended without a result")

    def run_all(
        self,
        jobs: Mapping[Key, Job],
        listen: Callable[[Key, Event], None] = lambda key, event: None,
    ) -> Iterator[tuple[Key, Result | Diverged]]:
        """Run jobs, as many at once as there are workers; yield (key, last event) as they end.

        Other events go to `listen`; a job that fails raises its error here.
        """
        waiting = list(jobs.items())
        self._start_some(waiting)
        while self.busy:
            for key, event in self.events():
                if isinstance(event, Result | Diverged):
                    self._start_some(waiting)  # first: what is done with a result takes time
                    yield key, event
                elif isinstance(event, LastEvent):
                    raise error_of(event)
                else:
                    listen(key, event)

    def _start_some(self, waiting: list[tuple[Key, Job]]) -> None:
        """Give every free worker the next of the waiting jobs."""
        while waiting and self.free > 0:
            self.start(*waiting.pop(0))


def error_of(event: LastEvent) -> RetortError:
    """Return the error that the last event of a job without a result describes."""
    if not isinstance(event, Failed):
        return WorkerError("a job failed: the job was stopped")
    kind = getattr(errors, event.kind, None)
    if isinstance(kind, type) and issubclass(kind, RetortError):
        return kind(event.reason)
    return WorkerError(f"a job failed: {event.kind} {event.reason}")
