"""What search and confirmation have in common."""

from conductor.display import Display
from conductor.search.arm import Arm
from kd.training.history import EpochMetrics
from reports.wording import measure
from storage.files.layout import StudyLayout
from storage.files.records import RunRecord
from workers.jobs import JobContext, TrainJob
from workers.pools.worker_pool import WorkerPool


class Stage:
    """A stage of a study that trains students."""

    def __init__(
        self,
        arms: list[Arm],
        workers: WorkerPool,
        layout: StudyLayout,
        display: Display,
        context: JobContext,
    ) -> None:
        self._arms = arms
        self._workers = workers
        self._layout = layout
        self._display = display
        self._context = context
        self._measure = measure(context.protocol.metric)


def run_record(
    job: TrainJob,
    history: list[EpochMetrics],
    *,
    outcome: str,
    reason: str = "",
    test: dict[str, float] | None = None,
) -> RunRecord:
    """Return the record of a run that has ended."""
    return RunRecord(
        recipe=job.recipe,
        seed=job.seed,
        horizon=job.horizon,
        outcome=outcome,
        reason=reason,
        history=history,
        seconds=sum(metrics.seconds for metrics in history),
        test=test,
    )
