"""What all benchmarks share: two things run in turn, and the ratio of their times.

An absolute time means little on a shared machine; a ratio of two things that ran next to each other
means more, and its spread over the rounds says how much.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

ROUNDS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure: median over the rounds, with the least and the greatest.

    `goal` is what the median should be, at most or, with `at_least`, at least; None for a figure
    that is only told. `unit` is empty for a ratio.
    """

    what: str
    median: float
    low: float
    high: float
    unit: str = ""
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.at_least else self.median <= self.goal


class More(TypedDict, total=False):
    """What a figure may have besides its values."""

    unit: str
    goal: float | None
    at_least: bool
    note: str


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes, by the clock on the wall."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def ratio(
    what: str,
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    scale: float = 1.0,
    rounds: int = ROUNDS,
    **more: Unpack[More],
) -> Figure:
    """Time both in turn, the order changing from round to round, and divide first by second.

    Each round gives one ratio. `scale` is what the time of the first is multiplied by, where it
    does more at once: 1 / 10 for ten batches against one. Both run once before any is timed. The
    median times are added to the note.
    """
    first()
    second()
    pairs = []
    for number in range(rounds):
        if number % 2:
            over, under = seconds(first), seconds(second)
        else:
            under, over = seconds(second), seconds(first)
        pairs.append((scale * over, under))
    times = [_duration(statistics.median(column)) for column in zip(*pairs, strict=True)]
    more["note"] = "; ".join(filter(None, [more.get("note"), " against ".join(times)]))
    return spread(what, [over / under for over, under in pairs], **more)


def spread(what: str, values: Sequence[float], **more: Unpack[More]) -> Figure:
    """Return the figure of values that were measured one after another, one a round."""
    median = statistics.median(values)
    return Figure(what=what, median=median, low=min(values), high=max(values), **more)


def _duration(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
