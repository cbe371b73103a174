"""Figures of the confirmation: every seed, and paired differences."""

from reports.compute.findings import Findings, Standing
from reports.draw.drawing import Figure, Legend, Panel, Table
from reports.draw.palette import Look, arm_looks
from reports.draw.rows import Row, RowChart, rows_plot, rows_svg
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import Difference, mean_and_deviation
from reports.wording import counted, figure, interval, p_value, percent, points, spread


def unconfirmed(data: StudyData) -> str:
    """Say why a figure of the confirmation is empty."""
    return f"No finalist has been tested yet; run: {data.command('confirm')}"


def looks(data: StudyData) -> dict[str, Look]:
    return arm_looks([arm.name for arm in data.arms])


def arm_legend(data: StudyData, arms: list[str]) -> list[Legend]:
    return [
        Legend(text=arm, colour=looks(data)[arm].colour, mark=looks(data)[arm].symbol)
        for arm in arms
    ]


def seeds_figure(findings: Findings) -> Figure:
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


def row_panel(key: str, chart: RowChart, title: str, heading: str = "") -> Panel:
    values = "; ".join(
        f"{row.label}: {figure(row.centre)} ({figure(row.low)} to {figure(row.high)})"
        for row in chart.rows
    )
    alt = f"{title}. {values}."
    return Panel(
        key=key,
        plot=rows_plot(chart),
        height=chart.height,
        alt=alt,
        heading=heading,
        fallback=rows_svg(chart, alt),
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


def differences_figure(findings: Findings) -> Figure:
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
