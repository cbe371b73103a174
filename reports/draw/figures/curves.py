"""The learning curves of the search, and where pruning cut them."""

from statistics import median, median_low
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reports.draw.drawing import (
    TALL,
    Figure,
    Legend,
    Panel,
    Table,
    axis,
    dots,
    epoch_axis,
    line,
    plot,
)
from reports.draw.palette import light
from reports.draw.shared import cut_words, looks
from reports.findings import Findings
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.wording import Measure, counted

GROUP = "Search"
ORDER = 40
NAME = "Learning curves and pruning"


def draw(findings: Findings) -> Figure:
    """Draw the metric on the validation split of every trial by epoch, pruned ones apart."""
    data = findings.data
    arms = [arm for arm in data.arms if any(trial.values for trial in arm.trials)]
    if not arms:
        return Figure(title="No learning curve yet", note="No epoch has been reported yet.")
    what, cut = "run" if data.by_promotion else "trial", cut_words(data)
    return Figure(
        title=_title(data, arms),
        name="Learning curves" if data.by_promotion else "",
        caption=f"Validation {data.measure.name} after every epoch; a cross is where a {what} was "
        f"{cut}.",
        panels=[_panel(data, arm) for arm in arms],
        legend=[
            Legend(text="completed", colour="muted", mark="line"),
            Legend(text="best of the search", colour="ink", mark="area"),
            Legend(text=cut, colour="faint", mark="cross"),
        ],
        tables=[_table(data, arms)],
    )


def _title(data: StudyData, arms: list[ArmData]) -> str:
    runs = [run for arm in arms for run in arm.runs]
    cut = [run.reached for run in runs if run.state == "PRUNED"]
    total = counted(len(runs), "run" if data.by_promotion else "trial")
    if not cut:
        return f"None of {total} was {cut_words(data)}"
    which = "are paused" if data.by_promotion else "were pruned"
    if len(cut) == 1:
        which = "is paused" if data.by_promotion else "was pruned"
    return (
        f"{len(cut)} of {total} {which}, half of them by epoch {median_low(cut)} of "
        f"{data.protocol.epochs}"
    )


def _joined(
    measure: Measure, trials: list[TrialData], colour: str, width: float, opacity: float
) -> Any:
    """Join curves into one, with a gap of NaN after each, so that a thousand are one trace."""
    x: list[float] = []
    y: list[float] = []
    for trial in trials:
        x += [*trial.values, 0]
        y += [*(measure.scale * value for value in trial.values.values()), np.nan]
    return go.Scatter(
        x=np.asarray(x, dtype=np.int32),
        y=_rounded(y),
        mode="lines",
        line={"color": colour, "width": width},
        opacity=opacity,
        hoverinfo="skip",
    )


def _rounded(values: list[float]) -> NDArray[np.float32]:
    """Return the values of a trace. Of two precisions, equal ones would differ on the axis."""
    return np.asarray(values, dtype=np.float32)


def _panel(data: StudyData, arm: ArmData) -> Panel:
    look, measure = looks(data)[arm.name], data.measure
    cut = cut_words(data)
    pruned = [trial for trial in arm.courses if trial.state == "PRUNED" and trial.values]
    completed = sorted(arm.completed, key=lambda trial: trial.number)
    traces = [
        _joined(measure, pruned, light("faint"), 1, 0.8),
        _joined(measure, completed, look.light, 1.2, 0.45),
        dots(
            look,
            [max(trial.values) for trial in pruned],
            _rounded([measure.scale * trial.values[max(trial.values)] for trial in pruned]),
            cut,
            marker={"symbol": "x-thin", "line": {"color": light("grey"), "width": 2}},
            customdata=[trial.number for trial in pruned],
            hover=f"trial %{{customdata}}, {cut} after epoch %{{x}}: %{{y:.2f}} {measure.symbol}",
        ),
    ]
    if arm.best:
        traces.append(
            line(
                look,
                list(arm.best.values),
                _rounded([measure.scale * value for value in arm.best.values.values()]),
                f"trial {arm.best.number}",
                hover=f"trial {arm.best.number}, epoch %{{x}}: %{{y:.2f}} {measure.symbol}",
                line={"width": 3, "dash": "solid"},
            )
        )
    xaxis, yaxis = epoch_axis(data.protocol.epochs), axis(measure.of("validation"))
    what = "runs" if data.by_promotion else "trials"
    count = f"{len(completed)} completed and {len(pruned)} {cut} {what}"
    return Panel(
        key=f"curves-{arm.name}",
        plot=plot(traces, xaxis=xaxis, yaxis=yaxis),
        height=TALL,
        alt=f"{arm.name}: learning curves of {count}.",
        heading=arm.name,
    )


def _table(data: StudyData, arms: list[ArmData]) -> Table:
    """One row per epoch: with one per trial it would be as long as the study."""
    what, rows = "runs" if data.by_promotion else "trials", []
    for arm in arms:
        for epoch in sorted({epoch for trial in arm.courses for epoch in trial.values}):
            trials = [trial for trial in arm.courses if epoch in trial.values]
            values = [trial.values[epoch] for trial in trials]
            last = [trial for trial in trials if max(trial.values) == epoch]
            rows.append(
                {
                    "arm": arm.name,
                    "epoch": str(epoch),
                    what: str(len(values)),
                    "worst": data.measure.value(min(values)),
                    "median": data.measure.value(median(values)),
                    "best": data.measure.value(max(values)),
                    f"{cut_words(data)} after it": str(
                        sum(trial.state == "PRUNED" for trial in last)
                    ),
                }
            )
    return Table.of(rows)
