"""Test scores of every finalist, seed by seed."""

from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart
from reports.draw.shared import finalist_row, row_panel, unconfirmed
from reports.findings import Findings, Standing
from reports.read.data import StudyData
from reports.statistics import mean_and_deviation
from reports.wording import capitalised

GROUP = "Evidence"
ORDER = 10
NAME = "Every seed"


def draw(findings: Findings) -> Figure:
    """Draw every finalist's test result on every seed, with mean and deviation."""
    standings = [standing for standing in findings.distinct if standing.finalist.values]
    if not standings:
        return Figure(title="No test result yet", note=unconfirmed(findings.data))
    teacher, measure = findings.data.teacher.value, findings.data.measure
    chart = RowChart(
        rows=[_row(findings.data, standing) for standing in standings],
        axis=measure.of("test"),
        reference=None if teacher is None else measure.scale * teacher,
        reference_label="" if teacher is None else f"teacher {measure.value(teacher)}",
    )
    title = _title(findings)
    return Figure(
        title=title,
        caption="Each dot is one confirmation run; the bar is the mean ± one standard deviation.",
        panels=[row_panel("seeds", chart, title)],
        tables=[_table(findings.data, standings)],
    )


def _row(data: StudyData, standing: Standing) -> Row:
    measure, finalist = data.measure, standing.finalist
    shown = measure.with_symbol(measure.spread(standing.value, standing.deviation))
    return finalist_row(data, finalist, finalist.values, measure.scale, shown)


def _title(findings: Findings) -> str:
    a, b, measure = findings.verdict.a, findings.verdict.b, findings.data.measure
    if not a or not b or not a.values or not b.values:
        known = [standing for standing in findings.standings if standing.value is not None]
        best = max(known, key=lambda standing: standing.value or 0.0)
        return f"The best mean is {measure.value(best.value, 1)}, of {best.finalist.label}"
    means = [f"{measure.value(mean_and_deviation(one.values)[0], 1)}" for one in (a, b)]
    seeds = "the results of their seeds overlap"
    if len(a.values) == len(b.values) == 1:
        seeds = "one seed each proves nothing"
    elif min(a.values) > max(b.values):
        seeds = "every seed of the first beats every seed of the second"
    elif max(a.values) < min(b.values):
        seeds = "every seed of the second beats every seed of the first"
    return f"{capitalised(a.label)} averages {means[0]}, {b.label} {means[1]}: {seeds}"


def _table(data: StudyData, standings: list[Standing]) -> Table:
    rows = []
    for standing in standings:
        values = {run.replicate: run.value for run in standing.finalist.tested}
        by_seed = {
            f"seed {replicate + 1}": data.measure.value(values.get(replicate))
            for replicate in range(data.seeds)
        }
        rows.append({"finalist": data.named(standing.finalist), **by_seed})
    return Table.of(rows)
