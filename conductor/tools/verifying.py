"""Verification of a study's teacher cache."""

from conductor.display import Display
from kd.errors import StudyError
from kd.protocol import Protocol
from storage.files.artifacts import read_record
from storage.files.layout import Layout, StudyLayout
from storage.files.records import StudySettings
from workers.events import Result
from workers.jobs import VerifyJob
from workers.pools.crew import Crew

TOLERANCE = 1e-3  # of logits and scaled features: what another batch size or machine may change


def verify_cache(
    layout: Layout, paths: StudyLayout, crew: Crew, rows: int, display: Display
) -> float:
    """Check every shard against its checksum and, on `rows` random rows, against the teacher.

    Prints and returns the largest difference. Raises ArtifactError for a damaged shard, StudyError
    when the difference is larger than rounding explains.
    """
    protocol = read_record(paths.protocol, Protocol)
    settings = StudySettings.read(paths.settings)
    if settings.cache == "none":
        raise StudyError(f"study {paths.name} has no teacher cache: it used the live teacher")
    jobs = {
        view: VerifyJob(
            protocol=protocol,
            root=str(layout.root),
            dataset=settings.dataset,
            teacher=settings.teacher,
            shards=settings.shards,
            view=view,
            rows=rows,
        )
        for view in range(protocol.view_count)
    }
    largest = 0.0
    for view, result in crew.run_all(jobs, lambda key, event: None):
        assert isinstance(result, Result)  # nothing is trained, so nothing diverges
        largest = max(largest, result["difference"])
        display.say(
            f"view {view}: {result['rows']} rows differ by at most {result['difference']:.2g}"
        )
    display.say(f"{len(jobs)} views agree with the teacher to {largest:.2g}")
    if largest > TOLERANCE:
        raise StudyError(
            f"the teacher cache differs from the teacher by {largest:.3g}; "
            f"delete {layout.shards(settings.shards)} and run the study again"
        )
    return largest
