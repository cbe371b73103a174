"""Calibration on the test split: how often a model is right when it is so sure."""

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reports.compute.findings import Findings
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, line, plot
from reports.draw.palette import TEACHER_LOOK, Look, light
from reports.draw.shared import arm_legend, looks
from reports.read.data import FinalistData
from reports.wording import listed, percent, points

GROUP = "Evidence"
ORDER = 70

BINS = 10  # of equal width; fewer than the 15 of the ECE, so that most hold enough images
FEWEST = 10  # predictions in a bin that is drawn; the table has all


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bin:
    """Predictions of similar confidence; `confidence` and `accuracy` are their means, 0-1."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model's predictions over its seeds; `excess` is its confidence less its accuracy, 0-1."""

    label: str
    short: str
    look: Look
    bins: tuple[_Bin, ...]
    excess: float
    ece: float | None


def draw(findings: Findings) -> Figure | None:
    """Draw accuracy against confidence of the teacher and the tuned recipes, in equal bins."""
    models = _models(findings)
    if not models:
        return None
    title = _title(models)
    return Figure(
        key="calibration",
        name="Calibration",
        title=title,
        caption=f"Test predictions of all seeds in {BINS} bins of confidence, the probability of "
        "the class that the model names. Below the diagonal a model is surer than it is right. "
        f"Bins of fewer than {FEWEST} predictions are left out, and the ECE of the table above "
        "is over 15 bins.",
        panels=[_panel(models, title)],
        legend=[
            *[
                Legend(text="teacher", colour=one.look.colour, mark=one.look.symbol)
                for one in models
                if one.look is TEACHER_LOOK
            ],
            *arm_legend(findings.data, [one.short for one in models if one.look != TEACHER_LOOK]),
            Legend(text="as sure as right", colour="faint", mark="line"),
        ],
        tables=[_table(models)],
    )


def _models(findings: Findings) -> list[_Model]:
    data = findings.data
    tuned = [one for one in data.of_role("tuned") if one.tested]
    found = [
        _model(
            one.label, one.finalist.arm, looks(data)[one.finalist.arm], *_joined(one),
            _ece(findings, one),
        )
        for one in tuned
    ]  # fmt: skip
    if found and data.teacher_confidence is not None and data.teacher_correct is not None:
        ece = data.teacher_test.get("ece")
        parts = data.teacher_confidence, data.teacher_correct
        return [_model("teacher", "the teacher", TEACHER_LOOK, *parts, ece), *found]
    return found


def _joined(one: FinalistData) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Join confidence and correctness of all tested runs: [seeds * images] each."""
    return (
        np.concatenate([run.confidence for run in one.tested if run.confidence is not None]),
        np.concatenate([run.correct for run in one.tested if run.correct is not None]),
    )


def _ece(findings: Findings, one: FinalistData) -> float | None:
    standing = findings.standing(one)
    return standing.ece if standing else None


def _model(
    label: str,
    short: str,
    look: Look,
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    ece: float | None,
) -> _Model:
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [
        _Bin(
            count=int(here.sum()),
            confidence=float(confidence[here].mean()),
            accuracy=float(correct[here].mean()),
        )
        for place in range(BINS)
        if (here := places == place).any()
    ]
    excess = float(confidence.mean() - correct.mean())
    return _Model(label=label, short=short, look=look, bins=tuple(bins), excess=excess, ece=ece)


def _title(models: list[_Model]) -> str:
    parts = [f"{points(one.excess, sign=True, digits=1)} for {one.short}" for one in models]
    return f"Points by which confidence exceeds accuracy: {listed(parts)}"


def _panel(models: list[_Model], title: str) -> Panel:
    diagonal = {"color": light("faint"), "width": 1.5, "dash": "dot"}
    drawn = {one.label: [each for each in one.bins if each.count >= FEWEST] for one in models}
    lowest = min((each.confidence for bins in drawn.values() for each in bins), default=0.0)
    low = 100 * np.floor(lowest * BINS) / BINS
    traces: list[Any] = [
        go.Scatter(x=[low, 100], y=[low, 100], mode="lines", line=diagonal, hoverinfo="skip")
    ]
    for one in models:
        bins = drawn[one.label]
        hover = f"{escape(one.label)}, confidence %{{x:.1f}} %: right on %{{y:.1f}} % of "
        trace = line(
            one.look,
            [100 * each.confidence for each in bins],
            [100 * each.accuracy for each in bins],
            one.label,
            customdata=[each.count for each in bins],
            hovertemplate=hover + "%{customdata}<extra></extra>",
        )
        traces.append(
            trace.update(mode="lines+markers", marker={"symbol": one.look.symbol, "size": 8})
        )
    made = plot(
        traces,
        xaxis=axis("confidence, %", range=[low - 1, 101]),
        yaxis=axis("accuracy, %", rangemode="normal"),
    )
    alt = f"{title}. " + " ".join(
        f"{one.label}: "
        + ", ".join(
            f"{percent(each.accuracy, 0)} at {percent(each.confidence, 0)}" for each in bins
        )
        + "."
        for one in models
        if (bins := drawn[one.label])
    )
    return Panel(key="calibration", plot=made, height=TALL, alt=alt)


def _table(models: list[_Model]) -> Table:
    rows = [
        [
            one.label,
            str(each.count),
            percent(each.confidence, 1),
            percent(each.accuracy, 1),
            points(each.confidence - each.accuracy, sign=True, digits=1),
            percent(one.ece),
        ]
        for one in models
        for each in one.bins
    ]
    columns = ["model", "predictions", "confidence", "accuracy", "excess, points", "ECE of all"]
    return Table(columns=columns, rows=rows)
