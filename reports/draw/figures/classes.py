"""Where distillation helps, class by class, and which confusions changed most."""

from collections.abc import Sequence

from reports.compute.classes import ClassDifference, ClassFindings, Confusion, Example, class_name
from reports.draw.drawing import Figure, Gallery, Panel, Picture, Table
from reports.draw.pictures import data_uri
from reports.draw.rows import RowChart, difference_row
from reports.draw.shared import looks, row_panel
from reports.findings import Findings
from reports.read.data import StudyData
from reports.wording import counted, decimals, measure, p_value, percent, points, shortened

GROUP = "Evidence"
ORDER = 50
NAME = "Classes and confusions"

MOST_ROWS = 12  # classes drawn: those that gained and lost most; the table has all
MOST_IN_A_PANEL = 6


def draw(findings: Findings) -> Figure:
    """Draw the paired difference on every class, and show the confusions that changed most."""
    data, compared = findings.data, findings.classes
    if compared is None or not compared.classes:
        note = "Needs the two tuned recipes of the verdict, each tested on two seeds or more."
        return Figure(title="No class to compare yet", note=note)
    a, b = compared.a.label, compared.b.label
    title = _title(data, compared)
    below = f" Below each image: in how many of {compared.seeds} runs it is confused, {b} → {a}."
    return Figure(
        title=title,
        caption=f"Test accuracy of {a} minus {b} on each class: dots are seeds, bars are means "
        f"with their 95 % interval over seeds and the {data.example}s of the class, as wide as "
        "Holm's correction over the classes asks, so that those that leave out 0 differ beyond "
        "chance. The confusions shown are those that changed most, so part of their change is "
        "chance."
        f"{below * (data.example == 'image')}",
        panels=_panels(data, compared, title),
        galleries=[_gallery(findings, compared, confusion) for confusion in compared.confusions],
        tables=[_class_table(data, compared), _confusion_table(data, compared)],
    )


def _title(data: StudyData, compared: ClassFindings) -> str:
    ordered = sorted(compared.classes, key=lambda one: one.difference.mean)
    worst, best = ordered[0], ordered[-1]
    sure = sum(one.p_holm < 0.05 for one in ordered)
    ends = [
        f"{points(one.difference.mean, sign=True, digits=1)}{unit} on class "
        f"{shortened(class_name(data, one.label), 30)}"
        for one, unit in ((best, " points"), (worst, ""))
    ]
    return (
        f"{sure or 'None'} of {counted(len(ordered), 'class', 'classes')} "
        f"{'differs' if sure == 1 else 'differ'} beyond chance; {compared.a.label} minus "
        f"{compared.b.label} ranges from {ends[0]} to {ends[1]}"
    )


def _panels(data: StudyData, compared: ClassFindings, title: str) -> list[Panel]:
    """One panel, or two on the same axis where the rows do not fit into one."""
    look = looks(data)[compared.a.arm]
    rows = []
    for one in _extremes(compared.classes):
        by = points(one.difference.mean, sign=True, digits=1)
        label = f"{shortened(class_name(data, one.label), 30)}  {by}"
        rows.append(difference_row(label, look, one.corrected, 100))
    span = RowChart(rows=rows, axis="", reference=0.0).span
    middle = len(rows) if len(rows) <= MOST_IN_A_PANEL else (len(rows) + 1) // 2
    return [
        row_panel(
            f"classes-{place}",
            RowChart(
                rows=half,
                axis="difference in accuracy, points",
                reference=0.0,
                reference_label="no difference",
                ends=span,
            ),
            title,
        )
        for place, half in enumerate((rows[:middle], rows[middle:]))
        if half
    ]


def _extremes(classes: Sequence[ClassDifference]) -> list[ClassDifference]:
    """All classes by their gain; of too many, those at both ends."""
    ordered = sorted(classes, key=lambda one: -one.difference.mean)
    half = MOST_ROWS // 2
    return ordered if len(ordered) <= MOST_ROWS else [*ordered[:half], *ordered[-half:]]


def _gallery(findings: Findings, compared: ClassFindings, confusion: Confusion) -> Gallery:
    label, taken = (
        shortened(class_name(findings.data, one), 40) for one in (confusion.label, confusion.taken)
    )
    images = counted(confusion.images, findings.data.example)
    return Gallery(
        heading=f"{label} taken for {taken}",
        text=f"{decimals(confusion.b, 1)} of {images} per run with {compared.b.label}, "
        f"{decimals(confusion.a, 1)} with {compared.a.label}",
        pictures=[
            _picture(findings, compared, f"{label} taken for {taken}", example)
            for example in confusion.examples
            if example.image in findings.images
        ],
    )


def _picture(
    findings: Findings, compared: ClassFindings, heading: str, example: Example
) -> Picture:
    runs = counted(compared.seeds, "run")
    return Picture(
        uri=data_uri(findings.images[example.image]),
        alt=f"Test image {example.image}: {heading} by {example.b} of {runs} of "
        f"{compared.b.label}, {example.a} of {compared.a.label}",
        text=f"{example.b} → {example.a}",
    )


def _class_table(data: StudyData, compared: ClassFindings) -> Table:
    return Table.of(
        {
            "class": class_name(data, one.label),
            f"test {data.example}s": str(one.images),
            compared.a.label: percent(one.a),
            compared.b.label: percent(one.b),
            "difference, points": points(one.difference.mean, sign=True),
            "95 % interval": measure("accuracy").interval(one.difference.low, one.difference.high),
            "interval, Holm": measure("accuracy").interval(one.corrected.low, one.corrected.high),
            "p, Holm": p_value(one.p_holm),
        }
        for one in compared.classes
    )


def _confusion_table(data: StudyData, compared: ClassFindings) -> Table:
    rows = [
        {
            "class": class_name(data, one.label),
            "taken for": class_name(data, one.taken),
            f"test {data.example}s": str(one.images),
            f"{data.example}s per run, {compared.a.label}": decimals(one.a, 1),
            f"{data.example}s per run, {compared.b.label}": decimals(one.b, 1),
            "difference, points of the class": points(one.difference.mean, sign=True),
            "95 % interval": measure("accuracy").interval(one.difference.low, one.difference.high),
        }
        for one in compared.confusions
    ]
    return Table.of(rows, words=2)
