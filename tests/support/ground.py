"""A root with a data set, a teacher and its cache, the jobs on it, and what runs them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.training.history import EpochMetrics
from storage.files.layout import Layout
from tests.support.small import DISTILLED, protocol
from workers.events import EpochDone, Event, LastEvent, Result
from workers.jobs import Job, PrepareJob, ProjectionJob, ShardJob, TeacherJob, TrainJob
from workers.pools.inline import InlinePool
from workers.pools.worker_pool import Pool

PATIENCE = 60  # s that a test waits for what should happen at once, on a machine under load
FOREVER = 100_000  # epochs
HINT = replace(DISTILLED, feature_kind="hint", feature_weight=0.5, feature_taps=("last1", "last2"))

J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Ground:
    """A root, its protocol, and the fingerprints of what is there."""

    root: Path
    protocol: Protocol
    dataset: str = ""
    teachers: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    cache: str = "all"

    @classmethod
    def prepare(cls, root: Path) -> Self:
        """Prepare a data set, a teacher, projections and two shards."""
        ground = cls(root, protocol())
        ground = replace(ground, dataset=ground.made(PrepareJob)["dataset"])
        ground = replace(ground, teachers=(ground.made(TeacherJob)["teacher"],))
        ground = replace(ground, shards=(ground.made(ProjectionJob)["shards"],))
        for view in (0, 1):
            assert isinstance(run(InlinePool(), ground.shard(view))[0], Result)
        return ground

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def made(self, kind: type[Job]) -> Result:
        """Run a job and return its result."""
        found, _ = run(InlinePool(), self.job(kind))
        assert isinstance(found, Result), found
        return found

    def job(self, kind: type[J], **changes: Any) -> J:
        given = {**vars(self), "root": str(self.root), **changes}
        return kind(**{"taps": given["protocol"].tap_names, **given})

    def shard(self, view: int = 0, **changes: Any) -> ShardJob:
        return self.job(ShardJob, **{"view": view, "features": True, **changes})

    def train(self, recipe: Recipe, name: str = "run", **changes: Any) -> TrainJob:
        own = {"recipe": recipe, "seed": 5, "horizon": 2, "views": [0, 1]}
        return self.job(TrainJob, **{**own, "folder": str(self.root / name), **changes})

    def trial(self, name: str, horizon: int = FOREVER) -> TrainJob:
        return self.train(HINT, f"trials/{name}", horizon=horizon)


def run(pool: Pool, job: Job) -> tuple[Event, list[Event]]:
    """Return the last event of a job, and all before it."""
    ticket, events = pool.submit(job), []
    while True:
        for found, event in pool.events(PATIENCE):
            assert found == ticket
            if isinstance(event, LastEvent):
                return event, events
            events.append(event)


def history(events: list[Event]) -> list[EpochMetrics]:
    """The epochs among the events, without the time that they took."""
    return [replace(event.metrics, seconds=0.0) for event in events if isinstance(event, EpochDone)]
