"""Verification of a study's teacher cache."""

from conductor.display import Display
from conductor.stages.provenance import read_context
from kd.errors import StudyError
from storage.files.layout import StudyLayout
from workers.events import Result
from workers.jobs import VerifyJob
from workers.pools.worker_pool import WorkerPool

TOLERANCE = 1e-3  # of logits and scaled features: what another batch size or machine may change


def verify_cache(paths: StudyLayout, workers: WorkerPool, rows: int, display: Display) -> float:
    """Check every shard against its checksum and, on `rows` random rows, against the teacher.

    Prints and returns the largest difference. Raises ArtifactError for a damaged shard, StudyError
    when the difference is larger than rounding explains.
    """
    context = read_context(paths)
    if context.cache == "none":
        raise StudyError(f"study {paths.name} has no teacher cache: it used the live teacher")
    views = range(context.protocol.view_count)
    jobs = {view: context.job(VerifyJob, view=view, rows=rows) for view in views}
    largest = 0.0
    for view, result in workers.run_all(jobs):
        assert isinstance(result, Result)  # nothing is trained, so nothing diverges
        largest = max(largest, result["difference"])
        display.say(
            f"view {view}: {result['rows']} rows differ by at most {result['difference']:.2g}"
        )
    display.say(f"{len(jobs)} views agree with the teacher to {largest:.2g}")
    if largest > TOLERANCE:
        raise StudyError(
            f"the teacher cache differs from the teacher by {largest:.3g}; "
            f"delete {context.layout.shards(context.shards)} and run the study again"
        )
    return largest
