"""The metric against the costs: latency and parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from reports.compute.comparisons import minus_teacher
from reports.draw.drawing import (
    TALL,
    Figure,
    Legend,
    Panel,
    Table,
    axis,
    dots,
    guide,
    log_axis,
    plot,
)
from reports.draw.palette import TEACHER_LOOK, Look
from reports.draw.shared import arm_legend, looks, unconfirmed
from reports.findings import Findings, Standing
from reports.read.data import StudyData
from reports.read.teachers import TeacherData
from reports.read.trials import RecipeData
from reports.statistics import Difference, pareto_front
from reports.wording import Measure, capitalised, figure, listed, milliseconds, model_name, scaled
from storage.files.records import Cost

GROUP = "Evidence"
ORDER = 40
NAME = "Result and cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A dot: the metric with its interval, as drawn; hollow if its recipe was not tuned."""

    label: str
    look: Look
    value: float
    interval: tuple[float, float]
    cost: Cost
    hollow: bool = False

    def latency(self, batch_size: int) -> float:
        """The median in ms."""
        return next(one.median_ms for one in self.cost.latency if one.batch_size == batch_size)


def draw(findings: Findings) -> Figure:
    """Draw the metric against each cost, with the models that no other beats in both."""
    data, measure = findings.data, findings.data.measure
    models = _models(findings)
    if not models:
        note = unconfirmed(data) if data.costs else "The costs have not been measured yet."
        return Figure(title="No result and cost to compare yet", note=note)
    smallest = min(one.batch_size for one in models[0].cost.latency)
    latencies = [_shared_latency(models, model, smallest) for model in models]
    parameters = [float(model.cost.parameters) for model in models]
    latency_axis = f"median latency at batch size {smallest}, ms, log scale"
    arms = [arm.name for arm in data.arms if data.tuned(arm.name)]
    return Figure(
        title=_title(findings, models, smallest),
        caption=f"Test {measure.name} with its 95 % interval. The dotted line joins the models "
        "that no other beats in both. Models of one architecture are drawn at their mean latency.",
        panels=[
            _panel(measure, models, "costs-latency", latency_axis, latencies),
            _panel(measure, models, "costs-parameters", "parameters, log scale", parameters),
            *_search_panels(data),
        ],
        legend=[
            Legend(text="teacher", colour=TEACHER_LOOK.colour, mark=TEACHER_LOOK.symbol),
            *arm_legend(data, arms),
            Legend(text="hollow: not tuned", colour="muted", mark="circle-open"),
        ],
        tables=[_table(measure, models), *_search_tables(data)],
    )


def _models(findings: Findings) -> list[_Model]:
    data = findings.data
    models = [model for one in findings.distinct if (model := _student(data, one))]
    ordered = sorted(data.teachers, key=lambda teacher: teacher is not data.teacher)
    teachers = [_teacher(data, one) for one in ordered if models]
    return [*(one for one in teachers if one), *models]


def _teacher(data: StudyData, teacher: TeacherData) -> _Model | None:
    cost = data.costs.models.get(teacher.role) if data.costs else None
    value, interval = teacher.value, data.teacher_interval(teacher)
    if cost is None or value is None or interval is None:
        return None
    return _Model(
        label=f"teacher ({model_name(teacher.model)})",
        look=TEACHER_LOOK,
        value=data.measure.scale * value,
        interval=data.measure.ends(*interval),
        cost=cost,
    )


def _student(data: StudyData, standing: Standing) -> _Model | None:
    if standing.value is None or standing.interval is None or standing.cost is None:
        return None
    scale, finalist = data.measure.scale, standing.finalist
    return _Model(
        label=data.named(finalist),
        look=looks(data)[finalist.arm],
        value=scale * standing.value,
        interval=data.measure.ends(*standing.interval),
        cost=standing.cost,
        hollow=finalist.role != "tuned",
    )


def _shared_latency(models: Sequence[_Model], model: _Model, batch_size: int) -> float:
    """The mean over all measurements of its architecture, which differ by noise alone."""
    same = {id(one.cost): one for one in models if one.cost.model == model.cost.model}
    return sum(one.latency(batch_size) for one in same.values()) / len(same)


def _title(findings: Findings, models: Sequence[_Model], smallest: int) -> str:
    data, measure = findings.data, findings.data.measure
    tuned = findings.standing(data.tuned(data.primary_arm))
    student = _student(data, tuned) if tuned else None
    if models[0].look is not TEACHER_LOOK or tuned is None or student is None:
        best = max(models, key=lambda model: model.value / measure.scale)
        value = measure.value(best.value / measure.scale)
        return f"The best {measure.name} is {value}, of {best.label}"
    teacher = models[0]
    size = _size(teacher.cost.parameters / student.cost.parameters)
    speed = _speed(teacher.latency(smallest) / student.latency(smallest))
    gap = (student.value - teacher.value) / measure.scale
    return (
        f"The {tuned.finalist.label} student has {size} the teacher's parameters, {speed} "
        f"and {_to_teacher(measure, gap, minus_teacher(data, tuned.finalist))}"
    )


def _size(smaller: float) -> str:
    """Return a share or a multiple in words, for a student that is `smaller` times as small."""
    return f"1/{figure(smaller)} of" if smaller >= 1 else f"{figure(1 / smaller)} times"


def _speed(faster: float) -> str:
    if faster >= 1:
        return f"is {figure(faster, 2)} times as fast"
    return f"takes {figure(1 / faster, 2)} times as long"


