"""A pool with one worker in this process: for tests, debuggers and profilers."""

from collections.abc import Iterator

from kd.errors import WorkerError
from workers.events import Event, LastEvent, Stopped
from workers.jobs import Job


class InlinePool:
    """Runs one job at a time in this process; each call of `events` runs it to its next event."""

    size = 1

    def __init__(self) -> None:
        self._tickets = 0
        self._events: Iterator[Event] | None = None
        self._stop_requested = False

    def start(self) -> None:
        """Nothing to start: torch is imported with the first job."""

    @property
    def busy(self) -> int:
        return int(self._events is not None)

    def submit(self, job: Job) -> int:
        """Begin `job` and return its ticket. Raises WorkerError while another job runs."""
        if self._events is not None:
            raise WorkerError("the inline worker is busy")
        from workers.device import choose_device
        from workers.execute import execute

        self._tickets += 1
        self._stop_requested = False
        self._events = execute(job, choose_device(0), lambda: self._stop_requested)
        return self._tickets

    def stop(self, ticket: int) -> None:
        """Stop the job at its next step."""
        self._stop_requested = self._stop_requested or ticket == self._tickets

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        """Run the job up to its next event."""
        if self._events is None:
            return []
        event = next(self._events, Stopped())  # an interrupt has ended the generator
        if isinstance(event, LastEvent):
            self._events = None
        return [(self._tickets, event)]

    def close(self) -> None:
        self._events = None
