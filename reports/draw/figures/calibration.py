"""Calibration on the test split: how often a prediction is right, by the model's confidence."""

from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, guide, line, plot
from reports.draw.palette import TEACHER_LOOK, Look
from reports.draw.shared import looks
from reports.findings import Findings
from reports.wording import listed, percent, points

GROUP = "Evidence"
ORDER = 70
NAME = "Calibration"

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
    """A model's predictions over its seeds: confidence [seeds * images], and whether each is right.

    `short` is its name in titles and legends.
    """

    label: str
    short: str
    look: Look
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    ece: float | None

    @property
    def bins(self) -> list[_Bin]:
        places = np.clip(np.ceil(self.confidence * BINS).astype(int) - 1, 0, BINS - 1)
        return [
            _Bin(
                count=int(inside.sum()),
                confidence=float(self.confidence[inside].mean()),
                accuracy=float(self.correct[inside].mean()),
            )
            for place in range(BINS)
            if (inside := places == place).any()
        ]


def draw(findings: Findings) -> Figure | None:
    """Draw accuracy against confidence of the teacher and the tuned recipes, in equal bins."""
    models = _models(findings)
    if not models:
        return None
    excesses = [
        f"{points(float(one.confidence.mean() - one.correct.mean()), sign=True, digits=1)} for "
        f"{'the teacher' if one.look is TEACHER_LOOK else one.short}"
        for one in models
    ]
    title = f"Points by which mean confidence exceeds accuracy: {listed(excesses)}"
    return Figure(
        title=title,
        caption=f"Test predictions of all seeds in {BINS} bins of confidence, the probability of "
        "the predicted class. Below the diagonal a model is overconfident. Bins of fewer than "
        f"{FEWEST} predictions are not drawn. The ECE in the comparison table uses 15 bins.",
        panels=[_panel(models, title)],
        legend=[
            *(
                Legend(text=one.short, colour=one.look.colour, mark=one.look.symbol)
                for one in models
            ),
            Legend(text="confidence = accuracy", colour="faint", mark="line"),
        ],
        tables=[_table(models)],
    )


def _models(findings: Findings) -> list[_Model]:
    data = findings.data
    models = [
        _Model(
            label=standing.finalist.label,
            short=standing.finalist.arm,
            look=looks(data)[standing.finalist.arm],
            confidence=np.concatenate(
                [run.confidence for run in standing.finalist.tested if run.confidence is not None]
            ),
            correct=np.concatenate(
                [run.correct for run in standing.finalist.tested if run.correct is not None]
            ),
            ece=standing.ece,
        )
        for standing in findings.standings
        if standing.finalist.role == "tuned" and standing.finalist.tested
    ]
    teacher = data.teacher
    if models and teacher.confidence is not None and teacher.correct is not None:
        drawn = _Model(
            label="teacher",
            short="teacher",
            look=TEACHER_LOOK,
            confidence=teacher.confidence,
            correct=teacher.correct,
            ece=teacher.test.get("ece"),
        )
        return [drawn, *models]
    return models


def _panel(models: list[_Model], title: str) -> Panel:
    drawn = {one.label: [inside for inside in one.bins if inside.count >= FEWEST] for one in models}
    lowest = min((inside.confidence for bins in drawn.values() for inside in bins), default=0.0)
    low = 100 * np.floor(lowest * BINS) / BINS
    traces = [guide([low, 100], [low, 100], "faint")]
    accuracies = []
    for one in models:
        bins, label = drawn[one.label], escape(one.label)
        right = "right in %{y:.1f} % of %{customdata} predictions"
        traces.append(
            line(
                one.look,
                [100 * inside.confidence for inside in bins],
                [100 * inside.accuracy for inside in bins],
                one.label,
                marked=True,
                customdata=[inside.count for inside in bins],
                hover=f"{label}, confidence %{{x:.1f}} %: {right}",
            )
        )
        ends = [f"{percent(one.accuracy, 0)} at {percent(one.confidence, 0)}" for one in bins]
        accuracies.append(f" {one.label}: {', '.join(ends)}." if bins else "")
    made = plot(
        traces,
        xaxis=axis("confidence, %", range=[low - 1, 101]),
        yaxis=axis("accuracy, %", rangemode="normal"),
    )
    return Panel(key="calibration", plot=made, height=TALL, alt=f"{title}.{''.join(accuracies)}")


def _table(models: list[_Model]) -> Table:
    return Table.of(
        {
            "model": one.label,
            "predictions": str(inside.count),
            "confidence": percent(inside.confidence, 1),
            "accuracy": percent(inside.accuracy, 1),
            "excess, points": points(inside.confidence - inside.accuracy, sign=True, digits=1),
            "ECE of the model": percent(one.ece),
        }
        for one in models
        for inside in one.bins
    )
