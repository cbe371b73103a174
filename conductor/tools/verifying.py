"""Verification of a study's teacher cache."""

import numpy as np

from conductor.display import Display
from conductor.stages.provenance import read_context
from kd.errors import StudyError
from reports.wording import model_name
from storage.files.layout import StudyLayout
from workers.events import Result
from workers.jobs import JobContext, VerifyJob
from workers.pools.worker_pool import WorkerPool

TOLERANCE = 1e-3  # of logits and scaled features, for another batch size or machine


def verify_cache(paths: StudyLayout, workers: WorkerPool, rows: int, display: Display) -> None:
    """Compare every shard with its checksum and `rows` random rows with its teacher.

    Prints the largest difference. Raises ArtifactError for a damaged shard, StudyError if the
    difference exceeds rounding, or is no number.
    """
    context = read_context(paths)
    if context.cache == "none":
        raise StudyError(f"study {paths.name} has no teacher cache: it used the live teacher")
    for place, label in enumerate(context.protocol.teacher_labels):
        largest = _largest(context, workers, rows, display, place)
        if not largest <= TOLERANCE:
            raise StudyError(
                f"the teacher cache differs from the teacher by {largest:.3g}; "
                f"delete {context.layout.shards(context.shards[place])} and run the study again"
            )
        of_several = f" {model_name(label)}" if len(context.protocol.teachers) > 1 else ""
        count = context.protocol.view_count
        display.say(f"{count} views agree with the teacher{of_several} to {largest:.2g}")


def _largest(
    context: JobContext, workers: WorkerPool, rows: int, display: Display, place: int
) -> float:
    """Compare the shards of the teacher at `place`; return the largest difference, or NaN."""
    views = range(context.protocol.view_count)
    jobs = {view: context.job(VerifyJob, place=place, view=view, rows=rows) for view in views}
    differences = []
    for view, result in workers.run_all(jobs):
        assert isinstance(result, Result)  # nothing is trained, so nothing diverges
        differences.append(result["difference"])
        display.say(
            f"view {view}: {result['rows']} rows differ by at most {result['difference']:.2g}"
        )
    return float(np.max(differences))
