"""A pool without processes, a storage that fails in between, and arms, all without training.

`FakePool` ends its jobs in an order that a seed decides; `landscape` is what training would say.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from rich.console import Console

from conductor.display import Display
from conductor.search.arm import Arm
from conductor.search.budget import Budget
from conductor.search.loop import Search
from conductor.search.methods import SearchMethod
from conductor.search.promotion.rungs import rungs_of
from kd.protocol import Protocol
from kd.training.history import EpochMetrics
from search_spaces.context import StudyContext
from search_spaces.space import Space, load_space
from storage.files.layout import Layout, StudyLayout
from storage.files.records import RunRecord, SpaceSource, StudySettings
from storage.studies.studies import open_study, study_name
from workers.events import Diverged, EpochDone, Event, Failed, LastEvent, Result, Stopped
from workers.jobs import Job, JobContext, TrainJob
from workers.pools.worker_pool import Pool, WorkerPool

HORIZON = 8
FINGERPRINTS = {"dataset": "d" * 16, "teachers": ("e" * 16,), "shards": ("f" * 16,), "cache": "all"}
Objective = Callable[[TrainJob], Iterable[Event]]


class Killed(BaseException):
    """The supervisor dies here; nothing in the project catches it."""


def protocol(**changed: Any) -> Protocol:
    fields: dict[str, Any] = {
        "dataset": "digits",
        "image_size": 8,
        "teachers": ("resnet8",),
        "teacher_epochs": 1,
        "students": ("resnet8-w0.25",),
        "epochs": HORIZON,
        "views": 3,
        "augment": "crop=1,flip",
    }
    return Protocol(**{**fields, **changed})


def metrics(epoch: int, accuracy: float, **changed: Any) -> EpochMetrics:
    values: dict[str, Any] = {
        "epoch": epoch,
        "objective": accuracy,
        "accuracy": accuracy,
        "nll": 1 - accuracy,
        "ece": 0.1,
        "early_nll": 1 - accuracy,
        "agreement": None,
        "teacher_kl": None,
        "loss": 1.0,
        "hard_loss": 1.0,
        "soft_loss": 0.0,
        "feature_loss": 0.0,
        "temperature": 4.0,
        "alpha": 0.5,
        "lr": 0.1,
        "seconds": 0.25,
    }
    return EpochMetrics(**{**values, **changed})


def epochs(accuracies: list[float]) -> list[Event]:
    """Return the epoch events of a run with these validation accuracies."""
    told = [metrics(epoch, accuracy) for epoch, accuracy in enumerate(accuracies, 1)]
    return [EpochDone(metrics=one, total=len(accuracies)) for one in told]


def trained(accuracies: list[float]) -> list[Event]:
    """Return the events of a run that ends well."""
    return [*epochs(accuracies), Result.of(test=None)]


def diverged(accuracies: list[float]) -> list[Event]:
    """Return the events of a run whose loss stops being finite after these epochs."""
    return [*epochs(accuracies), Diverged(reason="the loss is not finite")]


def failed(kind: str = "OSError", reason: str = "no space left on device") -> list[Event]:
    return [Failed(kind=kind, reason=reason)]


def landscape(job: TrainJob) -> list[Event]:
    """Say what training might: curves that differ by recipe and seed, and a run that diverges."""
    draw = random.Random(f"{job.recipe} {job.seed}")
    goal, speed = draw.uniform(0.2, 0.9), draw.uniform(0.1, 1)
    accuracies = [
        goal * (1 - (1 - speed) ** epoch) + draw.uniform(0, 0.05)
        for epoch in range(1, job.horizon + 1)
    ]
    if draw.random() < 0.1:
        return diverged(accuracies[:2])
    return trained(accuracies)


class FakePool:
    """Runs up to `size` jobs at once; `seed` decides which of them says its next events when.

    A job that was told to stop may still say some epochs, and may even end before it hears of it.
    One that ends below its horizon says what `objective` does until then.
    `jobs` has all that were submitted, by ticket - 1.
    """

    def __init__(self, size: int = 1, seed: int = 0, objective: Objective = landscape) -> None:
        self.size = size
        self.objective = objective
        self.jobs: list[Job] = []
        self.stopped: set[int] = set()
        self.fuse: int | None = None  # calls of `events` until the supervisor is killed
        self.on_submit: Callable[[Job], None] = lambda job: None
        self._random = random.Random(seed)
        self._running: dict[int, Iterator[Event]] = {}

    @property
    def busy(self) -> int:
        return len(self._running)

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        self._running.clear()

    def submit(self, job: Job) -> int:
        assert self.busy < self.size, "more jobs than workers"
        assert len(self.jobs) < 500, "the search does not end"
        self.on_submit(job)
        self.jobs.append(job)
        ticket = len(self.jobs)
        self._running[ticket] = self._run(ticket, job)
        return ticket

    def stop(self, ticket: int) -> None:
        self.stopped.add(ticket)

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed
        ticket = self._random.choice(sorted(self._running))
        found: list[tuple[int, Event]] = []
        for _ in range(self._random.randint(1, 3)):
            found.append((ticket, next(self._running[ticket])))
            if isinstance(found[-1][1], LastEvent):
                del self._running[ticket]
                break
        return found

    def _run(self, ticket: int, job: Job) -> Iterator[Event]:
        assert isinstance(job, TrainJob)
        for event in self.objective(job):
            if ticket in self.stopped and self._random.random() < 0.5:
                yield Stopped()
                return
            yield event
            if isinstance(event, EpochDone) and event.metrics.epoch == job.end < job.horizon:
                yield Result.of(test=None)
                return


class DyingStorage(InMemoryStorage):
    """A study's storage that outlives its supervisor, which dies before write number `fuse`."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse: int | None = None

    def _burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed

    def create_new_trial(self, *arguments: Any, **named: Any) -> int:
        self._burn()
        return super().create_new_trial(*arguments, **named)

    def set_trial_intermediate_value(self, *arguments: Any) -> None:
        self._burn()
        super().set_trial_intermediate_value(*arguments)

    def set_trial_user_attr(self, *arguments: Any) -> None:
        self._burn()
        super().set_trial_user_attr(*arguments)

    def set_trial_system_attr(self, *arguments: Any) -> None:
        self._burn()
        super().set_trial_system_attr(*arguments)

    def set_trial_state_values(self, *arguments: Any, **named: Any) -> bool:
        self._burn()
        return super().set_trial_state_values(*arguments, **named)


