"""The history of the search: the score of every trial, and the best so far."""

from statistics import fmean
from typing import Any

import numpy as np

from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots, guide, plot
from reports.draw.palette import light
from reports.draw.shared import cut_words, looks, value_span
from reports.findings import Findings
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.wording import NONE, capitalised, duration, listed

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
REPEATED = Legend(text="completed, a repeat on another seed", colour="ink", mark="circle-open")


def draw(findings: Findings) -> Figure:
    """Draw every trial's value by its number, arm by arm, with the best so far."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.counted]
    if not arms:
        return Figure(title="No search yet", note="No trial has ended yet.")
    span = value_span(data, arms)
    return Figure(
        title=capitalised(listed([_best(data, arm) for arm in arms])),
        caption=_caption(data),
        panels=[_panel(data, arm, span) for arm in arms],
        legend=[
            Legend(text="completed", colour="ink", mark="circle"),
            *([REPEATED] if data.by_promotion else []),
            Legend(text=cut_words(data), colour="faint", mark="cross"),
            Legend(text="diverged", colour="ink", mark="triangle-down"),
            Legend(text=f"best {'recipe ' * data.by_promotion}so far", colour="ink", mark="line"),
        ],
        tables=[Table.of(_table_row(data, trial) for trial in arm.trials) for arm in arms],
    )


def _caption(data: StudyData) -> str:
    what = f"Validation {data.measure.name} after the last trained epoch"
    if data.by_promotion:
        return (
            f"{what} of every run, at the number of its last trial. The best recipe so far is the "
            "one with the highest mean over its runs at the horizon, so its line falls where a "
            "repeat does worse. Values beyond the axis are drawn at its end."
        )
    return f"{what}. Values beyond the axis are drawn at its end."


def _best(data: StudyData, arm: ArmData) -> str:
    if not arm.ranking:
        return f"{arm.name} has completed no trial"
    best = arm.ranking[0]
    runs = f", the mean of {len(best.trials)} runs" if len(best.trials) > 1 else ""
    value = data.measure.value(best.value, 1)
    return f"{arm.name} reached {value} with trial {best.first.number}{runs}"


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
            customdata=list(zip(values, map(_hint, trials), strict=True)),
            hover=f"trial %{{x}}, {outcome}%{{customdata[1]}}: %{{customdata[0]:.2f}} "
            f"{measure.symbol}",
        )

    cut = cut_words(data)
    pruned = [trial for trial in arm.runs if trial.state == "PRUNED"]
    diverged = [trial for trial in arm.counted if trial.diverged]
    whole = sorted(arm.completed, key=lambda trial: trial.number)
    repeated = [trial for trial in whole if trial.repeats is not None]
    best = measure.scale * np.asarray(_best_so_far(arm, whole) or [np.nan])
    numbers = [trial.number for trial in whole] or [0]
    traces = [
        marks(pruned, cut, symbol="x-thin", line={"color": light("faint"), "width": 2}),
        marks(diverged, "diverged", symbol="triangle-down", color=light("grey")),
        marks([trial for trial in whole if trial.repeats is None], "completed"),
        *([marks(repeated, "completed", symbol=f"{look.symbol}-open")] if repeated else []),
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
        f"{arm.name}: {len(whole)} completed, {len(pruned)} {cut} and {len(diverged)} diverged "
        f"{'runs' if data.by_promotion else 'trials'} by number; best "
        f"{measure.value(arm.best_value)}."
    )
    return Panel(key=f"history-{arm.name}", plot=made, height=TALL, alt=alt, heading=arm.name)


def _hint(trial: TrialData) -> str:
    """Say whose recipe a run repeats, and when a run was begun that took several trials."""
    parts = [] if trial.run in (None, trial.number) else [f"begun as {trial.run}"]
    parts += [] if trial.repeats is None else [f"repeats {trial.repeats}"]
    return f" ({', '.join(parts)})" if parts else ""


def _best_so_far(arm: ArmData, whole: list[TrialData]) -> list[float]:
    """Return the mean of the best recipe after each of these trials, which are in order."""
    place = {trial.number: at for at, recipe in enumerate(arm.ranking) for trial in recipe.trials}
    values: dict[int, list[float]] = {}
    best = []
    for trial in whole:
        values.setdefault(place[trial.number], []).append(trial.ranked)
        best.append(max(map(fmean, values.values())))
    return best


def _table_row(data: StudyData, trial: TrialData) -> dict[str, str]:
    job = {
        "run": str(NONE if trial.run is None else trial.run),
        "goes on from": str(NONE if trial.continues is None else trial.continues),
        "repeats": str(NONE if trial.repeats is None else trial.repeats),
    }
    return {
        "arm": trial.arm,
        "trial": str(trial.number),
        **(job if data.by_promotion else {}),
        "state": _state(data, trial),
        f"validation {data.measure.name}": data.measure.value(trial.value),
        "epochs": str(trial.epochs),
        "time": duration(trial.trained_seconds),
    }


def _state(data: StudyData, trial: TrialData) -> str:
    text = "diverged" if trial.diverged else STATES[trial.state]
    if trial.state == "PRUNED":
        text = f"{cut_words(data)}{f' after epoch {trial.reached}' * data.by_promotion}"
    text += ", auditor" if trial.auditor else ""
    return f"{text} ({trial.reason})" if trial.reason else text
