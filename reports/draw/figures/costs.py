"""The figure of costs: the metric against latency and against parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from reports.compute.findings import Findings, Standing
from reports.compute.verdict import less_teacher
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots, log_axis, plot
from reports.draw.palette import TEACHER_LOOK, Look, light
from reports.draw.shared import arm_legend, completed, looks, unconfirmed
from reports.read.data import StudyData, TrialData
from reports.statistics import Difference, pareto_front
from reports.wording import (
    Measure,
    capitalised,
    figure,
    listed,
    milliseconds,
    model_name,
    scaled,
)
from storage.files.records import Cost

GROUP = "Evidence"
ORDER = 40

FRONT = {"color": light("grey"), "width": 1.5, "dash": "dot"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A dot: the metric with its interval, as drawn; a hollow one was not tuned."""

    label: str
    look: Look
    value: float
    interval: tuple[float, float]
    cost: Cost
    hollow: bool = False


def draw(findings: Findings) -> Figure:
    """Draw what a better result costs, with the models that no other beats in both."""
    models, measure = _models(findings), findings.data.measure
    name = f"{capitalised(measure.name)} and cost"
    if not models:
        note = "The costs have not been measured yet."
        if findings.data.costs:
            note = unconfirmed(findings.data)
        return Figure(key="costs", name=name, title="No cost to set against a result", note=note)
    smallest = min(one.batch_size for one in models[0].cost.latency)
    arms = [arm.name for arm in findings.data.arms if findings.data.tuned(arm.name)]
    return Figure(
        key="costs",
        name=name,
        title=_title(findings, models, smallest),
        caption=f"Test {measure.name} with its 95 % interval; on the dotted line lie the models "
        "that no other beats in both. Models of one architecture are drawn at their mean latency.",
        panels=[
            _panel(
                findings.data.measure,
                models,
                "latency",
                f"median ms at batch {smallest}, log scale",
                smallest,
            ),
            _panel(measure, models, "parameters", "parameters, log scale", smallest),
            *_search_panels(findings.data),
        ],
        legend=[
            Legend(text="teacher", colour=TEACHER_LOOK.colour, mark=TEACHER_LOOK.symbol),
            *arm_legend(findings.data, arms),
            Legend(text="hollow: not tuned", colour="muted", mark="circle-open"),
        ],
        tables=[_table(measure, models), *_search_tables(findings.data)],
    )


def _models(findings: Findings) -> list[_Model]:
    costs = findings.data.costs.models if findings.data.costs else {}
    value, interval = findings.data.teacher_value, findings.teacher_interval
    scale = findings.data.measure.scale
    found = [model for one in findings.distinct if (model := _student(findings, one))]
    if found and "teacher" in costs and value is not None and interval is not None:
        teacher = _Model(
            label=f"teacher ({model_name(findings.data.protocol.teacher)})",
            look=TEACHER_LOOK,
            value=scale * value,
            interval=findings.data.measure.ends(*interval),
            cost=costs["teacher"],
        )
        return [teacher, *found]
    return found


def _student(findings: Findings, standing: Standing) -> _Model | None:
    if standing.value is None or standing.interval is None or standing.cost is None:
        return None
    scale = findings.data.measure.scale
    return _Model(
        label=findings.data.named(standing.one),
        look=looks(findings.data)[standing.one.finalist.arm],
        value=scale * standing.value,
        interval=findings.data.measure.ends(*standing.interval),
        cost=standing.cost,
        hollow=standing.one.finalist.role != "tuned",
    )


def _latency(cost: Cost, batch_size: int) -> float:
    return next(one.median_ms for one in cost.latency if one.batch_size == batch_size)


def _shared_latency(models: Sequence[_Model], one: _Model, batch_size: int) -> float:
    """The mean over all measured models of its architecture: what they differ by is noise."""
    same = {id(other.cost): other.cost for other in models if other.cost.model == one.cost.model}
    return sum(_latency(cost, batch_size) for cost in same.values()) / len(same)


def _title(findings: Findings, models: Sequence[_Model], smallest: int) -> str:
    measure = findings.data.measure
    teacher = models[0] if models[0].look is TEACHER_LOOK else None
    tuned = findings.standing(findings.data.tuned(findings.data.primary_arm))
    if teacher is None or tuned is None or tuned.value is None or tuned.cost is None:
        best = max(models, key=lambda one: one.value / measure.scale)
        return (
            f"{best.label} has the best {measure.name}, {measure.value(best.value / measure.scale)}"
        )
    size = f"1/{figure(teacher.cost.parameters / tuned.cost.parameters)}"
    speed = _latency(teacher.cost, smallest) / _latency(tuned.cost, smallest)
    gap = tuned.value - teacher.value / measure.scale
    return (
        f"The tuned {tuned.one.finalist.arm} student has {size} of the teacher's parameters, "
        f"answers {figure(speed, 2)} times as fast and "
        f"{_to_teacher(measure, gap, less_teacher(findings.data, tuned.one))}"
    )


def _to_teacher(measure: Measure, gap: float, difference: Difference | None) -> str:
    """Say how far the student is from the teacher: `gap`, with its interval."""
    if difference is None:
        return f"lies {measure.change(gap)} from it on one seed"
    within = f"95 % interval {measure.interval(difference.low, difference.high)}"
    if difference.low <= 0 <= difference.high:
        return f"is within chance of it: {measure.change(gap)} ({within})"
    side = "below" if measure.scale * gap < 0 else "above"
    return f"is {measure.amount(gap)} {side} it ({within})"


