"""The figure of the ablation ladder."""

from reports.compute.findings import Findings
from reports.compute.ladder import Ablation
from reports.draw.drawing import Figure, Table
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel
from reports.statistics import MINIMUM_PAIRS
from reports.wording import Measure, counted, p_value

GROUP = "Evidence"
ORDER = 30


def draw(findings: Findings) -> Figure:
    """Draw what each part of the winner's recipe is worth, the most valuable first."""
    ladder = findings.ablations
    name = "Ablations"
    if not ladder:
        return Figure(key="ablations", name=name, title="No ablation yet", note=_note(findings))
    measure = findings.data.measure
    title = _title(measure, ladder)
    chart = RowChart(
        rows=[_row(findings, step) for step in ladder],
        axis=measure.difference("difference to the winner"),
        reference=0.0,
        reference_label="winner",
    )
    return Figure(
        key="ablations",
        name=name,
        title=title,
        caption="The winner's recipe with one part taken away, on the same seeds: each dot is one "
        "seed, the bar is the mean with its 95 % interval over seeds and test images. A constant "
        "schedule keeps the mean of the one it replaces.",
        panels=[row_panel("ablations", chart, title)],
        tables=[_table(measure, ladder)],
    )


def _note(findings: Findings) -> str:
    if findings.data.of_role("ablation"):
        return "The ablations are not on six seeds yet."
    seeds = str(max(MINIMUM_PAIRS, findings.data.seeds))
    return (
        "Ablations, the winner's recipe without each of its parts, are run on demand: "
        f"{findings.data.command('confirm', '--ablate', '--seeds', seeds)}"
    )


def _title(measure: Measure, ladder: tuple[Ablation, ...]) -> str:
    """Say how many parts matter after Holm's correction, and then what cost most."""
    sure = [step for step in ladder if step.p_holm < 0.05]
    most = max(sure or ladder, key=lambda step: abs(step.difference.mean))
    by = measure.change(most.difference.mean)
    within = measure.interval(most.difference.low, most.difference.high)
    verb = "makes" if len(sure) == 1 else "make"
    return (
        f"{len(sure) or 'None'} of {counted(len(ladder), 'ablation')} {verb} a difference beyond "
        f"chance; {most.one.finalist.title} the winner changes most, by {by} ({within})"
    )


def _row(findings: Findings, step: Ablation) -> Row:
    measure = findings.data.measure
    return Row(
        label=f"{step.one.finalist.title}  {measure.number(step.difference.mean, sign=True)}",
        look=looks(findings.data)[step.one.finalist.arm],
        points=[measure.scale * one for one in step.difference.per_seed],
        centre=measure.scale * step.difference.mean,
        low=measure.scale * step.difference.low,
        high=measure.scale * step.difference.high,
    )


def _table(measure: Measure, ladder: tuple[Ablation, ...]) -> Table:
    rows = [
        [
            step.one.label,
            measure.number(step.difference.mean, sign=True),
            measure.interval(step.difference.low, step.difference.high),
            p_value(step.difference.p),
            p_value(step.p_holm),
            measure.number(step.difference.detectable),
        ]
        for step in ladder
    ]
    columns = [
        "recipe",
        measure.difference("less the winner"),
        "95 % interval",
        "p",
        "p, Holm",
        measure.in_unit("detectable"),
    ]
    return Table(columns=columns, rows=rows)