def _to_teacher(measure: Measure, gap: float, difference: Difference | None) -> str:
    """Say how far the student is from the teacher: `gap`, with its interval."""
    if difference is None:
        return f"differs from it by {measure.change(gap)} on one seed"
    within = f"95 % interval {measure.interval(difference.low, difference.high)}"
    if difference.low <= 0 <= difference.high:
        return f"is within chance of it: {measure.change(gap)} ({within})"
    side = "below" if measure.scale * gap < 0 else "above"
    return f"is {measure.amount(gap)} {side} it ({within})"


def _panel(
    measure: Measure, models: Sequence[_Model], key: str, title: str, costs: Sequence[float]
) -> Panel:
    front = pareto_front(costs, [model.value / measure.scale for model in models])
    made = _plot(
        measure,
        "test",
        title,
        costs,
        [model.value for model in models],
        [_dot(measure, model, cost) for model, cost in zip(models, costs, strict=True)],
    )
    dots_read_out = ", ".join(
        f"{model.label} {measure.with_symbol(figure(model.value, 4))} at {figure(cost)}"
        for model, cost in zip(models, costs, strict=True)
    )
    best = listed([models[place].label for place in front])
    alt = f"{capitalised(measure.name)} against {title}: {dots_read_out}. Beaten by none: {best}."
    return Panel(key=key, plot=made, height=TALL, alt=alt)


def _plot(
    measure: Measure,
    part: str,
    x: str,
    costs: Sequence[float],
    values: Sequence[float],
    marks: list[Any],
) -> dict[str, Any]:
    """Plot marks over the dotted line through the models that no other beats."""
    front = pareto_front(costs, [value / measure.scale for value in values])
    beaten_by_none = guide([costs[place] for place in front], [values[place] for place in front])
    xaxis = log_axis(x, min(costs), max(costs))
    return plot([beaten_by_none, *marks], xaxis=xaxis, yaxis=axis(measure.of(part)))


def _dot(measure: Measure, model: _Model, cost: float) -> Any:
    (low, high), look = model.interval, model.look
    bars = {
        "type": "data",
        "array": [high - model.value],
        "arrayminus": [model.value - low],
        "thickness": 1.5,
        "width": 5,
        "color": look.light,
        "visible": not model.hollow,
    }
    outline = {"width": 2 if model.hollow else 0, "color": look.light}
    return dots(
        look,
        [cost],
        [model.value],
        model.label,
        size=11,
        marker={"symbol": look.symbol + ("-open" if model.hollow else ""), "line": outline},
        error_y=bars,
        hover=f"{escape(model.label)}: {measure.with_symbol('%{y:.2f}')} "
        f"({low:.2f} to {high:.2f}), %{{x}}",
    )


def _best_of_students(data: StudyData) -> list[tuple[str, str, int, RecipeData]]:
    """Arm, student, parameters and best completed recipe; empty in a study of one student."""
    if len(data.protocol.students) < 2 or data.costs is None:
        return []
    sizes = {cost.model: cost.parameters for cost in data.costs.models.values()}
    best: dict[tuple[str, str], RecipeData] = {}
    for arm in data.arms:
        for recipe in arm.ranking:  # the best one comes first
            if record := recipe.first.record:
                best.setdefault((arm.name, data.student(record.recipe)), recipe)
    return [
        (arm, student, sizes[student], recipe)
        for (arm, student), recipe in sorted(best.items(), key=lambda one: one[0])
        if student in sizes
    ]


def _search_panels(data: StudyData) -> list[Panel]:
    """Each student's best trial of the search, by its size."""
    best, measure = _best_of_students(data), data.measure
    if not best:
        return []
    sizes = [float(size) for *_, size, _ in best]
    values = [measure.scale * recipe.value for *_, recipe in best]
    marks = [
        dots(
            looks(data)[arm],
            [size],
            [value],
            arm,
            size=10,
            hover=f"{escape(arm)}, {escape(student)}, trial {recipe.first.number}: "
            + measure.with_symbol("%{y:.2f}"),
        )
        for (arm, student, size, recipe), value in zip(best, values, strict=True)
    ]
    made = _plot(measure, "validation", "parameters, log scale", sizes, values, marks)
    alt = "The best trial of each student in the search: " + ", ".join(
        f"{arm} {student} {measure.with_symbol(figure(value, 4))}"
        for (arm, student, *_), value in zip(best, values, strict=True)
    )
    heading = f"each student's best trial of the search, on validation {data.example}s"
    return [Panel(key="costs-search", plot=made, height=TALL, alt=f"{alt}.", heading=heading)]


def _search_tables(data: StudyData) -> list[Table]:
    rows = [
        {
            "student": model_name(student),
            "arm": arm,
            "parameters": scaled(size),
            "best trial": str(recipe.first.number),
            f"validation {data.measure.name}": data.measure.value(recipe.value),
        }
        for arm, student, size, recipe in _best_of_students(data)
    ]
    return [Table.of(rows, words=2)] if rows else []


def _table(measure: Measure, models: Sequence[_Model]) -> Table:
    sizes = sorted({latency.batch_size for model in models for latency in model.cost.latency})
    return Table.of(
        {
            "model": model.label,
            measure.of("test"): figure(model.value, 4),
            "95 % interval": " to ".join(figure(end, 4) for end in model.interval),
            "parameters": scaled(model.cost.parameters),
            "MACs": scaled(model.cost.macs),
            **{f"median ms, batch {size}": milliseconds(model.latency(size)) for size in sizes},
        }
        for model in models
    )
