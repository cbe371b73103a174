"""What the surrogate of a search by promotion expects of two parameters together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from reports.draw.drawing import Figure, Legend, Panel, Table, axis, log_axis, plot
from reports.draw.palette import light
from reports.draw.shared import importances_note, looks
from reports.findings import Findings
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.wording import Measure, decimals, figure, listed
from storage.files.records import Plane

GROUP = "Search"
ORDER = 25
NAME = "Expected values"

TALL = 340  # px
SPREAD = 0.7  # of a cell, over which the runs with the same two choices are spread


@dataclass(frozen=True, slots=True)
class _Side:
    """A parameter of a plane; a `distribution` that no trial has is None."""

    name: str
    values: Sequence[Any]
    distribution: BaseDistribution | None

    @property
    def is_choice(self) -> bool:
        return not self.distribution or isinstance(self.distribution, CategoricalDistribution)

    @property
    def is_log(self) -> bool:
        return bool(getattr(self.distribution, "log", False)) and self.values[0] > 0

    @property
    def edges(self) -> list[float]:
        """The edges of the cells around the values, one more than there are values."""
        if self.is_choice:
            return [place - 0.5 for place in range(len(self.values) + 1)]
        values = np.asarray(self.values, dtype=float)
        between = (values[1:] + values[:-1]) / 2
        if self.is_log:
            between = np.sqrt(values[1:] * values[:-1])
        return [float(values[0]), *map(float, between), float(values[-1])]

    @property
    def words(self) -> list[str]:
        return [str(one) if self.is_choice else figure(one) for one in self.values]

    @property
    def axis(self) -> dict[str, Any]:
        title, low, high = escape(self.name), self.edges[0], self.edges[-1]
        if self.is_choice:
            words = [escape(word) for word in self.words]
            return axis(title, tickvals=list(range(len(words))), ticktext=words, range=[low, high])
        if self.is_log:
            return log_axis(title, low, high)
        return axis(title, range=[low, high], nticks=6)

    def place(self, trial: TrialData) -> float | None:
        """Where a trial lies on the axis; None for one that lacks the parameter or the choice."""
        value = trial.parameters.get(self.name)
        if not self.is_choice:
            return value
        return next((place for place, one in enumerate(self.values) if one == value), None)


@dataclass(frozen=True, slots=True)
class _Picture:
    """A plane with its two parameters: choices on the vertical axis, `means` [up, across]."""

    arm: ArmData
    across: _Side
    up: _Side
    means: NDArray[np.float64]

    @property
    def highest(self) -> str:
        """The values with the highest mean, in words."""
        up, across = np.unravel_index(int(self.means.argmax()), self.means.shape)
        sides = (self.across, int(across)), (self.up, int(up))
        return " and ".join(f"{side.name} {side.words[place]}" for side, place in sides)

    def places(self, trials: Iterable[TrialData]) -> dict[int, tuple[float, float]]:
        """Where those of these trials lie that have both parameters, by number.

        Those with the same two choices lie side by side.
        """
        found = {
            trial.number: (across, up)
            for trial in trials
            if (across := self.across.place(trial)) is not None
            and (up := self.up.place(trial)) is not None
        }
        if not self.across.is_choice:
            return found
        cells: dict[tuple[float, float], list[int]] = {}
        for number, place in sorted(found.items()):
            cells.setdefault(place, []).append(number)
        return {
            number: (across + SPREAD * ((rank + 0.5) / len(numbers) - 0.5), up)
            for (across, up), numbers in cells.items()
            for rank, number in enumerate(numbers)
        }


def draw(findings: Findings) -> Figure | None:
    """Draw the surrogate's mean over an arm's two most important parameters."""
    data = findings.data
    if not data.by_promotion:
        return None
    pictures = [_picture(arm, arm.plane) for arm in data.arms if arm.plane]
    if not pictures:
        note = importances_note(data) or "No arm has two parameters."
        return Figure(title="What the search expects is unknown", note=note)
    tuned = "tuned recipe" if data.of_role("tuned") else "best recipe so far"
    return Figure(
        title=_title(data.measure, pictures),
        caption=_caption(data.measure, pictures),
        panels=[_panel(data, picture) for picture in pictures],
        legend=[
            Legend(text="run at the horizon", colour="ink", mark="circle"),
            Legend(text=tuned, colour="ink", mark="diamond"),
        ],
        tables=[_table(data.measure, picture) for picture in pictures],
        note=importances_note(data),
    )


def _picture(arm: ArmData, plane: Plane) -> _Picture:
    first, second = (
        _Side(name, values, _distribution(arm, name))
        for name, values in zip(plane.names, plane.values, strict=True)
    )
    means = np.asarray(plane.means)
    if first.is_choice and not second.is_choice:
        return _Picture(arm, second, first, means.T)
    return _Picture(arm, first, second, means)


def _distribution(arm: ArmData, name: str) -> BaseDistribution | None:
    having = (one.distributions[name] for one in arm.trials if name in one.distributions)
    return next(having, None)


def _title(measure: Measure, pictures: Sequence[_Picture]) -> str:
    if not measure.is_share:
        parts = [f"{one.highest} in {one.arm.name}" for one in pictures]
        return f"Where the search expects most: {listed(parts)}"
    parts = [
        f"{measure.level(one.means.min(), 1)} to {measure.value(one.means.max(), 1)} in "
        f"{one.arm.name}, the most at {one.highest}"
        for one in pictures
    ]
    return f"Expected {measure.name}: {'; '.join(parts)}"


def _caption(measure: Measure, pictures: Sequence[_Picture]) -> str:
    shown = (
        f"Means are taken of logits and shown as {measure.name}. "
        if measure.is_share
        else f"The {measure.name} lies in no fixed range from 0 to 1, so the values are on the "
        "search's own scale: they have no unit, and higher is better. "
    )
    spread = any(one.across.is_choice for one in pictures)
    aside = " Runs with the same two choices are drawn side by side." if spread else ""
    return (
        "Not a measurement: the expected value of the search's surrogate at the horizon, by the "
        "two parameters of an arm that matter most, over random values of all other parameters. "
        f"{shown}A run has its own values of these, so its score need not be the one behind its "
        "dot. Paused runs, from which the surrogate learns too while it trusts them, are not "
        f"drawn.{aside}"
    )


def _unit(measure: Measure) -> str:
    return measure.of("expected") if measure.is_share else "expected, scale of the search"


def _panel(data: StudyData, picture: _Picture) -> Panel:
    arm, measure = picture.arm, data.measure
    traces = [_map(data, picture), *_runs(data, picture)]
    ends = [_value(measure, float(end)) for end in (picture.means.min(), picture.means.max())]
    return Panel(
        key=f"posterior-{arm.name}",
        plot=plot(traces, xaxis=picture.across.axis, yaxis=picture.up.axis),
        height=TALL,
        alt=f"{arm.name}: {_unit(measure)}, by {picture.across.name} and {picture.up.name}: from "
        f"{ends[0]} to {ends[1]}, the highest at {picture.highest}.",
        heading=arm.name,
    )


def _map(data: StudyData, picture: _Picture) -> Any:
    across, up, measure = picture.across, picture.up, data.measure
    text = [
        [f"{escape(across.name)} {x}, {escape(up.name)} {y}" for x in map(escape, across.words)]
        for y in map(escape, up.words)
    ]
    unit = f" {measure.symbol}".rstrip() if measure.is_share else ""
    return go.Heatmap(
        x=across.edges,
        y=up.edges,
        z=(picture.means * (measure.scale if measure.is_share else 1.0)).tolist(),
        text=text,
        hovertemplate=f"%{{text}}: %{{z:.2f}}{unit} expected<extra></extra>",
        colorscale=[[0, light("band")], [1, looks(data)[picture.arm.name].light]],
        colorbar={
            "title": {"text": _unit(measure), "side": "right", "font": {"size": 12}},
            "tickfont": {"size": 12, "color": light("muted")},
            "thickness": 10,
            "outlinewidth": 0,
        },
    )


def _runs(data: StudyData, picture: _Picture) -> list[Any]:
    """The runs at the horizon as dots, and the recipe that is tuned, or the best so far."""
    arm, chosen = picture.arm, data.chosen_trial(picture.arm)
    others = [one for one in arm.completed if one is not chosen]
    places = picture.places([*others, chosen] if chosen else others)
    known = [one for one in arm.completed if one.number in places]
    best = [chosen] if chosen and chosen.number in places else []
    marks = (known, "circle", 6, f"{arm.name}, runs"), (best, "diamond", 14, "tuned")
    return [
        go.Scatter(
            x=[places[one.number][0] for one in trials],
            y=[places[one.number][1] for one in trials],
            mode="markers",
            name=escape(name),
            marker={
                "symbol": symbol,
                "size": size,
                "color": light("ink"),
                "line": {"color": light("page"), "width": 1.5},
            },
            customdata=[_told(data, one, tuned=name == "tuned") for one in trials],
            hovertemplate="%{customdata}<extra></extra>",
        )
        for trials, symbol, size, name in marks
    ]


def _told(data: StudyData, trial: TrialData, *, tuned: bool) -> str:
    """Say which trial a mark is and, where it is at the horizon, its score."""
    named = data.trial_title(trial) if tuned else f"{trial.arm}, trial {trial.number}"
    at_horizon = trial.state == "COMPLETE"
    return f"{named}: {data.measure.value(trial.value)}" if at_horizon else named


def _value(measure: Measure, mean: float) -> str:
    return measure.level(mean) if measure.is_share else decimals(mean)


def _table(measure: Measure, picture: _Picture) -> Table:
    """The means: a row for each value on the vertical axis, a column for each on the other."""
    first, *others = picture.across.words
    return Table(
        columns=[
            "arm",
            picture.up.name,
            f"{_unit(measure)}, at {picture.across.name} {first}",
            *others,
        ],
        rows=[
            [picture.arm.name, word, *(_value(measure, float(mean)) for mean in row)]
            for word, row in zip(picture.up.words, picture.means, strict=True)
        ],
        words=2,
    )
