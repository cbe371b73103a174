"""The history of the search: the score of every trial, and the best so far."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from reports.compute.findings import Findings
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots, plot
from reports.draw.palette import Look, light
from reports.draw.shared import looks, value_span
from reports.read.data import ArmData, StudyData, TrialData
from reports.wording import Measure, capitalised, duration, listed

GROUP = "Search"
ORDER = 10


def draw(findings: Findings) -> Figure:
    """Draw every trial's value by its number, arm by arm, with the best so far."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.counted]
    name = "Search history"
    if not arms:
        note = "No trial has ended yet."
        return Figure(key="history", name=name, title="No search yet", note=note)
    span = value_span(data, arms)
    return Figure(
        key="history",
        name=name,
        title=_history_title(data, arms),
        caption=f"Validation {data.measure.name} after the last epoch trained; what lies beyond "
        "the axis is drawn at its edge.",
        panels=[_history_panel(data, arm, span) for arm in arms],
        legend=[
            Legend(text="completed", colour="ink", mark="circle"),
            Legend(text="pruned", colour="faint", mark="cross"),
            Legend(text="diverged", colour="ink", mark="triangle-down"),
            Legend(text="best so far", colour="ink", mark="line"),
        ],
        tables=[_trials_table(data, arm) for arm in arms],
    )


def _history_title(data: StudyData, arms: list[ArmData]) -> str:
    parts = []
    for arm in arms:
        best = arm.best
        if best is None:
            parts.append(f"{arm.name} has completed no trial")
        else:
            parts.append(
                f"{arm.name} reached {data.measure.value(best.value, 1)} with trial {best.number}"
            )
    return capitalised(listed(parts))


def _history_panel(data: StudyData, arm: ArmData, span: tuple[float, float]) -> Panel:
    look = looks(data)[arm.name]
    pruned = [trial for trial in arm.counted if trial.state == "PRUNED"]
    diverged = [trial for trial in arm.counted if trial.diverged]
    whole = [one for one in arm.counted if one.state == "COMPLETE" and not one.diverged]
    cross = {"symbol": "x-thin", "line": {"color": light("faint"), "width": 2}}
    down = {"symbol": "triangle-down", "color": light("grey")}
    traces = [
        _trial_dots(data.measure, look, pruned, span, "pruned", marker=cross),
        _trial_dots(data.measure, look, diverged, span, "diverged", marker=down),
        _trial_dots(data.measure, look, whole, span, "completed"),
        _best_line(data.measure, look, whole, len(arm.trials)),
    ]
    best = arm.best
    alt = (
        f"{arm.name}: {len(whole)} completed, {len(pruned)} pruned and {len(diverged)} diverged "
        f"trials by number; best {data.measure.value(best.value if best else None)}."
    )
    made = plot(
        traces,
        xaxis=axis("trial", range=[-0.7, len(arm.trials) - 0.3]),
        yaxis=axis(data.measure.of("validation"), range=list(span)),
    )
    return Panel(key=f"history-{arm.name}", plot=made, height=TALL, alt=alt, heading=arm.name)


def _trial_dots(
    measure: Measure,
    look: Look,
    trials: list[TrialData],
    span: tuple[float, float],
    what: str,
    **more: Any,
) -> Any:
    room = 0.02 * (span[1] - span[0])
    low, high = span[0] + room, span[1] - room
    values = [measure.scale * (trial.value or 0.0) for trial in trials]
    return dots(
        look,
        [trial.number for trial in trials],
        [min(max(value, low), high) for value in values],
        what,
        customdata=values,
        hovertemplate=f"trial %{{x}}, {what}: %{{customdata:.2f}} {measure.symbol}<extra></extra>",
        **more,
    )


def _best_line(measure: Measure, look: Look, whole: list[TrialData], count: int) -> Any:
    values = [trial.value or 0.0 for trial in whole] or [np.nan]
    best = measure.scale * np.maximum.accumulate(values)
    x = [trial.number for trial in whole] or [0]
    style = {"color": look.light, "width": 1.5, "shape": "hv"}
    return go.Scatter(
        x=[*x, count - 1], y=[*best, best[-1]], mode="lines", line=style, hoverinfo="skip"
    )


def _trials_table(data: StudyData, arm: ArmData) -> Table:
    rows = [
        [
            arm.name,
            str(trial.number),
            _state(trial),
            data.measure.value(trial.value),
            str(trial.epochs),
            duration(trial.record.seconds if trial.record else trial.seconds),
        ]
        for trial in arm.trials
    ]
    columns = ["arm", "trial", "state", f"validation {data.measure.name}", "epochs", "time"]
    return Table(columns=columns, rows=rows)


def _state(trial: TrialData) -> str:
    words = {
        "COMPLETE": "completed",
        "PRUNED": "pruned",
        "FAIL": "failed",
        "RUNNING": "running",
        "WAITING": "waiting",
        "INFEASIBLE": "infeasible",
    }
    text = "diverged" if trial.diverged else words[trial.state]
    text += ", auditor" if trial.auditor else ""
    return f"{text} ({trial.reason})" if trial.reason else text
