"""The figure of costs: accuracy against latency and against parameters."""

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
    figure,
    interval,
    listed,
    milliseconds,
    model_name,
    percent,
    points,
    scaled,
)
from storage.files.records import Cost

GROUP = "Evidence"
ORDER = 40

FRONT = {"color": light("grey"), "width": 1.5, "dash": "dot"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A dot: accuracy with its interval in per cent; a hollow one was not tuned."""

    label: str
    look: Look
    accuracy: float
    interval: tuple[float, float]
    cost: Cost
    hollow: bool = False


def draw(findings: Findings) -> Figure:
    """Draw what accuracy costs, with the models that no other beats in both."""
    models = _models(findings)
    name = "Accuracy and cost"
    if not models:
        note = "The costs have not been measured yet."
        if findings.data.costs:
            note = unconfirmed(findings.data)
        return Figure(key="costs", name=name, title="No cost to set against accuracy", note=note)
    smallest = min(one.batch_size for one in models[0].cost.latency)
    arms = [arm.name for arm in findings.data.arms if findings.data.tuned(arm.name)]
    return Figure(
        key="costs",
        name=name,
        title=_title(findings, models, smallest),
        caption="Test accuracy with its 95 % interval; on the dotted line lie the models that no "
        "other beats in both. Models of one architecture are drawn at their mean latency.",
        panels=[
            _panel(models, "latency", f"median ms at batch {smallest}, log scale", smallest),
            _panel(models, "parameters", "parameters, log scale", smallest),
            *_search_panels(findings.data),
        ],
        legend=[
            Legend(text="teacher", colour=TEACHER_LOOK.colour, mark=TEACHER_LOOK.symbol),
            *arm_legend(findings.data, arms),
            Legend(text="hollow: not tuned", colour="muted", mark="circle-open"),
        ],
        tables=[_table(models), *_search_tables(findings.data)],
    )


def _models(findings: Findings) -> list[_Model]:
    costs = findings.data.costs.models if findings.data.costs else {}
    accuracy, interval = findings.data.teacher_test.get("accuracy"), findings.teacher_interval
    found = [model for one in findings.distinct if (model := _student(findings, one))]
    if found and "teacher" in costs and accuracy is not None and interval is not None:
        teacher = _Model(
            label=f"teacher ({model_name(findings.data.protocol.teacher)})",
            look=TEACHER_LOOK,
            accuracy=100 * accuracy,
            interval=(100 * interval[0], 100 * interval[1]),
            cost=costs["teacher"],
        )
        return [teacher, *found]
    return found


def _student(findings: Findings, standing: Standing) -> _Model | None:
    if standing.accuracy is None or standing.interval is None or standing.cost is None:
        return None
    return _Model(
        label=findings.data.named(standing.one),
        look=looks(findings.data)[standing.one.finalist.arm],
        accuracy=100 * standing.accuracy,
        interval=(100 * standing.interval[0], 100 * standing.interval[1]),
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
    teacher = models[0] if models[0].look is TEACHER_LOOK else None
    tuned = findings.standing(findings.data.tuned(findings.data.primary_arm))
    if teacher is None or tuned is None or tuned.accuracy is None or tuned.cost is None:
        best = max(models, key=lambda one: one.accuracy)
        return f"{best.label} is the most accurate, {percent(best.accuracy / 100)}"
    size = f"1/{figure(teacher.cost.parameters / tuned.cost.parameters)}"
    speed = _latency(teacher.cost, smallest) / _latency(tuned.cost, smallest)
    gap = tuned.accuracy - teacher.accuracy / 100
    return (
        f"The tuned {tuned.one.finalist.arm} student has {size} of the teacher's parameters, "
        f"answers {figure(speed, 2)} times as fast and "
        f"{_to_teacher(gap, less_teacher(findings.data, tuned.one))}"
    )


def _to_teacher(gap: float, difference: Difference | None) -> str:
    """Say how far the student is from the teacher: `gap` in shares of 1, with its interval."""
    if difference is None:
        return f"lies {points(gap, sign=True)} points from it on one seed"
    within = f"95 % interval {interval(difference.low, difference.high)}"
    if difference.low <= 0 <= difference.high:
        return f"is within chance of it: {points(gap, sign=True)} points ({within})"
    return f"is {points(abs(gap))} points {'below' if gap < 0 else 'above'} it ({within})"


def _panel(models: Sequence[_Model], what: str, title: str, smallest: int) -> Panel:
    costs = [
        float(one.cost.parameters)
        if what == "parameters"
        else _shared_latency(models, one, smallest)
        for one in models
    ]
    front = pareto_front(costs, [one.accuracy for one in models])
    traces = [_front_line([costs[place] for place in front], [models[place] for place in front])]
    traces += [_dot(one, cost) for one, cost in zip(models, costs, strict=True)]
    made = plot(
        traces,
        xaxis=log_axis(title, min(costs), max(costs)),
        yaxis=axis("test accuracy, %"),
    )
    places = listed([models[place].label for place in front])
    alt = (
        f"Accuracy against {title}: "
        + ", ".join(
            f"{one.label} {figure(one.accuracy, 4)} % at {figure(cost)}"
            for one, cost in zip(models, costs, strict=True)
        )
        + f". Beaten by none: {places}."
    )
    return Panel(key=f"costs-{what}", plot=made, height=TALL, alt=alt)


def _front_line(costs: list[float], models: list[_Model]) -> Any:
    return go.Scatter(
        x=costs,
        y=[one.accuracy for one in models],
        mode="lines",
        hoverinfo="skip",
        line=FRONT,
    )


def _dot(one: _Model, cost: float) -> Any:
    low, high = one.interval
    bars = {
        "type": "data",
        "array": [high - one.accuracy],
        "arrayminus": [one.accuracy - low],
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
        y=[one.accuracy],
        mode="markers",
        error_y=bars,
        marker=marker,
        name=label,
        hovertemplate=f"{label}: %{{y:.2f}} % ({low:.2f} to {high:.2f}), %{{x}}<extra></extra>",
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
    values = [100 * (trial.value or 0.0) for *_, trial in best]
    front = pareto_front(sizes, values)
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
        hover = f"{escape(arm)}, {escape(student)}, trial {trial.number}: %{{y:.2f}} %"
        hover += "<extra></extra>"
        traces.append(dots(looks(data)[arm], [size], [value], arm, size=10, hovertemplate=hover))
    made = plot(
        traces,
        xaxis=log_axis("parameters, log scale", min(sizes), max(sizes)),
        yaxis=axis("validation accuracy, %"),
    )
    alt = "The best trial of each student in the search: " + ", ".join(
        f"{arm} {student} {figure(value, 4)} %"
        for (arm, student, *_), value in zip(best, values, strict=True)
    )
    heading = "each student's best trial of the search, on validation images"
    return [Panel(key="costs-search", plot=made, height=TALL, alt=f"{alt}.", heading=heading)]


def _search_tables(data: StudyData) -> list[Table]:
    rows = [
        [model_name(student), arm, scaled(size), str(trial.number), percent(trial.value)]
        for arm, student, size, trial in _best_of_students(data)
    ]
    columns = ["student", "arm", "parameters", "best trial", "validation accuracy"]
    return [Table(columns=columns, rows=rows, words=2)] if rows else []


def _table(models: Sequence[_Model]) -> Table:
    sizes = sorted({latency.batch_size for one in models for latency in one.cost.latency})
    rows = [
        [
            one.label,
            figure(one.accuracy, 4),
            f"{figure(one.interval[0], 4)} to {figure(one.interval[1], 4)}",
            scaled(one.cost.parameters),
            scaled(one.cost.macs),
            *(milliseconds(_latency(one.cost, size)) for size in sizes),
        ]
        for one in models
    ]
    columns = [
        "model",
        "test accuracy, %",
        "95 % interval",
        "parameters",
        "MACs",
        *(f"median ms, batch {size}" for size in sizes),
    ]
    return Table(columns=columns, rows=rows)
