"""Trains every recipe of the grid to the horizon, without pruning, and writes its learning curves.

    python -m tests.replay.record ROOT      972 runs of 12 epochs; goes on where it was interrupted

ROOT is the folder of a study on the digits, which is made if it is not there.
"""

import sys
from pathlib import Path

from conductor.command_line.cli import main
from conductor.stages.provenance import read_context
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics
from storage.files.layout import Layout, RunLayout
from storage.files.records import RunRecord
from tests.replay.grid import SEEDS, TABLE, Point, points, recipe_at, write_table
from workers.events import Diverged, EpochDone, Event
from workers.jobs import TrainJob
from workers.pools.worker_pool import WorkerPool, make_pool

Key = tuple[Point, int]


def record(root: Path, workers: str) -> None:
    """Make the study, whose teacher and cache serve all runs; then train what is missing."""
    prepared = main(["--trials", "1", "--seeds", "1", "--name", "replay", "--root", str(root)])
    if prepared:
        raise SystemExit(prepared)
    context = read_context(Layout(root).study("replay"))
    protocol = context.protocol
    runs: dict[Key, RunLayout] = {
        (point, seed): RunLayout(root / "grid" / "-".join(map(str, point)) / str(seed))
        for point in points()
        for seed in range(SEEDS)
    }
    jobs = {
        (point, seed): context.job(
            TrainJob,
            folder=str(run.folder),
            recipe=recipe_at(point),
            seed=derive_seed(protocol.seed, "replay", seed),
            horizon=protocol.epochs,
            views=list(range(protocol.view_count)),
        )
        for (point, seed), run in runs.items()
        if not run.result.exists()
    }
    histories: dict[Key, list[EpochMetrics]] = {}

    def listen(key: Key, event: Event) -> None:
        if isinstance(event, EpochDone):
            histories.setdefault(key, []).append(event.metrics)

    pool = make_pool(workers)
    pool.start()
    try:
        for done, (key, event) in enumerate(WorkerPool(pool).run_all(jobs, listen), 1):
            _keep(runs[key], jobs[key], event, histories.pop(key, []))
            print(f"{done} of {len(jobs)}", flush=True)
    finally:
        pool.close()
    write_table(TABLE, {key: _curve(RunRecord.read(run.result)) for key, run in runs.items()})


def _keep(run: RunLayout, job: TrainJob, event: Event, history: list[EpochMetrics]) -> None:
    RunRecord(
        recipe=job.recipe,
        seed=job.seed,
        horizon=job.horizon,
        outcome="diverged" if isinstance(event, Diverged) else "complete",
        history=history,
        seconds=sum(metrics.seconds for metrics in history),
    ).write(run.result)
    run.checkpoint.unlink(missing_ok=True)


def _curve(record: RunRecord) -> list[float]:
    """Validation accuracy by epoch; 0 from where a run diverged."""
    told = [metrics.accuracy for metrics in record.history]
    return told + [0.0] * (record.horizon - len(told))


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "auto")
