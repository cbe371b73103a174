"""The search by promotion of a fabricated study: the real search, on jobs that train nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.storages import BaseStorage, InMemoryStorage

from conductor.search.arm import Arm
from conductor.search.loop import Search
from conductor.search.methods import SearchMethod
from conductor.search.promotion.rungs import rungs_of
from kd.protocol import Protocol
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics
from search_spaces.space import load_space
from storage.files.layout import Layout
from storage.studies.studies import open_study, study_name
from tests.support.fakes import FINGERPRINTS, FakePool, quiet
from workers.events import Diverged, EpochDone, Event, Failed, Result
from workers.jobs import JobContext, TrainJob
from workers.pools.worker_pool import WorkerPool

LAG = 4
FAILS = "00003"  # the run of each arm whose first job fails; so does its first that goes on
DIVERGES = 8  # one of so many runs does

Course = Callable[[TrainJob], list[EpochMetrics]]  # the epochs of a whole run


def search_by_promotion(
    layout: Layout,
    name: str,
    protocol: Protocol,
    storage: BaseStorage,
    arms: Sequence[str],
    trainings: int,
    course: Course,
) -> dict[str, Arm]:
    """Write the trials of these arms, with records and digests, and return the arms by name.

    The search itself is in memory, and its trials are then stored at once.
    """
    method = SearchMethod(
        sampler="", pruner="", lag=LAG, seed=protocol.seed, horizon=protocol.epochs
    )
    memory = InMemoryStorage()
    made = [
        Arm(load_space(arm), open_study(memory, study_name(name, arm), {}), method) for arm in arms
    ]
    context = JobContext(protocol=protocol, root=str(layout.root), **FINGERPRINTS)
    pool = WorkerPool(FakePool(size=2, objective=_Jobs(course)))
    Search(made, pool, layout.study(name), quiet(), context).run(
        trainings, lambda arm, number, record: None
    )
    for arm in made:
        stored = open_study(storage, arm.study.study_name, {})
        stored.add_trials(arm.study.get_trials(deepcopy=False))
    return {arm.name: arm for arm in made}


@dataclass
class _Jobs:
    """What the jobs of a search report. A run says the same again, as from its checkpoint."""

    course: Course
    continued: set[str] = field(default_factory=set)  # arms with a job that went on with a run

    def __call__(self, job: TrainJob) -> Iterator[Event]:
        arm, run = Path(job.folder).parts[-2:]
        first, *_ = rungs_of(job.horizon)
        goes_on = first < job.end < job.horizon
        fails = run == FAILS or (goes_on and arm not in self.continued)
        self.continued |= {arm} if goes_on else set()
        last = job.end - fails
        draw = derive_seed(job.seed, str(job.recipe), "diverges")
        lost = draw % DIVERGES == 0 and not fails
        for metrics in self.course(job)[:last]:
            if lost and metrics.epoch == 4:
                yield Diverged(reason="the loss is not finite")
                return
            yield EpochDone(metrics=metrics, total=job.horizon)
        yield Failed(kind="OSError", reason="disk") if fails else Result.of(test=None)
