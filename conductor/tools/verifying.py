"""Verification of a study's teacher cache."""

from collections.abc import Mapping, Sequence
from typing import Any

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

    Prints the largest difference, and what keeping the logits in fewer bytes changes, if it does.
    Raises ArtifactError for a damaged shard, StudyError if the difference exceeds rounding, or is
    no number.
    """
    context = read_context(paths)
    if context.cache == "none":
        raise StudyError(f"study {paths.name} has no teacher cache: it used the live teacher")
    for place, label in enumerate(context.protocol.teacher_labels):
        results = _compare(context, workers, rows, display, place)
        largest = float(np.max([one["difference"] for one in results]))
        if not largest <= TOLERANCE:
            raise StudyError(
                f"the teacher cache differs from the teacher by {largest:.3g}; "
                f"delete {context.layout.shards(context.shards[place])} and run the study again"
            )
        of_several = f" {model_name(label)}" if len(context.protocol.teachers) > 1 else ""
        count = context.protocol.view_count
        display.say(f"{count} views agree with the teacher{of_several} to {largest:.2g}")
        if context.protocol.cache_logits != "float32":
            found = _errors([one["errors"] for one in results])
            display.say(f"--cache-logits {context.protocol.cache_logits}{of_several}: {found}")


def _compare(
    context: JobContext, workers: WorkerPool, rows: int, display: Display, place: int
) -> list[Result]:
    """Compare the shards of the teacher at `place`; print and return the result of each view."""
    views = range(context.protocol.view_count)
    jobs = {view: context.job(VerifyJob, place=place, view=view, rows=rows) for view in views}
    results = []
    for view, result in workers.run_all(jobs):
        assert isinstance(result, Result)  # nothing is trained, so nothing diverges
        results.append(result)
        display.say(
            f"view {view}: {result['rows']} rows differ by at most {result['difference']:.2g}"
        )
    return results


def _errors(views: Sequence[Mapping[str, Any]]) -> str:
    """Return the errors of cached logits in words, over views with as many rows each."""
    logit = max(view["logit"] for view in views)
    divergences = []
    for temperature in views[0]["kl"]:
        means, largest = zip(*(view["kl"][temperature] for view in views), strict=True)
        divergences.append(
            f"{np.mean(means):.2g} on average and {max(largest):.2g} at most at T = {temperature}"
        )
    return (
        f"logits differ from the teacher's by at most {logit:.2g}, and distributions by a KL "
        f"divergence, in nats, of {', '.join(divergences)}"
    )
