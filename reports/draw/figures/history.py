"""Figures of the search: its history, and which parameters mattered."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from reports.compute.findings import Findings
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots, plot, text_label
from reports.draw.figures.seeds import looks
from reports.draw.palette import Look, light
from reports.read.data import ArmData, StudyData, TrialData
from reports.read.importances import Importance
from reports.wording import capitalised, duration, listed, percent, points

MOST_BARS = 10  # importances drawn; the table has all


def history_figure(findings: Findings) -> Figure:
    """Draw every trial's value by its number, arm by arm, with the best so far."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.counted]
    name = "Search history"
    if not arms:
        note = "No trial has ended yet."
        return Figure(key="history", name=name, title="No search yet", note=note)
    span = accuracy_span(arms)
    return Figure(
        key="history",
        name=name,
        title=_history_title(arms),
        caption="Validation accuracy after the last epoch trained; what lies below the axis is "
        "drawn at its foot.",
        panels=[_history_panel(data, arm, span) for arm in arms],
        legend=[
            Legend(text="completed", colour="ink", mark="circle"),
            Legend(text="pruned", colour="faint", mark="cross"),
            Legend(text="diverged", colour="ink", mark="triangle-down"),
            Legend(text="best so far", colour="ink", mark="line"),
        ],
        tables=[_trials_table(arm) for arm in arms],
    )


def _history_title(arms: list[ArmData]) -> str:
    parts = []
    for arm in arms:
        best = arm.best
        if best is None:
            parts.append(f"{arm.name} has completed no trial")
        else:
            parts.append(f"{arm.name} reached {percent(best.value, 1)} with trial {best.number}")
    return capitalised(listed(parts))


def accuracy_span(arms: Sequence[ArmData]) -> tuple[float, float]:
    """From the worst completed trial (all trials if none is) to the best, in per cent."""
    ended = [
        trial
        for arm in arms
        for trial in arm.counted
        if trial.value is not None and not trial.diverged
    ]
    whole = [trial for trial in ended if trial.state == "COMPLETE"] or ended
    values = [100 * trial.value for trial in whole if trial.value is not None] or [0.0, 100.0]
    room = 0.1 * (max(values) - min(values)) or 1.0
    return min(values) - 2 * room, max(values) + room


def _history_panel(data: StudyData, arm: ArmData, span: tuple[float, float]) -> Panel:
    look = looks(data)[arm.name]
    pruned = [trial for trial in arm.counted if trial.state == "PRUNED"]
    diverged = [trial for trial in arm.counted if trial.diverged]
    whole = [one for one in arm.counted if one.state == "COMPLETE" and not one.diverged]
    cross = {"symbol": "x-thin", "line": {"color": light("faint"), "width": 2}}
    down = {"symbol": "triangle-down", "color": light("grey")}
    traces = [
        _trial_dots(look, pruned, span, "pruned", marker=cross),
        _trial_dots(look, diverged, span, "diverged", marker=down),
        _trial_dots(look, whole, span, "completed"),
        _best_line(look, whole, len(arm.trials)),
    ]
    best = arm.best
    alt = (
        f"{arm.name}: {len(whole)} completed, {len(pruned)} pruned and {len(diverged)} diverged "
        f"trials by number; best {percent(best.value if best else None)}."
    )
    made = plot(
        traces,
        xaxis=axis("trial", range=[-0.7, len(arm.trials) - 0.3]),
        yaxis=axis("validation accuracy, %", range=list(span)),
    )
    return Panel(key=f"history-{arm.name}", plot=made, height=TALL, alt=alt, heading=arm.name)


def _trial_dots(
    look: Look, trials: list[TrialData], span: tuple[float, float], what: str, **more: Any
) -> Any:
    foot = span[0] + 0.02 * (span[1] - span[0])
    return dots(
        look,
        [trial.number for trial in trials],
        [max(100 * (trial.value or 0.0), foot) for trial in trials],
        what,
        customdata=[100 * (trial.value or 0.0) for trial in trials],
        hovertemplate=f"trial %{{x}}, {what}: %{{customdata:.2f}} %<extra></extra>",
        **more,
    )


