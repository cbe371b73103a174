"""All limitations of a study, the most serious first."""

from reports.caveats.edges import of_edges
from reports.caveats.evidence import (
    of_classes,
    of_collapse,
    of_evidence,
    of_learning,
    of_seal,
    of_teacher,
)
from reports.caveats.fixed import of_protocol
from reports.caveats.leaks import of_weights
from reports.caveats.openings import of_choices, of_others
from reports.caveats.search import of_pruning, of_search, of_tuning, of_warm_start
from reports.compute.audit import Audit
from reports.compute.rungs import ArmRungs, of_signal
from reports.compute.verdict import Verdict
from reports.read.data import StudyData


def find_caveats(
    data: StudyData, verdict: Verdict, audits: tuple[Audit, ...], rungs: tuple[ArmRungs, ...]
) -> tuple[str, ...]:
    """Return one or two sentences for each limitation, the most serious first."""
    return (
        *of_learning(data),
        *of_teacher(data),
        *of_weights(data),
        *of_tuning(data),
        *of_others(data),
        *of_choices(data),
        *of_collapse(data, verdict),
        *of_evidence(data, verdict),
        *of_classes(data),
        *of_search(data),
        *of_edges(data),
        *of_warm_start(data),
        *of_pruning(data.settings.pruner, data.protocol.margin, audits, data.measure),
        *of_signal(rungs),
        *of_protocol(data),
        *of_seal(data),
    )
