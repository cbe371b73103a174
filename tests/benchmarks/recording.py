"""A study watched from outside: when each of its jobs was given to a worker, and when it ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from conductor.command_line import cli
from conductor.request import Workers
from workers.events import EpochDone, Event, LastEvent
from workers.jobs import Job, TrainJob
from workers.pools.worker_pool import Pool


class SearchOver(BaseException):  # which the command line does not report as a bug
    """The search has ended, and nothing that comes after it is wanted."""


@dataclass(slots=True)
class Span:
    """A job's time at a worker, on the clock of `time.perf_counter`; `trained`: s in epochs."""

    job: Job
    begun: float
    ended: float = 0.0
    trained: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.begun

    @property
    def kind(self) -> str:
        """What the job is for: its class or, of a student, the folder of its stage."""
        if isinstance(self.job, TrainJob):
            return Path(self.job.folder).parts[-3]  # trials, selection or confirm
        return type(self.job).__name__


@dataclass(slots=True)
class Recording:
    """All jobs of a study; its clock begins with the first event, when a worker has started."""

    workers: int
    search_only: bool
    watch: Callable[[], None]  # called at every epoch of a training job
    begun: float = 0.0
    ended: float = 0.0
    spans: list[Span] = field(default_factory=list)

    @property
    def trials(self) -> list[Span]:
        return [span for span in self.spans if span.kind == "trials"]

    @property
    def search(self) -> float:
        """Seconds from the start of the first trial to the end of the last."""
        return max(one.ended for one in self.trials) - self.trials[0].begun

    @property
    def searched_from_nothing(self) -> float:
        """Seconds from the first event, before data and teacher, to the end of the last trial."""
        return max(one.ended for one in self.trials) - self.begun


class RecordingPool:
    """A pool that notes in a recording what another is given, and what comes of it."""

    def __init__(self, pool: Pool, recording: Recording) -> None:
        self._pool = pool
        self._recording = recording
        self._open: dict[int, Span] = {}

    @property
    def size(self) -> int:
        return self._pool.size

    @property
    def busy(self) -> int:
        return self._pool.busy

    def start(self) -> None:
        self._pool.start()

    def close(self) -> None:
        self._pool.close()

    def stop(self, ticket: int) -> None:
        self._pool.stop(ticket)

    def submit(self, job: Job) -> int:
        span = Span(job, time.perf_counter())
        if self._recording.search_only and span.kind in ("selection", "confirm"):
            raise SearchOver
        ticket = self._pool.submit(job)
        self._open[ticket] = span
        self._recording.spans.append(span)
        return ticket

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        found = self._pool.events(timeout)
        now = time.perf_counter()
        self._recording.begun = self._recording.begun or now
        for ticket, event in found:
            if isinstance(event, EpochDone):
                self._open[ticket].trained += event.metrics.seconds
                self._recording.watch()
            if isinstance(event, LastEvent):
                self._open.pop(ticket).ended = now
        return found


def record(
    root: Path,
    *flags: str,
    workers: int = 2,
    search_only: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Recording:
    """Run `python study.py` with these flags in this process, silently, and return its recording.

    With `search_only` it is left when the search is over. Raises RuntimeError when it fails.
    """
    recording = Recording(workers, search_only, watch)
    arguments = ["run", "--root", str(root), "--workers", str(workers), *flags]
    with _recorded(recording), redirect_stdout(StringIO()), suppress(SearchOver):
        if cli.main(arguments):
            raise RuntimeError(f"the study failed: {' '.join(arguments)}")
    recording.ended = time.perf_counter()
    return recording


@contextmanager
def _recorded(recording: Recording) -> Iterator[None]:
    pool = Workers.pool

    def make(*given: Any) -> Pool:
        return RecordingPool(pool(*given), recording)

    with mock.patch.object(Workers, "pool", make):
        yield
