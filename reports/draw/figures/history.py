"""The history of the search: the score of every trial, and the best so far."""

from typing import Any

import numpy as np

from reports.compute.findings import Findings
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots, guide, plot
from reports.draw.palette import light
from reports.draw.shared import looks, value_span
from reports.read.data import ArmData, StudyData, TrialData
from reports.wording import capitalised, duration, listed

GROUP = "Search"
ORDER = 10
NAME = "Search history"

STATES = {
    "COMPLETE": "completed",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
    "INFEASIBLE": "infeasible",
}


def draw(findings: Findings) -> Figure:
    """Draw every trial's value by its number, arm by arm, with the best so far."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.counted]
    if not arms:
        return Figure(title="No search yet", note="No trial has ended yet.")
    span = value_span(data, arms)
    return Figure(
        title=capitalised(listed([_best(data, arm) for arm in arms])),
        caption=f"Validation {data.measure.name} after the last trained epoch. Values beyond the "
        "axis are drawn at its end.",
        panels=[_panel(data, arm, span) for arm in arms],
        legend=[
            Legend(text="completed", colour="ink", mark="circle"),
            Legend(text="pruned", colour="faint", mark="cross"),
            Legend(text="diverged", colour="ink", mark="triangle-down"),
            Legend(text="best so far", colour="ink", mark="line"),
        ],
        tables=[Table.of(_table_row(data, trial) for trial in arm.trials) for arm in arms],
    )


def _best(data: StudyData, arm: ArmData) -> str:
    if arm.best is None:
        return f"{arm.name} has completed no trial"
    return (
        f"{arm.name} reached {data.measure.value(arm.best.value, 1)} with trial {arm.best.number}"
    )


def _panel(data: StudyData, arm: ArmData, span: tuple[float, float]) -> Panel:
    look, measure = looks(data)[arm.name], data.measure
    room = 0.02 * (span[1] - span[0])
    foot, top = span[0] + room, span[1] - room

    def marks(trials: list[TrialData], outcome: str, **marker: Any) -> Any:
        values = [measure.scale * (trial.value or 0.0) for trial in trials]
        return dots(
            look,
            [trial.number for trial in trials],
            [min(max(value, foot), top) for value in values],
            outcome,
            marker=marker,
            customdata=values,
            hover=f"trial %{{x}}, {outcome}: %{{customdata:.2f}} {measure.symbol}",
        )

    pruned = [trial for trial in arm.counted if trial.state == "PRUNED"]
    diverged = [trial for trial in arm.counted if trial.diverged]
    whole = sorted(arm.completed, key=lambda trial: trial.number)
    values = [trial.value or 0.0 for trial in whole] or [np.nan]
    best = measure.scale * np.maximum.accumulate(values)
    numbers = [trial.number for trial in whole] or [0]
    traces = [
        marks(pruned, "pruned", symbol="x-thin", line={"color": light("faint"), "width": 2}),
        marks(diverged, "diverged", symbol="triangle-down", color=light("grey")),
        marks(whole, "completed"),
        guide(
            [*numbers, len(arm.trials) - 1],
            [*best, best[-1]],
            look.colour,
            dash="solid",
            shape="hv",
        ),
    ]
    made = plot(
        traces,
        xaxis=axis("trial", range=[-0.7, len(arm.trials) - 0.3]),
        yaxis=axis(measure.of("validation"), range=list(span)),
    )
    alt = (
        f"{arm.name}: {len(whole)} completed, {len(pruned)} pruned and {len(diverged)} diverged "
        f"trials by number; best {measure.value(arm.best.value if arm.best else None)}."
    )
    return Panel(key=f"history-{arm.name}", plot=made, height=TALL, alt=alt, heading=arm.name)


def _table_row(data: StudyData, trial: TrialData) -> dict[str, str]:
    return {
        "arm": trial.arm,
        "trial": str(trial.number),
        "state": _state(trial),
        f"validation {data.measure.name}": data.measure.value(trial.value),
        "epochs": str(trial.epochs),
        "time": duration(trial.trained_seconds),
    }


def _state(trial: TrialData) -> str:
    text = "diverged" if trial.diverged else STATES[trial.state]
    text += ", auditor" if trial.auditor else ""
    return f"{text} ({trial.reason})" if trial.reason else text
