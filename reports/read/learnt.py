"""What the surrogate of a search by promotion has learnt of an arm, as far as it is recorded."""

from dataclasses import replace

from reports.read.importances import learnt_importances
from reports.read.trials import ArmData
from reports.wording import counted
from storage.files.layout import StudyLayout
from storage.files.records import SearchRecord

STARTUP_RUNS = 6  # before the surrogate proposes recipes (`conductor/search/promotion/rungs.py`)


def read_learnt(study: StudyLayout, missing: list[str]) -> SearchRecord | None:
    """Return the record, None before there is one. Raises ArtifactError when it is damaged."""
    if study.search.is_file():
        return SearchRecord.read(study.search)
    missing.append("what the search has learnt (importances, expected values)")
    return None


def with_learnt(arm: ArmData, record: SearchRecord | None) -> ArmData:
    """Return an arm with what its surrogate has learnt, and a note on what is lacking."""
    if not arm.trials:
        return arm
    if record is None:
        note = "Still searching: what the surrogate has learnt is recorded when the search ends."
        return replace(arm, importances_note=note)
    learnt = record.arms.get(arm.name)
    if learnt is None:
        note = f"The surrogate was last recorded with fewer than {STARTUP_RUNS} runs: too few."
        return replace(arm, importances_note=note)
    further = sum(trial.state != "RUNNING" for trial in arm.trials[learnt.trials :])
    since = (
        f"Recorded after {counted(learnt.trials, 'trial')}; {further} more have ended since. "
        "It is recorded again when the search ends."
    )
    return replace(
        arm,
        importances=learnt_importances(learnt),
        importances_note=since if further else "",
        plane=learnt.plane,
        trusted=learnt.trusted,
    )