def _best_line(look: Look, whole: list[TrialData], count: int) -> Any:
    best = np.maximum.accumulate([100 * (trial.value or 0.0) for trial in whole] or [np.nan])
    x = [trial.number for trial in whole] or [0]
    style = {"color": look.light, "width": 1.5, "shape": "hv"}
    return go.Scatter(
        x=[*x, count - 1], y=[*best, best[-1]], mode="lines", line=style, hoverinfo="skip"
    )


def _trials_table(arm: ArmData) -> Table:
    rows = [
        [
            arm.name,
            str(trial.number),
            _state(trial),
            percent(trial.value),
            str(trial.epochs),
            duration(trial.record.seconds if trial.record else trial.seconds),
        ]
        for trial in arm.trials
    ]
    columns = ["arm", "trial", "state", "validation accuracy", "epochs", "time"]
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


def importances_figure(findings: Findings) -> Figure:
    """Draw how much of what told the best tenth of trials apart each parameter explains."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.importances]
    notes = [f"{arm.name}: {arm.importances_note}" for arm in data.arms if arm.importances_note]
    name = "Parameter importances"
    if not arms:
        title = "Too few completed trials to say what mattered"
        return Figure(key="importances", name=name, title=title, note=" ".join(notes))
    parts = [
        f"{next(iter(arm.importances))} in {arm.name} "
        f"({_weight(next(iter(arm.importances.values())))})"
        for arm in arms
    ]
    return Figure(
        key="importances",
        name=name,
        title=f"What mattered most: {listed(parts)}",
        caption="Share of what sets the best tenth of an arm's completed trials apart from the "
        "rest (PED-ANOVA); whiskers are 90 % bootstrap intervals over trials.",
        panels=[_importances_panel(data, arm) for arm in arms],
        tables=[
            Table(
                columns=["arm", "parameter", "importance", "90 % interval"],
                words=2,
                rows=[
                    [
                        arm.name,
                        name,
                        percent(one.share, 1),
                        f"{percent(one.low, 1)} to {percent(one.high, 1)}",
                    ]
                    for arm in arms
                    for name, one in arm.importances.items()
                ],
            )
        ],
        note=" ".join(notes),
    )


def _weight(one: Importance) -> str:
    return (
        f"{percent(one.share, 0)}, interval {points(one.low, digits=0)} to {percent(one.high, 0)}"
    )


def _importances_panel(data: StudyData, arm: ArmData) -> Panel:
    largest = list(arm.importances.items())[:MOST_BARS]
    names, shares = [name for name, _ in largest], [100 * one.share for _, one in largest]
    lows, highs = [100 * one.low for _, one in largest], [100 * one.high for _, one in largest]
    bars = go.Bar(
        x=shares,
        y=[escape(name) for name in names],
        orientation="h",
        marker={"color": looks(data)[arm.name].light},
        width=0.6,
        error_x={
            "type": "data",
            "array": [max(0.0, high - share) for high, share in zip(highs, shares, strict=True)],
            "arrayminus": [max(0.0, share - low) for low, share in zip(lows, shares, strict=True)],
            "color": light("ink"),
            "thickness": 1.2,
            "width": 3,
        },
        customdata=list(zip(lows, highs, strict=True)),
        hovertemplate="%{y}: %{x:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f})"
        "<extra></extra>",
    )
    ends = [max(share, high) for share, high in zip(shares, highs, strict=True)]
    values = [
        text_label(f"{share:.0f} %", end, escape(name), xanchor="left", xshift=6)
        for name, share, end in zip(names, shares, ends, strict=True)
    ]
    made = plot(
        [bars],
        xaxis={"visible": False, "range": [0, 1.18 * (max(ends) or 1.0)]},
        yaxis={"autorange": "reversed", "type": "category", "ticksuffix": " "},
        annotations=values,
    )
    alt = f"Importances in {arm.name}: " + ", ".join(
        f"{name} {share:.0f} %" for name, share in zip(names, shares, strict=True)
    )
    return Panel(
        key=f"importances-{arm.name}",
        plot=made,
        height=30 + 26 * len(names),
        alt=alt,
        heading=arm.name,
    )
