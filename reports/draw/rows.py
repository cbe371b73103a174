"""Row charts: one row a finalist or comparison, its label above it, in Plotly and in plain SVG.

The SVG is what a reader without JavaScript sees. Its x is in per cent of the width and its y in px,
so that it fits any screen without its text becoming small.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from reports.draw.drawing import axis, dots, plot, text_label
from reports.draw.palette import Look, light
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChart:
    """All values are on one axis; `reference` is a vertical line, `band` a shaded range.

    `ends` are those of the axis, for charts that share one.
    """

    rows: Sequence[Row]
    axis: str
    reference: float | None = None
    reference_label: str = ""
    band: tuple[float, float] | None = None
    ends: tuple[float, float] | None = None

    @property
    def height(self) -> int:
        return HEAD + ROW * len(self.rows) + FOOT

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


def swarm(points: Sequence[float]) -> list[float]:
    """Offsets in rows that keep equal points apart: 0, then up and down in turn."""
    seen: Counter[float] = Counter()
    offsets = []
    for point in points:
        place = seen[round(point, 6)]
        seen[round(point, 6)] += 1
        offsets.append(0.11 * math.ceil(place / 2) * (-1 if place % 2 else 1))
    return offsets


def rows_plot(chart: RowChart) -> dict[str, Any]:
    traces: list[Any] = []
    labels = []
    for place, row in enumerate(chart.rows):
        traces += _row_traces(place, row)
        labels.append(
            text_label(
                shortened(row.label),
                0,
                place - 0.36,
                xref="paper",
                xanchor="left",
                bgcolor=light("page"),
                borderpad=0,
                font={"size": 13, "color": light("ink")},
            )
        )
    if chart.reference is not None and chart.reference_label:
        labels.append(
            text_label(
                chart.reference_label,
                chart.reference,
                1,
                yref="paper",
                yanchor="bottom",
                xanchor=_anchor(chart),
                xshift=0,
            )
        )
    return plot(
        traces,
        xaxis=axis(chart.axis, range=list(chart.span)),
        yaxis={"visible": False, "range": [len(chart.rows) - 0.4, -0.6], "fixedrange": True},
        annotations=labels,
        shapes=_shapes(chart),
        margin={"l": 8, "r": 12, "t": HEAD, "b": 8},
    )


def _row_traces(place: int, row: Row) -> list[Any]:
    heights = [place + offset for offset in swarm(row.points)]
    seeds = [f"seed {number + 1}" for number in range(len(row.points))]
    hover = "%{customdata}: %{x:.2f}<extra></extra>"
    bar = go.Scatter(
        x=[row.low, row.high],
        y=[place, place],
        mode="lines",
        hoverinfo="skip",
        line={"color": row.look.light, "width": 3},
    )
    middle = go.Scatter(
        x=[row.centre],
        y=[place],
        mode="markers",
        name=escape(row.label),
        marker={"symbol": "line-ns", "size": 20, "line": {"color": row.look.light, "width": 3}},
        hovertemplate="mean %{x:.2f}<extra></extra>",
    )
    marker = {"opacity": 0.75, "line": {"color": light("page"), "width": 1}}
    points = dots(
        row.look,
        row.points,
        heights,
        row.label,
        size=10,
        marker=marker,
        customdata=seeds,
        hovertemplate=hover,
    )
    return [bar, middle, points]


def _anchor(chart: RowChart) -> str:
    low, high = chart.span
    place = ((chart.reference or 0.0) - low) / (high - low)
    return "left" if place < 0.2 else "right" if place > 0.8 else "center"


def _shapes(chart: RowChart) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    if chart.band is not None:
        shapes.append(
            {
                "type": "rect",
                "x0": chart.band[0],
                "x1": chart.band[1],
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "fillcolor": light("band"),
                "line": {"width": 0},
                "layer": "below",
            }
        )
    if chart.reference is not None:
        shapes.append(
            {
                "type": "line",
                "x0": chart.reference,
                "x1": chart.reference,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": light("grey"), "width": 1.5, "dash": "dot"},
            }
        )
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
        f'height="{chart.height}">{"".join(parts)}</svg>'
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


def ticks(low: float, high: float) -> list[float]:
    """Round numbers inside the axis, four to eight of them: steps of 1, 2 or 5."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(step * place, 10) for place in range(first, math.floor(high / step) + 1)]
