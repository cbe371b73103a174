"""Test scores of every finalist, seed by seed."""

from reports.compute.findings import Findings, Standing
from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel, unconfirmed
from reports.read.data import StudyData
from reports.statistics import mean_and_deviation
from reports.wording import percent, spread

GROUP = "Evidence"
ORDER = 10


def draw(findings: Findings) -> Figure:
    """Draw every finalist's test accuracy on every seed, with mean and deviation."""
    standings = [one for one in findings.distinct if one.one.accuracies]
    name = "Every seed"
    if not standings:
        note = unconfirmed(findings.data)
        return Figure(key="seeds", name=name, title="No test accuracy yet", note=note)
    teacher = findings.data.teacher_test.get("accuracy")
    chart = RowChart(
        rows=[_seed_row(findings.data, standing) for standing in standings],
        axis="test accuracy, %",
        reference=None if teacher is None else 100 * teacher,
        reference_label="" if teacher is None else f"teacher {percent(teacher)}",
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
    mean, deviation = standing.accuracy or 0.0, standing.deviation or 0.0
    return Row(
        label=f"{data.named(standing.one)}  {spread(standing.accuracy, standing.deviation)} %",
        look=looks(data)[standing.one.finalist.arm],
        points=[100 * value for value in standing.one.accuracies],
        centre=100 * mean,
        low=100 * (mean - deviation),
        high=100 * (mean + deviation),
    )


def _seeds_title(findings: Findings) -> str:
    a, b = findings.verdict.a, findings.verdict.b
    if not a or not b or not a.accuracies or not b.accuracies:
        best = max(findings.standings, key=lambda one: one.accuracy or 0.0)
        return f"{best.one.label} has the best mean, {percent(best.accuracy, 1)}"
    mean_a, mean_b = mean_and_deviation(a.accuracies)[0], mean_and_deviation(b.accuracies)[0]
    means = (
        f"Tuned {a.finalist.arm} averages {percent(mean_a, 1)}, "
        f"tuned {b.finalist.arm} {percent(mean_b, 1)}"
    )
    if min(a.accuracies) > max(b.accuracies):
        return f"{means}: every seed of the first lies above every seed of the second"
    if max(a.accuracies) < min(b.accuracies):
        return f"{means}: every seed of the first lies below every seed of the second"
    return f"{means}: their seeds overlap"


def _seeds_table(findings: Findings, standings: list[Standing]) -> Table:
    replicates = range(findings.data.seeds)
    rows = []
    for standing in standings:
        accuracies = {
            run.replicate: run.record.test["accuracy"]
            for run in standing.one.tested
            if run.record.test
        }
        cells = [percent(accuracies.get(replicate)) for replicate in replicates]
        rows.append([findings.data.named(standing.one), *cells])
    return Table(columns=["finalist", *(f"seed {one + 1}" for one in replicates)], rows=rows)
