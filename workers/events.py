"""Events: what a worker reports while it runs a job. They travel as JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from kd.json_data import JsonData, from_wire, kinds_in
from kd.training.history import EpochMetrics

ShouldStop = Callable[[], bool]  # called between steps: whether to end the job


class Event(JsonData):
    """Base of all events."""

    __slots__ = ()


class LastEvent(Event):
    """Base of the events that end a job."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """A part of the job is done."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone(Event):
    """An epoch of `total` was trained, or read from the checkpoint of an earlier attempt."""

    metrics: EpochMetrics
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Something that the user should read."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(LastEvent):
    """The job has succeeded. `values` are plain JSON, listed in the docstring of the job."""

    values: dict[str, Any]

    @classmethod
    def of(cls, **values: Any) -> Self:
        return cls(values=values)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged(LastEvent):
    """A loss stopped being finite."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(LastEvent):
    """The job raised an error of the class named `kind`."""

    kind: str
    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        return cls(kind=type(error).__name__, reason=str(error) or repr(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(LastEvent):
    """The job was stopped on request."""


EVENTS = kinds_in(globals(), Event)


def event_from_wire(given: Any) -> Event:
    """Return the event that `kd.json_data.to_wire` wrote. Raises ProtocolError if it is none."""
    event: Event = from_wire(given, EVENTS)
    return event
