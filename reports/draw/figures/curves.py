"""The figure of pruning: learning curves with their cuts."""

from statistics import median, median_low
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reports.compute.findings import Findings
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, line, plot
from reports.draw.palette import light
from reports.draw.shared import looks
from reports.read.data import ArmData, StudyData, TrialData
from reports.wording import Measure, counted

GROUP = "Search"
ORDER = 40


def draw(findings: Findings) -> Figure:
    """Draw the metric on the validation split of every trial by epoch, pruned ones apart."""
    data = findings.data
    arms = [arm for arm in data.arms if any(trial.values for trial in arm.trials)]
    name = "Learning curves and pruning"
    if not arms:
        note = "No epoch has been reported yet."
        return Figure(key="curves", name=name, title="No learning curve yet", note=note)
    return Figure(
        key="curves",
        name=name,
        title=_curves_title(arms, data.protocol.epochs),
        caption=f"Validation {data.measure.name} after every epoch; a cross is where a trial was "
        "cut.",
        panels=[_curves_panel(data, arm) for arm in arms],
        legend=[
            Legend(text="completed", colour="muted", mark="line"),
            Legend(text="best of the search", colour="ink", mark="area"),
            Legend(text="pruned", colour="faint", mark="cross"),
        ],
        tables=[_curves_table(data, arms)],
    )


def _curves_title(arms: list[ArmData], horizon: int) -> str:
    counted_trials = [trial for arm in arms for trial in arm.counted]
    cut = [trial.epochs for trial in counted_trials if trial.state == "PRUNED"]
    if not cut:
        return f"None of {counted(len(counted_trials), 'trial')} was pruned"
    return (
        f"Pruning cut {len(cut)} of {counted(len(counted_trials), 'trial')}, "
        f"half of them by epoch {median_low(cut)} of {horizon}"
    )


def _joined(
    measure: Measure, trials: list[TrialData]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Join curves into one, with a gap of NaN after each, so that a thousand are one trace."""
    x: list[float] = []
    y: list[float] = []
    for trial in trials:
        x += [*trial.values, 0]
        y += [*(measure.scale * value for value in trial.values.values()), np.nan]
    return np.asarray(x, dtype=np.int32), np.asarray(y, dtype=np.float32)


def _curves_panel(data: StudyData, arm: ArmData) -> Panel:
    look = looks(data)[arm.name]
    pruned = [trial for trial in arm.trials if trial.state == "PRUNED" and trial.values]
    whole = [one for one in arm.trials if one.state == "COMPLETE" and not one.diverged]
    best = arm.best
    scale, symbol = data.measure.scale, data.measure.symbol
    hover = f"epoch %{{x}}: %{{y:.2f}} {symbol}<extra></extra>"
    ends = go.Scatter(
        x=[max(trial.values) for trial in pruned],
        y=[scale * trial.values[max(trial.values)] for trial in pruned],
        mode="markers",
        customdata=[trial.number for trial in pruned],
        marker={"symbol": "x-thin", "size": 8, "line": {"color": light("grey"), "width": 2}},
        hovertemplate="trial %{customdata}, cut after epoch %{x}: %{y:.2f} "
        f"{symbol}<extra></extra>",
    )
    traces = [
        _curve(data.measure, light("faint"), pruned, 1, 0.8),
        _curve(data.measure, look.light, whole, 1.2, 0.45),
        ends,
    ]
    if best:
        x, y = list(best.values), [scale * value for value in best.values.values()]
        traces.append(
            line(look, x, y, f"trial {best.number}", hovertemplate=hover).update(
                line={"width": 3, "dash": "solid"}
            )
        )
    made = plot(traces, xaxis=axis("epoch"), yaxis=axis(data.measure.of("validation")))
    alt = f"{arm.name}: learning curves of {len(whole)} completed and {len(pruned)} pruned trials."
    return Panel(key=f"curves-{arm.name}", plot=made, height=TALL, alt=alt, heading=arm.name)


def _curve(
    measure: Measure, colour: str, trials: list[TrialData], width: float, opacity: float
) -> Any:
    x, y = _joined(measure, trials)
    style = {"color": colour, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", line=style, opacity=opacity, hoverinfo="skip")


def _curves_table(data: StudyData, arms: list[ArmData]) -> Table:
    """Give a row an epoch: with a row a trial it would be as long as the study."""
    rows = []
    for arm in arms:
        for epoch in sorted({epoch for trial in arm.trials for epoch in trial.values}):
            values = [one.values[epoch] for one in arm.trials if epoch in one.values]
            cut = sum(
                one.state == "PRUNED" and max(one.values, default=0) == epoch for one in arm.trials
            )
            rows.append(
                [
                    arm.name,
                    str(epoch),
                    str(len(values)),
                    data.measure.value(min(values)),
                    data.measure.value(median(values)),
                    data.measure.value(max(values)),
                    str(cut),
                ]
            )
    columns = ["arm", "epoch", "trials", "worst", "median", "best", "cut after it"]
    return Table(columns=columns, rows=rows)
