"""Test scores of every finalist, seed by seed."""

from reports.compute.findings import Findings, Standing
from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel, unconfirmed
from reports.read.data import StudyData
from reports.statistics import mean_and_deviation

GROUP = "Evidence"
ORDER = 10


def draw(findings: Findings) -> Figure:
    """Draw every finalist's test result on every seed, with mean and deviation."""
    standings = [one for one in findings.distinct if one.one.values]
    name = "Every seed"
    if not standings:
        note = unconfirmed(findings.data)
        return Figure(key="seeds", name=name, title="No test result yet", note=note)
    teacher, measure = findings.data.teacher_value, findings.data.measure
    chart = RowChart(
        rows=[_seed_row(findings.data, standing) for standing in standings],
        axis=measure.of("test"),
        reference=None if teacher is None else measure.scale * teacher,
        reference_label="" if teacher is None else f"teacher {measure.value(teacher)}",
    )
    title = _seeds_title(findings)
    return Figure(
        key="seeds",
        name=name,
        title=title,
        caption="Each dot is one confirmation run; the bar is its mean ± one standard deviation.",
        panels=[row_panel("seeds", chart, title)],
        tables=[_seeds_table(findings, standings)],
    )


def _seed_row(data: StudyData, standing: Standing) -> Row:
    measure = data.measure
    mean, deviation = standing.value or 0.0, standing.deviation or 0.0
    shown = measure.spread(standing.value, standing.deviation)
    return Row(
        label=f"{data.named(standing.one)}  {shown} {measure.symbol}".rstrip(),
        look=looks(data)[standing.one.finalist.arm],
        points=[measure.scale * value for value in standing.one.values],
        centre=measure.scale * mean,
        low=measure.scale * (mean - deviation),
        high=measure.scale * (mean + deviation),
    )


def _seeds_title(findings: Findings) -> str:
    a, b, measure = findings.verdict.a, findings.verdict.b, findings.data.measure
    if not a or not b or not a.values or not b.values:
        known = [one for one in findings.standings if one.value is not None]
        best = max(known, key=lambda one: one.value or 0.0)
        return f"{best.one.label} has the best mean, {measure.value(best.value, 1)}"
    mean_a, mean_b = mean_and_deviation(a.values)[0], mean_and_deviation(b.values)[0]
    means = (
        f"Tuned {a.finalist.arm} averages {measure.value(mean_a, 1)}, "
        f"tuned {b.finalist.arm} {measure.value(mean_b, 1)}"
    )
    if min(a.values) > max(b.values):
        return f"{means}: every seed of the first beats every seed of the second"
    if max(a.values) < min(b.values):
        return f"{means}: every seed of the second beats every seed of the first"
    return f"{means}: their seeds overlap"


def _seeds_table(findings: Findings, standings: list[Standing]) -> Table:
    replicates = range(findings.data.seeds)
    rows = []
    for standing in standings:
        values = {run.replicate: run.value for run in standing.one.tested}
        cells = [findings.data.measure.value(values.get(one)) for one in replicates]
        rows.append([findings.data.named(standing.one), *cells])
    return Table(columns=["finalist", *(f"seed {one + 1}" for one in replicates)], rows=rows)
