"""What a figure is, and what all figures have in common."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

import plotly.graph_objects as go
from markupsafe import Markup

from reports.draw.palette import Look, light
from reports.wording import figure, scaled

TALL = 300  # px, of a plot with room
MOST_TICKS = 7  # of a logarithmic axis
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text; `words` is the number of first columns that hold words, not numbers.

    `strong` are the indices of highlighted rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    strong: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, rows: Iterable[Mapping[str, str]], words: int = 1, strong: Iterable[int] = ()
    ) -> Self:
        """Make a table of rows that all have the same columns, by name; empty without rows."""
        cells = list(rows)
        return cls(
            columns=list(cells[0]) if cells else [],
            rows=[list(row.values()) for row in cells],
            words=words,
            strong=frozenset(strong),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot: Plotly's JSON, height in px, text to read out, a drawing without JavaScript."""

    key: str
    plot: dict[str, Any]
    height: int
    alt: str
    heading: str = ""
    fallback: Markup = field(default_factory=Markup)


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """One entry; `mark` is circle, diamond, square, triangle-up, pentagon, cross, line or area."""

    text: str
    colour: str
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image inside the page, with `text` below it."""

    uri: str
    alt: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures that belong together; there may be none."""

    heading: str
    text: str
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure whose title states its finding; without panels, its `note` gives the reason.

    `draw_figures` sets `key`, and `name` where there is none. `dense` panels are small, up to three
    in a row.
    """

    title: str
    key: str = ""
    name: str = ""
    caption: str = ""
    panels: Sequence[Panel] = ()
    galleries: Sequence[Gallery] = ()
    legend: Sequence[Legend] = ()
    tables: Sequence[Table] = ()
    note: str = ""
    dense: bool = False


def plot(traces: list[Any], **layout: Any) -> dict[str, Any]:
    """Return Plotly's JSON of traces in the report's style, in light colours."""
    base: dict[str, Any] = {
        "template": go.layout.Template(layout=_STYLE),
        "showlegend": False,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
    }
    made: dict[str, Any] = go.Figure(data=traces, layout={**base, **layout}).to_plotly_json()
    return made


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 6}, **more}


def epoch_axis(horizon: int, **more: Any) -> dict[str, Any]:
    """An axis of epochs up to the horizon, with ticks at whole epochs only."""
    return axis("epoch", dtick=1 if horizon < 8 else None, **more)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers inside an axis, four to eight of them: steps of 1, 2 or 5."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(step * place, 10) for place in range(first, math.floor(high / step) + 1)]


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from low to high > 0, with a few round ticks in place of Plotly's many."""
    ends = math.log10(low), math.log10(high)
    room = 0.06 * (ends[1] - ends[0]) or 0.3
    start, end = ends[0] - room, ends[1] + room
    powers = range(math.floor(start), math.ceil(end) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        candidates = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in candidates if start <= math.log10(tick) <= end]
        if len(inside) <= MOST_TICKS:
            break
    if len(inside) < 2:  # a narrow range, almost linear
        inside = ticks(10**start, 10**end)
    return axis(
        title,
        type="log",
        range=[start, end],
        tickvals=inside,
        ticktext=[scaled(tick) if tick >= 1000 else figure(tick) for tick in inside],
    )


def line(
    look: Look, x: Any, y: Any, name: str, *, hover: str, marked: bool = False, **more: Any
) -> Any:
    """A line in a series' colour and dash, `marked` with its symbol; `hover` as in `dots`."""
    style = {"color": look.light, "dash": look.dash, "width": 2, **more.pop("line", {})}
    marker = {"symbol": look.symbol, "size": 7} if marked else None
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers" if marked else "lines",
        line=style,
        marker=marker,
        name=escape(name),
        hovertemplate=f"{hover}<extra></extra>",
        **more,
    )


def dots(look: Look, x: Any, y: Any, name: str, *, hover: str, size: int = 8, **more: Any) -> Any:
    """Dots in a series' colour and symbol; `hover` is Plotly's template, with escaped names."""
    marker = {"color": look.light, "symbol": look.symbol, "size": size, **more.pop("marker", {})}
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker=marker,
        name=escape(name),
        hovertemplate=f"{hover}<extra></extra>",
        **more,
    )


def guide(x: Any, y: Any, colour: str = "grey", **style: Any) -> Any:
    """A line that is not data and has no hover text, dotted unless `style` says otherwise."""
    style = {"color": light(colour), "width": 1.5, "dash": "dot", **style}
    return go.Scatter(x=x, y=y, mode="lines", hoverinfo="skip", line=style)


def text_label(text: str, x: float, y: float | str, **more: Any) -> dict[str, Any]:
    """An annotation beside a point; its text is escaped, since Plotly would read markup in it."""
    base = {"text": escape(text), "x": x, "y": y, "showarrow": False}
    return {**base, "font": {"size": 12, "color": light("muted")}, **more}


_AXIS = {
    "gridcolor": light("grid"),
    "linecolor": light("faint"),
    "zeroline": False,
    "ticks": "",
    "automargin": True,
    "title": {"font": {"size": 12, "color": light("muted")}},
    "tickfont": {"size": 12, "color": light("muted")},
}
_STYLE = {
    "font": {"family": FONT, "size": 13, "color": light("ink")},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "xaxis": {**_AXIS, "showline": True},
    "yaxis": _AXIS,
    "hoverlabel": {
        "bgcolor": light("page"),
        "bordercolor": light("faint"),
        "font": {"color": light("ink"), "family": FONT},
    },
    "separators": ".\u202f",
}
