"""Row charts: one row per finalist or comparison with its label above, in Plotly and as SVG.

The SVG is for readers without JavaScript. Its x is in per cent of the width and its y in px, so
that it fits any screen and its text stays readable.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from reports.draw.drawing import axis, dots, guide, plot, text_label, ticks
from reports.draw.palette import Look, light
from reports.statistics import Difference, mean_and_deviation
from reports.wording import figure, shortened

ROW = 58  # px
FOOT = 56
HEAD = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`points` are single seeds; the bar goes from `low` to `high` about `centre`."""

    label: str
    look: Look
    points: Sequence[float]
    centre: float
    low: float
    high: float


def difference_row(label: str, look: Look, difference: Difference, scale: float) -> Row:
    """A row with a difference per seed and their 95 % interval."""
    low, high = sorted((scale * difference.low, scale * difference.high))
    return Row(
        label=label,
        look=look,
        points=[scale * value for value in difference.per_seed],
        centre=scale * difference.mean,
        low=low,
        high=high,
    )


def mean_row(label: str, look: Look, values: Sequence[float], scale: float) -> Row:
    """A row with a value per seed and their mean ± one standard deviation."""
    mean, deviation = mean_and_deviation(values)
    half = abs(scale) * (deviation or 0.0)
    return Row(
        label=label,
        look=look,
        points=[scale * value for value in values],
        centre=scale * mean,
        low=scale * mean - half,
        high=scale * mean + half,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChart:
    """Rows on one axis; `reference` is a vertical line, `band` a shaded range.

    `ends` are those of the axis, for charts that share one.
    """

    rows: Sequence[Row]
    axis: str
    reference: float | None = None
    reference_label: str = ""
    band: tuple[float, float] | None = None
    ends: tuple[float, float] | None = None

    @property
    def span(self) -> tuple[float, float]:
        """The ends of the axis, by default a twentieth wider than what is shown."""
        if self.ends is not None:
            return self.ends
        values = [value for row in self.rows for value in (*row.points, row.low, row.high)]
        values += [self.reference] if self.reference is not None else []
        values += self.band or ()
        low, high = min(values), max(values)
        room = (high - low) / 20 or 0.5
        return low - room, high + room


def rows_height(count: int) -> int:
    """The height in px of a chart of `count` rows."""
    return HEAD + ROW * count + FOOT


def swarm(points: Sequence[float]) -> list[float]:
    """Offsets in rows that keep equal points apart: 0, then up and down in turn."""
    seen: Counter[float] = Counter()
    offsets = []
    for point in points:
        place = seen[round(point, 6)]
        seen[round(point, 6)] += 1
        offsets.append(0.11 * math.ceil(place / 2) * (-1 if place % 2 else 1))
    return offsets


def labelled_rows(
    traces: list[Any],
    labels: Sequence[str],
    xaxis: dict[str, Any],
    annotations: Sequence[dict[str, Any]] = (),
    **layout: Any,
) -> dict[str, Any]:
    """Return a plot whose traces have y = 0, 1, …, each row with its label above."""
    font = {"size": 13, "color": light("ink")}
    beside = {"xref": "paper", "xanchor": "left", "bgcolor": light("page"), "borderpad": 0}
    named = [
        text_label(shortened(label), 0, place - 0.36, font=font, **beside)
        for place, label in enumerate(labels)
    ]
    return plot(
        traces,
        xaxis=xaxis,
        yaxis={"visible": False, "range": [len(labels) - 0.4, -0.6], "fixedrange": True},
        annotations=[*named, *annotations],
        margin={"l": 8, "r": 12, "t": HEAD, "b": 8},
        **layout,
    )


def rows_plot(chart: RowChart) -> dict[str, Any]:
    above = {"yref": "paper", "yanchor": "bottom", "xanchor": _anchor(chart), "xshift": 0}
    reference = (
        [text_label(chart.reference_label, chart.reference, 1, **above)]
        if chart.reference is not None and chart.reference_label
        else []
    )
    return labelled_rows(
        [trace for place, row in enumerate(chart.rows) for trace in _row_traces(place, row)],
        [row.label for row in chart.rows],
        axis(chart.axis, range=list(chart.span)),
        reference,
        shapes=_shapes(chart),
    )


def _row_traces(place: int, row: Row) -> list[Any]:
    bar = guide([row.low, row.high], [place, place], row.look.colour, width=3, dash="solid")
    mean = go.Scatter(
        x=[row.centre],
        y=[place],
        mode="markers",
        name=escape(row.label),
        marker={"symbol": "line-ns", "size": 20, "line": {"color": row.look.light, "width": 3}},
        hovertemplate="mean %{x:.2f}<extra></extra>",
    )
    points = dots(
        row.look,
        row.points,
        [place + offset for offset in swarm(row.points)],
        row.label,
        size=10,
        marker={"opacity": 0.75, "line": {"color": light("page"), "width": 1}},
        customdata=[f"seed {number + 1}" for number in range(len(row.points))],
        hover="%{customdata}: %{x:.2f}",
    )
    return [bar, mean, points]


def _anchor(chart: RowChart) -> str:
    low, high = chart.span
    place = ((chart.reference or 0.0) - low) / (high - low)
    return "left" if place < 0.2 else "right" if place > 0.8 else "center"


def _shapes(chart: RowChart) -> list[dict[str, Any]]:
    tall = {"yref": "paper", "y0": 0, "y1": 1}
    shapes: list[dict[str, Any]] = []
    if chart.band is not None:
        start, end = chart.band
        filled = {"fillcolor": light("band"), "line": {"width": 0}, "layer": "below"}
        shapes.append({"type": "rect", "x0": start, "x1": end, **tall, **filled})
    if chart.reference is not None:
        style = {"color": light("grey"), "width": 1.5, "dash": "dot"}
        ends = {"x0": chart.reference, "x1": chart.reference}
        shapes.append({"type": "line", **ends, **tall, "line": style})
    return shapes


def rows_svg(chart: RowChart, alt: str) -> Markup:
    """Draw the chart as one SVG element; every text is escaped."""
    low, high = chart.span

    def x(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    foot = HEAD + ROW * len(chart.rows)
    parts = [_svg_band(chart, x, foot), *(_svg_tick(x, tick, foot) for tick in ticks(low, high))]
    if chart.reference is not None:
        at = x(chart.reference)
        parts.append(f'<line class="reference" x1="{at}" x2="{at}" y1="{HEAD - 4}" y2="{foot}"/>')
        anchor = {"left": "start", "right": "end", "center": "middle"}[_anchor(chart)]
        label = escape(chart.reference_label)
        parts.append(f'<text x="{at}" y="12" text-anchor="{anchor}">{label}</text>')
    parts += [_svg_row(row, HEAD + ROW * place, x) for place, row in enumerate(chart.rows)]
    parts.append(f'<text x="50%" y="{foot + 40}" text-anchor="middle">{escape(chart.axis)}</text>')
    return Markup(  # every text in it went through escape
        f'<svg class="rows" role="img" aria-label="{escape(alt)}" width="100%" '
        f'height="{rows_height(len(chart.rows))}">{"".join(parts)}</svg>'
    )


def _svg_band(chart: RowChart, x: Any, foot: int) -> str:
    if chart.band is None:
        return ""
    low, high = chart.span
    width = 100 * (chart.band[1] - chart.band[0]) / (high - low)
    return (
        f'<rect class="band" x="{x(chart.band[0])}" y="{HEAD}" width="{width:.2f}%" '
        f'height="{foot - HEAD}"/>'
    )


def _svg_tick(x: Any, tick: float, foot: int) -> str:
    at = x(tick)
    return (
        f'<line class="grid" x1="{at}" x2="{at}" y1="{HEAD}" y2="{foot}"/>'
        f'<text x="{at}" y="{foot + 18}" text-anchor="middle">{figure(tick)}</text>'
    )


def _svg_row(row: Row, top: int, x: Any) -> str:
    middle = top + 38
    circles = "".join(
        f'<circle cx="{x(point)}" cy="{middle + ROW * offset:.1f}" r="4.5"/>'
        for point, offset in zip(row.points, swarm(row.points), strict=True)
    )
    at = x(row.centre)
    return (
        f'<text class="label" x="0" y="{top + 20}">{escape(shortened(row.label))}</text>'
        f'<g style="--series: var(--{row.look.colour})">'
        f'<line class="bar" x1="{x(row.low)}" x2="{x(row.high)}" y1="{middle}" y2="{middle}"/>'
        f'<line class="bar" x1="{at}" x2="{at}" y1="{middle - 9}" y2="{middle + 9}"/>{circles}</g>'
    )
