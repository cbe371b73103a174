"""The figure of the search's optimism: what its winners score on fresh seeds."""

from html import escape
from typing import Any

import plotly.graph_objects as go

from reports.compute.findings import Findings, Optimism
from reports.draw.drawing import Figure, Legend, Panel, Table, axis, plot, text_label
from reports.draw.palette import light
from reports.draw.rows import HEAD, ROW
from reports.draw.shared import looks, unconfirmed
from reports.read.data import StudyData
from reports.wording import Measure, listed

GROUP = "Search"
ORDER = 60


def draw(findings: Findings) -> Figure:
    """Draw what each tuned recipe scored on validation images in search and on fresh seeds."""
    found = [one for one in findings.optimism if one.fresh is not None]
    name = "Optimism of the search"
    if not found:
        note = unconfirmed(findings.data)
        if findings.optimism:
            note = "Recipes were confirmed at another horizon than they were searched at."
        title = "How optimistic the search was cannot be told"
        return Figure(key="optimism", name=name, title=title, note=note)
    measure = findings.data.measure
    title = _optimism_title(measure, found)
    alt = f"{title}. " + " ".join(
        f"{one.one.label}: search {measure.value(one.searched)}, selection "
        f"{measure.value(one.selected)}, confirmation {measure.value(one.confirmed)}."
        for one in found
    )
    panel = Panel(
        key="optimism",
        plot=_optimism_plot(findings.data, found),
        height=HEAD + ROW * len(found) + 56,
        alt=alt,
    )
    return Figure(
        key="optimism",
        name=name,
        title=title,
        caption=f"Validation {measure.name} of the chosen recipes: the best of many scores is too "
        "good, fresh seeds are not.",
        panels=[panel],
        legend=[
            Legend(text="search", colour="faint", mark="circle"),
            Legend(text="mean of the selection's seeds", colour="grey", mark="square"),
            Legend(text="mean of the confirmation's seeds", colour="ink", mark="diamond"),
        ],
        tables=[
            Table(
                columns=[
                    "recipe",
                    "search",
                    "selection",
                    "confirmation",
                    measure.difference("search less fresh seeds"),
                ],
                rows=[
                    [
                        one.one.label,
                        measure.value(one.searched),
                        measure.value(one.selected),
                        measure.value(one.confirmed),
                        measure.number(one.excess, sign=True),
                    ]
                    for one in found
                ],
            )
        ],
    )


def _optimism_title(measure: Measure, found: list[Optimism]) -> str:
    excesses = [(one.one.finalist.arm, one.excess or 0.0) for one in found]
    if all(excess >= 0 for _, excess in excesses):
        parts = [f"{measure.number(excess)} for {arm}" for arm, excess in excesses]
        fewer = f"{'more' if measure.lower else 'fewer'} {measure.unit}".rstrip()
        return f"On fresh seeds the winners score {fewer} than in the search: {listed(parts)}"
    (arm, excess), *others = excesses
    parts = [f"{measure.change(-excess)} for {arm}"]
    parts += [f"{measure.number(-excess, sign=True)} for {arm}" for arm, excess in others]
    return f"From search to fresh seeds the winners' scores moved by {listed(parts)}"


def _optimism_plot(data: StudyData, found: list[Optimism]) -> dict[str, Any]:
    traces: list[Any] = []
    labels = []
    for place, one in enumerate(found):
        marks = [
            ("search", one.searched, "circle", "faint"),
            ("selection", one.selected, "square", "grey"),
            ("confirmation", one.confirmed, "diamond", "ink"),
        ]
        known = [
            (what, data.measure.scale * value, symbol, colour)
            for what, value, symbol, colour in marks
            if value is not None
        ]
        colour = looks(data)[one.one.finalist.arm].light
        traces.append(
            go.Scatter(
                x=[value for _, value, _, _ in known],
                y=[place] * len(known),
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={
                    "symbol": [symbol for *_, symbol, _ in known],
                    "size": 12,
                    "color": [light(name) for *_, name in known],
                },
                customdata=[what for what, *_ in known],
                name=escape(one.one.label),
                hovertemplate=f"%{{customdata}}: %{{x:.2f}} {data.measure.symbol}<extra></extra>",
            )
        )
        labels.append(
            text_label(
                one.one.label,
                0,
                place - 0.36,
                xref="paper",
                xanchor="left",
                font={"size": 13, "color": light("ink")},
            )
        )
    return plot(
        traces,
        xaxis=axis(data.measure.of("validation")),
        yaxis={"visible": False, "range": [len(found) - 0.4, -0.6], "fixedrange": True},
        annotations=labels,
    )
