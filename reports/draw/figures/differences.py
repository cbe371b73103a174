"""Paired differences of the confirmation: every comparison, seed by seed."""

from reports.compute.comparisons import Comparison
from reports.draw.drawing import Figure, Table
from reports.draw.rows import RowChart, difference_row
from reports.draw.shared import comparison_cells, looks, row_panel, unconfirmed
from reports.findings import Findings
from reports.read.data import StudyData
from reports.wording import Measure, counted

GROUP = "Evidence"
ORDER = 20
NAME = "Paired differences"


def draw(findings: Findings) -> Figure:
    """Draw every comparison's paired differences, with interval, zero and the margin."""
    data, measure = findings.data, findings.data.measure
    comparisons = _comparisons(findings)
    if not comparisons:
        note = "No two finalists were tested on the same two seeds."
        return Figure(
            title="No paired difference yet", note=note if data.finalists else unconfirmed(data)
        )
    margin = data.protocol.margin
    chart = RowChart(
        rows=[
            difference_row(one.label, looks(data)[one.a.arm], one.corrected, measure.scale)
            for one in comparisons
        ],
        axis=measure.difference(f"difference in test {measure.name}"),
        reference=0.0,
        reference_label="no difference",
        band=(-margin, margin) if margin else None,
    )
    title = _title(measure, comparisons[0])
    return Figure(
        title=title,
        caption="Each dot is one seed; the bar is the mean with its 95 % interval over seeds and "
        f"test {data.example}s, below the verdict's as wide as Holm's correction asks. Shaded: "
        f"the margin of {measure.margin(margin)}.",
        panels=[row_panel("differences", chart, title)],
        tables=[Table.of((_table_row(data, one) for one in comparisons), words=3)],
    )


def _comparisons(findings: Findings) -> list[Comparison]:
    """That of the verdict, as soon as it has a difference, and all others."""
    verdict = findings.verdict
    if not verdict.a or not verdict.b or not verdict.difference:
        return list(findings.comparisons)
    primary = Comparison(
        a=verdict.a,
        b=verdict.b,
        question="the verdict: distillation or not",
        difference=verdict.difference,
        p_holm=None,
    )
    return [primary, *findings.comparisons]


def _title(measure: Measure, first: Comparison) -> str:
    difference = first.difference
    wins = sum(value > 0 for value in difference.per_seed)
    zero = "excludes" if difference.low > 0 or difference.high < 0 else "includes"
    return (
        f"The interval {measure.interval(difference.low, difference.high)} {zero} 0; "
        f"{first.a.label} is ahead of {first.b.label} on {wins} of "
        f"{counted(difference.seeds, 'seed')}"
    )


def _table_row(data: StudyData, comparison: Comparison) -> dict[str, str]:
    difference, measure = comparison.difference, data.measure
    return {
        "question": comparison.question,
        "first": comparison.a.label,
        "minus": comparison.b.label,
        **comparison_cells(measure, comparison, "difference"),
        "standard error, seeds": measure.number(difference.se_seed),
        f"standard error, {data.example}s": measure.number(difference.se_image),
    }
