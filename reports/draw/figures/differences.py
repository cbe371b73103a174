"""Paired differences of the confirmation: every comparison, seed by seed."""

from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel, unconfirmed
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import Difference
from reports.wording import Measure, counted, figure, p_value

GROUP = "Evidence"
ORDER = 20


def draw(findings: Findings) -> Figure:
    """Draw every comparison's paired differences, with interval, zero and the margin."""
    found = _differences(findings)
    name = "Paired differences"
    if not found:
        note = "No two finalists share two seeds."
        if not findings.data.finalists:
            note = unconfirmed(findings.data)
        return Figure(key="differences", name=name, title="No paired difference yet", note=note)
    margin, measure = findings.verdict.margin, findings.data.measure
    chart = RowChart(
        rows=[_difference_row(findings.data, *item) for item in found],
        axis=measure.difference(f"difference in test {measure.name}"),
        reference=0.0,
        reference_label="no difference",
        band=(-margin, margin) if margin else None,
    )
    title = _differences_title(findings, found[0][2])
    return Figure(
        key="differences",
        name=name,
        title=title,
        caption="Each dot is one seed; the bar is the mean with its 95 % interval over seeds and "
        f"test images. Shaded: the margin of ±{figure(margin)} {measure.unit}".rstrip()
        + ".",
        panels=[row_panel("differences", chart, title)],
        tables=[_comparison_table(findings)],
    )


def _differences(findings: Findings) -> list[tuple[FinalistData, FinalistData, Difference]]:
    verdict = findings.verdict
    found = [(one.a, one.b, one.difference) for one in findings.comparisons]
    if verdict.a and verdict.b and verdict.difference:
        return [(verdict.a, verdict.b, verdict.difference), *found]
    return found


def _difference_row(
    data: StudyData, a: FinalistData, b: FinalistData, difference: Difference
) -> Row:
    return Row(
        label=f"{a.label}, less {b.label}",
        look=looks(data)[a.finalist.arm],
        points=[data.measure.scale * one for one in difference.per_seed],
        centre=data.measure.scale * difference.mean,
        low=data.measure.scale * difference.low,
        high=data.measure.scale * difference.high,
    )


def _differences_title(findings: Findings, first: Difference) -> str:
    wins = sum(one > 0 for one in first.per_seed)
    around = "leaves out 0" if first.low > 0 or first.high < 0 else "includes 0"
    if findings.verdict.difference is None:
        return f"The interval {around}; of {counted(first.seeds, 'seed')}, {wins} favour the first"
    plain, arm = PLAIN, findings.data.primary_arm
    return (
        f"The interval {findings.data.measure.interval(first.low, first.high)} {around}; tuned "
        f"{arm} is ahead of tuned {plain} on {wins} of {counted(first.seeds, 'seed')}"
    )


def _comparison_table(findings: Findings) -> Table:
    rows = []
    verdict, measure = findings.verdict, findings.data.measure
    if verdict.a and verdict.b and verdict.difference:
        question = "primary: distillation against none"
        rows.append(_comparison(measure, question, verdict.a, verdict.b, verdict.difference, None))
    rows += [
        _comparison(measure, one.question, one.a, one.b, one.difference, one.p_holm)
        for one in findings.comparisons
    ]
    columns = [
        "question",
        "first",
        "less",
        measure.difference("difference"),
        "95 % interval",
        "p",
        "p, Holm",
        measure.in_unit("detectable"),
        "error of seeds",
        "error of images",
    ]
    return Table(columns=columns, rows=rows, words=3)


def _comparison(
    measure: Measure,
    question: str,
    a: FinalistData,
    b: FinalistData,
    found: Difference,
    p_holm: float | None,
) -> list[str]:
    return [
        question,
        a.label,
        b.label,
        measure.number(found.mean, sign=True),
        measure.interval(found.low, found.high),
        p_value(found.p),
        p_value(p_holm),
        measure.number(found.detectable),
        measure.number(found.se_seed),
        measure.number(found.se_image),
    ]
