"""The display of a running study: a live view on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from reports.wording import duration

REFRESH = 4  # times a second


@dataclass(slots=True)
class _Run:
    """A run in progress: `epoch` of `horizon`, with the metric on the validation split after it."""

    title: str
    horizon: int
    epoch: int = 0
    value: str = ""


@dataclass(slots=True)
class _Stage:
    """A part of the study: `total` runs, or what they are counted in, `done` when it began."""

    title: str
    total: int
    done: int
    begun: float
    ended: int = 0

    def time_left(self) -> str:
        """Estimate from the runs that have ended since the stage began; empty before the first."""
        left = self.total - self.done - self.ended
        if not self.ended or left <= 0:
            return ""
        return duration(round((time.monotonic() - self.begun) / self.ended * left))


class Display:
    """Prints progress to standard output; errors are printed elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _console()
        self._bars = _bars(self.console)
        self._stage: _Stage | None = None
        self._runs: dict[object, _Run] = {}
        self._summary: dict[str, str] = {}

    @property
    def is_live(self) -> bool:
        return self.console.is_terminal

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(escape(text))

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the live view during the block, if the output is a terminal."""
        if not self.is_live:
            yield
            return
        with Live(get_renderable=self._view, console=self.console, refresh_per_second=REFRESH):
            yield

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Yield a progress bar for a job with `total` parts, called with those done and in all."""
        if self.is_live:
            task = self._bars.add_task(title, total=total)
            yield lambda done, end: self._bars.update(task, completed=done, total=end)
            self._bars.remove_task(task)
            return
        self.say(f"{title} …")
        yield lambda done, end: None

    def begin(self, title: str, total: int, done: int) -> None:
        """Begin a stage of `total` runs, of which `done` are finished already."""
        self._stage = _Stage(title, total, done, time.monotonic())

    def run_started(self, key: object, title: str, horizon: int) -> None:
        self._runs[key] = _Run(title, horizon)

    def epoch(self, key: object, epoch: int, value: str) -> None:
        run = self._runs[key]
        run.epoch, run.value = epoch, value

    def run_ended(self, key: object, text: str, part: int = 1) -> None:
        """Print how a run ended and, without a live view, the time left.

        `part` is how much of the stage's total it was.
        """
        self._runs.pop(key, None)
        left = ""
        if self._stage:
            self._stage.ended += part
            left = self._stage.time_left()
        self.say(f"{text}{f' · {left} left' if left and not self.is_live else ''}")

    def summarise(self, arm: str, text: str) -> None:
        """Set the line about an arm in the live view."""
        self._summary[arm] = text

    def _view(self) -> RenderableType:
        parts: list[RenderableType] = [self._bars]
        if self._stage:
            done = self._stage.done + self._stage.ended
            left = self._stage.time_left()
            title = f"{self._stage.title}: {done} of {self._stage.total}"
            parts.append(escape(f"{title}{f' · {left} left' if left else ''}"))
        parts += [escape(text) for text in self._summary.values()]
        if self._runs:
            parts.append(_table(list(self._runs.values())))
        return Group(*parts)


def _console() -> Console:
    """Return a console for standard output; in a notebook it prints plain lines."""
    in_notebook = Console().is_jupyter
    terminal = False if in_notebook else None
    return Console(highlight=False, soft_wrap=True, force_jupyter=False, force_terminal=terminal)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _table(runs: list[_Run]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("running", "epoch", "validation"):
        table.add_column(heading)
    for run in runs:
        table.add_row(escape(run.title), f"{run.epoch}/{run.horizon}", run.value)
    return table
