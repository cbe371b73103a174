"""Paired differences of the confirmation: every comparison, seed by seed."""

from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel, unconfirmed
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import Difference
from reports.wording import counted, figure, interval, p_value, points

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
    margin = findings.verdict.margin
    chart = RowChart(
        rows=[_difference_row(findings.data, *item) for item in found],
        axis="difference in test accuracy, points",
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
        f"test images. Shaded: the margin of ±{figure(margin)} points.",
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
        points=[100 * one for one in difference.per_seed],
        centre=100 * difference.mean,
        low=100 * difference.low,
        high=100 * difference.high,
    )


def _differences_title(findings: Findings, first: Difference) -> str:
    wins = sum(one > 0 for one in first.per_seed)
    around = "leaves out 0" if first.low > 0 or first.high < 0 else "includes 0"
    if findings.verdict.difference is None:
        return f"The interval {around}; of {counted(first.seeds, 'seed')}, {wins} favour the first"
    plain, arm = PLAIN, findings.data.primary_arm
    return (
        f"The interval {interval(first.low, first.high)} {around}; tuned {arm} is ahead of tuned "
        f"{plain} on {wins} of {counted(first.seeds, 'seed')}"
    )


def _comparison_table(findings: Findings) -> Table:
    rows = []
    verdict = findings.verdict
    if verdict.a and verdict.b and verdict.difference:
        question = "primary: distillation against none"
        rows.append(_comparison(question, verdict.a, verdict.b, verdict.difference, None))
    rows += [
        _comparison(one.question, one.a, one.b, one.difference, one.p_holm)
        for one in findings.comparisons
    ]
    columns = [
        "question",
        "first",
        "less",
        "difference, points",
        "95 % interval",
        "p",
        "p, Holm",
        "detectable, points",
        "error of seeds",
        "error of images",
    ]
    return Table(columns=columns, rows=rows, words=3)


def _comparison(
    question: str, a: FinalistData, b: FinalistData, found: Difference, p_holm: float | None
) -> list[str]:
    return [
        question,
        a.label,
        b.label,
        points(found.mean, sign=True),
        interval(found.low, found.high),
        p_value(found.p),
        p_value(p_holm),
        points(found.detectable),
        points(found.se_seed),
        points(found.se_image),
    ]
