"""What each part of the winner's recipe is worth."""

from collections.abc import Sequence

from reports.compute.comparisons import Comparison
from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart, difference_row
from reports.draw.shared import comparison_cells, looks, row_panel
from reports.findings import Findings
from reports.read.data import StudyData
from reports.statistics import MINIMUM_PAIRS
from reports.wording import Measure, counted

GROUP = "Evidence"
ORDER = 30
NAME = "Ablations"


def draw(findings: Findings) -> Figure:
    """Draw the winner's recipe without each of its parts, the most valuable part first."""
    ablations, data, measure = findings.ablations, findings.data, findings.data.measure
    if not ablations:
        return Figure(title="No ablation yet", note=_note(data))
    title = _title(measure, ablations)
    chart = RowChart(
        rows=[_row(data, ablation) for ablation in ablations],
        axis=measure.difference("ablation minus winner"),
        reference=0.0,
        reference_label="winner",
    )
    return Figure(
        title=title,
        caption="The winner's recipe without one of its parts, on the same seeds: each dot is one "
        f"seed, the bar is the mean with its 95 % interval over seeds and test {data.example}s, "
        "as wide as Holm's correction over the ablations asks, so that it leaves out 0 where a "
        "part matters. A constant schedule keeps the mean of the one that it replaces.",
        panels=[row_panel("ablations", chart, title)],
        tables=[
            Table.of(
                {"recipe": one.a.label, **comparison_cells(measure, one, "minus the winner")}
                for one in ablations
            )
        ],
    )


def _note(data: StudyData) -> str:
    if data.of_role("ablation"):
        return f"The ablations do not have {MINIMUM_PAIRS} seeds yet."
    seeds = str(max(MINIMUM_PAIRS, data.seeds))
    return (
        "Ablations train the winner's recipe without each of its parts. To run them: "
        f"{data.command('confirm', '--ablate', '--seeds', seeds)}"
    )


def _title(measure: Measure, ablations: Sequence[Comparison]) -> str:
    """How many parts matter after Holm's correction, and then what cost most."""
    sure = [one for one in ablations if one.p_holm is not None and one.p_holm < 0.05]
    most = max(sure or ablations, key=lambda one: abs(one.difference.mean))
    by = measure.change(most.difference.mean)
    within = measure.interval(most.corrected.low, most.corrected.high)
    verb = "makes" if len(sure) == 1 else "make"
    return (
        f"{len(sure) or 'None'} of {counted(len(ablations), 'ablation')} {verb} a difference "
        f"beyond chance; the largest change of the winner is {by} ({within}), {most.a.title}"
    )


def _row(data: StudyData, ablation: Comparison) -> Row:
    by = data.measure.number(ablation.difference.mean, sign=True)
    look = looks(data)[ablation.a.arm]
    label = f"{ablation.a.title}  {by}"
    return difference_row(label, look, ablation.corrected, data.measure.scale)