@cache
def built_in(space: str, study: StudyContext | None = None) -> Space:
    """Load a space that no test changes; it is tried out once, and not for each arm."""
    return load_space(space, study)


def told(arm: Arm, number: int, value: float | None, *, gone: bool = False) -> dict[str, Any]:
    """Return the user attributes with which a trial that ends at this value is told."""
    until = arm.decisions.trial(number).user_attrs.get("until", 0)
    rungs = [rung for rung in rungs_of(HORIZON) if rung <= until and not gone]
    return {"diverged": gone, "early_signal": {str(rung): 1 - (value or 0.0) for rung in rungs}}


def make_arm(
    storage: BaseStorage,
    space: str | Space = "scheduled",
    *,
    sampler: str = "",
    pruner: str = "median",
    lag: int = 1,
    seed: int = 0,
    name: str = "study",
    budget: Budget | None = None,
) -> Arm:
    """Open an arm anew, as a session does; without a sampler it is searched by promotion."""
    loaded = built_in(space) if isinstance(space, str) else space
    pruner = pruner if sampler else ""
    method = SearchMethod(sampler=sampler, pruner=pruner, lag=lag, seed=seed, horizon=HORIZON)
    study = open_study(storage, study_name(name, loaded.name), {})
    return Arm(loaded, study, method, budget=budget)


def quiet() -> Display:
    return Display(Console(quiet=True))


def settings() -> StudySettings:
    return StudySettings(
        arms=["scheduled", "plain"],
        spaces={arm: SpaceSource(source=arm, digest="0" * 64) for arm in ("scheduled", "plain")},
        sampler="random",
        pruner="median",
        lag=1,
        storage="",
        **FINGERPRINTS,
        created="2026-01-01T00:00:00+00:00",
        command=["python", "study.py"],
        versions={},
        machine={},
    )


def context(root: Path, **changed: Any) -> JobContext:
    return JobContext(protocol=protocol(**changed), root=str(root), **FINGERPRINTS)


def study_paths(root: Path) -> StudyLayout:
    return Layout(root).study("study")


def search(
    root: Path,
    arms: list[Arm],
    pool: FakePool,
    total: int,
    publish: Callable[[Arm, int, RunRecord], None] = lambda arm, number, record: None,
) -> None:
    """Let the arms spend `total`, in trials or trainings, under `root`."""
    make_search(root, arms, pool).run(total, publish)


def undisturbed(root: Path, total: int, **chosen: Any) -> list["Row"]:
    """Return the rows of an arm in memory that spent `total`, without an interruption."""
    arm = make_arm(InMemoryStorage(), **chosen)
    search(root, [arm], FakePool(), total)
    return rows(arm.study)


def make_search(root: Path, arms: list[Arm], pool: Pool) -> Search:
    shared = context(root, seed=arms[0].decisions.method.seed)
    return Search(arms, WorkerPool(pool), study_paths(root), quiet(), shared)


Row = tuple[Any, ...]


def rows(study: optuna.Study) -> list[Row]:
    """Return all of each trial that a study must repeat: everything but times."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.values,
            trial.params,
            trial.distributions,
            trial.intermediate_values,
            trial.user_attrs,
            trial.system_attrs,
        )
        for trial in study.get_trials(deepcopy=False)
    ]
