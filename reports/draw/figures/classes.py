"""The figure of classes: where distillation helps, and which confusions came and went."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reports.compute.classes import (
    ClassDifference,
    ClassFindings,
    Confusion,
    Example,
    Images,
    class_name,
)
from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Gallery, Panel, Picture, Table
from reports.draw.pictures import data_uri
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel
from reports.read.data import StudyData
from reports.wording import counted, decimals, interval, p_value, percent, points, shortened

GROUP = "Evidence"
ORDER = 50

MOST_ROWS = 12  # classes drawn: those that gained and lost most; the table has all
MOST_IN_A_PANEL = 6


def draw(findings: Findings) -> Figure:
    """Draw the paired difference on every class, and show the confusions that changed most."""
    found = findings.classes
    name = "Classes and confusions"
    if found is None or not found.classes:
        note = "It takes the two tuned recipes of the verdict, tested on two seeds at least."
        return Figure(key="classes", name=name, title="No class to compare yet", note=note)
    rows = _chosen(found.classes)
    title = _title(findings.data, found)
    arm_a, arm_b = found.a.finalist.arm, found.b.finalist.arm
    return Figure(
        key="classes",
        name=name,
        title=title,
        caption=f"Test accuracy of tuned {arm_a} less tuned {arm_b} on each class: dots are seeds, "
        "bars 95 % intervals over seeds and the images of the class. The confusions are those that "
        "changed most, so some of the change is chance; below an image stand the runs, of "
        f"{found.seeds}, that confuse it so: tuned {arm_b} → tuned {arm_a}.",
        panels=_panels(findings.data, found, rows, title),
        galleries=[
            _gallery(findings.data, found, one, findings.images) for one in found.confusions
        ],
        tables=[_class_table(findings.data, found), _confusion_table(findings.data, found)],
    )


def _chosen(classes: Sequence[ClassDifference]) -> list[ClassDifference]:
    """All classes by their gain, or of many those at both ends."""
    ordered = sorted(classes, key=lambda one: -one.difference.mean)
    half = MOST_ROWS // 2
    return ordered if len(ordered) <= MOST_ROWS else [*ordered[:half], *ordered[-half:]]


def _title(data: StudyData, found: ClassFindings) -> str:
    ordered = sorted(found.classes, key=lambda one: one.difference.mean)
    worst, best = ordered[0], ordered[-1]
    sure = sum(one.p_holm < 0.05 for one in ordered)
    ends = [
        f"{points(one.difference.mean, sign=True, digits=1)}{unit} on class "
        f"{shortened(class_name(data, one.label), 30)}"
        for one, unit in ((best, " points"), (worst, ""))
    ]
    return (
        f"{sure or 'None'} of {counted(len(ordered), 'class', 'classes')} "
        f"{'differs' if sure == 1 else 'differ'} beyond chance; tuned {found.a.finalist.arm} less "
        f"tuned {found.b.finalist.arm} runs from {ends[0]} to {ends[1]}"
    )


def _panels(
    data: StudyData, found: ClassFindings, rows: list[ClassDifference], title: str
) -> list[Panel]:
    """One panel, or of more rows than fit it two on one axis."""
    drawn = [_row(data, found, one) for one in rows]
    whole = RowChart(rows=drawn, axis="", reference=0.0)
    middle = len(drawn) if len(drawn) <= MOST_IN_A_PANEL else (len(drawn) + 1) // 2
    halves = [drawn[:middle], drawn[middle:]]
    return [
        row_panel(
            f"classes-{place}",
            RowChart(
                rows=half,
                axis="difference in accuracy, points",
                reference=0.0,
                reference_label="no difference",
                ends=whole.span,
            ),
            title,
        )
        for place, half in enumerate(halves)
        if half
    ]


def _row(data: StudyData, found: ClassFindings, one: ClassDifference) -> Row:
    name = shortened(class_name(data, one.label), 30)
    return Row(
        label=f"{name}  {points(one.difference.mean, sign=True, digits=1)}",
        look=looks(data)[found.a.finalist.arm],
        points=[100 * value for value in one.difference.per_seed],
        centre=100 * one.difference.mean,
        low=100 * one.difference.low,
        high=100 * one.difference.high,
    )


def _gallery(data: StudyData, found: ClassFindings, one: Confusion, images: Images) -> Gallery:
    a, b = found.a.finalist.arm, found.b.finalist.arm
    label = shortened(class_name(data, one.label), 40)
    taken = shortened(class_name(data, one.taken), 40)
    return Gallery(
        heading=f"{label} taken for {taken}",
        text=f"{decimals(one.b, 1)} of {counted(one.images, 'image')} a run with tuned {b}, "
        f"{decimals(one.a, 1)} with tuned {a}",
        pictures=[
            _picture(f"{label} taken for {taken}", found, example, images[example.image])
            for example in one.examples
            if example.image in images
        ],
    )


def _picture(
    what: str, found: ClassFindings, example: Example, image: NDArray[np.uint8]
) -> Picture:
    a, b, seeds = found.a.finalist.arm, found.b.finalist.arm, found.seeds
    return Picture(
        uri=data_uri(image),
        alt=f"Test image {example.image}: {what} by {example.b} of {counted(seeds, 'run')} of "
        f"{b}, {example.a} of {a}",
        text=f"{example.b} → {example.a}",
    )


def _class_table(data: StudyData, found: ClassFindings) -> Table:
    rows = [
        [
            class_name(data, one.label),
            str(one.images),
            percent(one.a),
            percent(one.b),
            points(one.difference.mean, sign=True),
            interval(one.difference.low, one.difference.high),
            p_value(one.p_holm),
        ]
        for one in found.classes
    ]
    columns = [
        "class",
        "test images",
        f"tuned {found.a.finalist.arm}",
        f"tuned {found.b.finalist.arm}",
        "difference, points",
        "95 % interval",
        "p, Holm",
    ]
    return Table(columns=columns, rows=rows)


def _confusion_table(data: StudyData, found: ClassFindings) -> Table:
    rows = [
        [
            class_name(data, one.label),
            class_name(data, one.taken),
            str(one.images),
            decimals(one.a, 1),
            decimals(one.b, 1),
            points(one.difference.mean, sign=True),
            interval(one.difference.low, one.difference.high),
        ]
        for one in found.confusions
    ]
    columns = [
        "class",
        "taken for",
        "test images",
        f"a run, tuned {found.a.finalist.arm}",
        f"a run, tuned {found.b.finalist.arm}",
        "difference, points of the class",
        "95 % interval",
    ]
    return Table(columns=columns, rows=rows, words=2)