def _panel(
    measure: Measure, models: Sequence[_Model], what: str, title: str, smallest: int
) -> Panel:
    costs = [
        float(one.cost.parameters)
        if what == "parameters"
        else _shared_latency(models, one, smallest)
        for one in models
    ]
    front = pareto_front(costs, [one.value / measure.scale for one in models])
    traces = [_front_line([costs[place] for place in front], [models[place] for place in front])]
    traces += [_dot(measure, one, cost) for one, cost in zip(models, costs, strict=True)]
    made = plot(
        traces,
        xaxis=log_axis(title, min(costs), max(costs)),
        yaxis=axis(measure.of("test")),
    )
    places = listed([models[place].label for place in front])
    alt = (
        f"{capitalised(measure.name)} against {title}: "
        + ", ".join(
            f"{one.label} {figure(one.value, 4)} {measure.symbol} at {figure(cost)}"
            for one, cost in zip(models, costs, strict=True)
        )
        + f". Beaten by none: {places}."
    )
    return Panel(key=f"costs-{what}", plot=made, height=TALL, alt=alt)


def _front_line(costs: list[float], models: list[_Model]) -> Any:
    return go.Scatter(
        x=costs,
        y=[one.value for one in models],
        mode="lines",
        hoverinfo="skip",
        line=FRONT,
    )


def _dot(measure: Measure, one: _Model, cost: float) -> Any:
    low, high = one.interval
    bars = {
        "type": "data",
        "array": [high - one.value],
        "arrayminus": [one.value - low],
        "thickness": 1.5,
        "width": 5,
        "color": one.look.light,
        "visible": not one.hollow,
    }
    symbol = one.look.symbol + ("-open" if one.hollow else "")
    style = {"width": 2 if one.hollow else 0, "color": one.look.light}
    marker = {"symbol": symbol, "size": 11, "color": one.look.light, "line": style}
    label = escape(one.label)
    return go.Scatter(
        x=[cost],
        y=[one.value],
        mode="markers",
        error_y=bars,
        marker=marker,
        name=label,
        hovertemplate=f"{label}: %{{y:.2f}} {measure.symbol} ({low:.2f} to {high:.2f}), %{{x}}"
        "<extra></extra>",
    )


def _best_of_students(data: StudyData) -> list[tuple[str, str, int, TrialData]]:
    """Arm, student, parameters and best completed trial; empty in a study of one student."""
    sizes = (
        {cost.model: cost.parameters for cost in data.costs.models.values()} if data.costs else {}
    )
    best: dict[tuple[str, str], TrialData] = {}
    for arm in data.arms:
        for trial in reversed(completed(arm)):  # the best one comes last, and stays
            if trial.record:
                best[arm.name, trial.record.recipe.student or data.protocol.student] = trial
    if len(data.protocol.students) < 2:
        return []
    return [
        (arm, student, sizes[student], trial)
        for (arm, student), trial in sorted(best.items())
        if student in sizes
    ]


def _search_panels(data: StudyData) -> list[Panel]:
    """Each student's best trial of the search, by its size."""
    best = _best_of_students(data)
    if not best:
        return []
    sizes = [size for *_, size, _ in best]
    values = [data.measure.scale * trial.ranked for *_, trial in best]
    front = pareto_front(sizes, [trial.ranked for *_, trial in best])
    traces: list[Any] = [
        go.Scatter(
            x=[sizes[place] for place in front],
            y=[values[place] for place in front],
            mode="lines",
            hoverinfo="skip",
            line=FRONT,
        )
    ]
    for (arm, student, size, trial), value in zip(best, values, strict=True):
        hover = f"{escape(arm)}, {escape(student)}, trial {trial.number}: %{{y:.2f}} "
        hover += f"{data.measure.symbol}<extra></extra>"
        traces.append(dots(looks(data)[arm], [size], [value], arm, size=10, hovertemplate=hover))
    made = plot(
        traces,
        xaxis=log_axis("parameters, log scale", min(sizes), max(sizes)),
        yaxis=axis(data.measure.of("validation")),
    )
    alt = "The best trial of each student in the search: " + ", ".join(
        f"{arm} {student} {figure(value, 4)} {data.measure.symbol}"
        for (arm, student, *_), value in zip(best, values, strict=True)
    )
    heading = "each student's best trial of the search, on validation images"
    return [Panel(key="costs-search", plot=made, height=TALL, alt=f"{alt}.", heading=heading)]


def _search_tables(data: StudyData) -> list[Table]:
    rows = [
        [model_name(student), arm, scaled(size), str(trial.number), data.measure.value(trial.value)]
        for arm, student, size, trial in _best_of_students(data)
    ]
    columns = ["student", "arm", "parameters", "best trial", f"validation {data.measure.name}"]
    return [Table(columns=columns, rows=rows, words=2)] if rows else []


def _table(measure: Measure, models: Sequence[_Model]) -> Table:
    sizes = sorted({latency.batch_size for one in models for latency in one.cost.latency})
    rows = [
        [
            one.label,
            figure(one.value, 4),
            f"{figure(one.interval[0], 4)} to {figure(one.interval[1], 4)}",
            scaled(one.cost.parameters),
            scaled(one.cost.macs),
            *(milliseconds(_latency(one.cost, size)) for size in sizes),
        ]
        for one in models
    ]
    columns = [
        "model",
        measure.of("test"),
        "95 % interval",
        "parameters",
        "MACs",
        *(f"median ms, batch {size}" for size in sizes),
    ]
    return Table(columns=columns, rows=rows)
