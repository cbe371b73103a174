"""Which parameters of the search mattered."""

from html import escape

import plotly.graph_objects as go

from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Panel, Table, plot, text_label
from reports.draw.palette import light
from reports.draw.shared import looks
from reports.read.data import ArmData, StudyData
from reports.read.importances import Importance
from reports.wording import listed, percent, points

GROUP = "Search"
ORDER = 20

MOST_BARS = 10  # importances drawn; the table has all


def draw(findings: Findings) -> Figure:
    """Draw how much of what told the best tenth of trials apart each parameter explains."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.importances]
    notes = [f"{arm.name}: {arm.importances_note}" for arm in data.arms if arm.importances_note]
    name = "Parameter importances"
    if not arms:
        title = "Too few completed trials to say what mattered"
        return Figure(key="importances", name=name, title=title, note=" ".join(notes))
    parts = [
        f"{next(iter(arm.importances))} in {arm.name} "
        f"({_weight(next(iter(arm.importances.values())))})"
        for arm in arms
    ]
    return Figure(
        key="importances",
        name=name,
        title=f"What mattered most: {listed(parts)}",
        caption="Share of what sets the best tenth of an arm's completed trials apart from the "
        "rest (PED-ANOVA); whiskers are 90 % bootstrap intervals over trials.",
        panels=[_importances_panel(data, arm) for arm in arms],
        tables=[
            Table(
                columns=["arm", "parameter", "importance", "90 % interval"],
                words=2,
                rows=[
                    [
                        arm.name,
                        name,
                        percent(one.share, 1),
                        f"{percent(one.low, 1)} to {percent(one.high, 1)}",
                    ]
                    for arm in arms
                    for name, one in arm.importances.items()
                ],
            )
        ],
        note=" ".join(notes),
    )


def _weight(one: Importance) -> str:
    return (
        f"{percent(one.share, 0)}, interval {points(one.low, digits=0)} to {percent(one.high, 0)}"
    )


def _importances_panel(data: StudyData, arm: ArmData) -> Panel:
    largest = list(arm.importances.items())[:MOST_BARS]
    names, shares = [name for name, _ in largest], [100 * one.share for _, one in largest]
    lows, highs = [100 * one.low for _, one in largest], [100 * one.high for _, one in largest]
    bars = go.Bar(
        x=shares,
        y=[escape(name) for name in names],
        orientation="h",
        marker={"color": looks(data)[arm.name].light},
        width=0.6,
        error_x={
            "type": "data",
            "array": [max(0.0, high - share) for high, share in zip(highs, shares, strict=True)],
            "arrayminus": [max(0.0, share - low) for low, share in zip(lows, shares, strict=True)],
            "color": light("ink"),
            "thickness": 1.2,
            "width": 3,
        },
        customdata=list(zip(lows, highs, strict=True)),
        hovertemplate="%{y}: %{x:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f})"
        "<extra></extra>",
    )
    ends = [max(share, high) for share, high in zip(shares, highs, strict=True)]
    values = [
        text_label(f"{share:.0f} %", end, escape(name), xanchor="left", xshift=6)
        for name, share, end in zip(names, shares, ends, strict=True)
    ]
    made = plot(
        [bars],
        xaxis={"visible": False, "range": [0, 1.18 * (max(ends) or 1.0)]},
        yaxis={"autorange": "reversed", "type": "category", "ticksuffix": " "},
        annotations=values,
    )
    alt = f"Importances in {arm.name}: " + ", ".join(
        f"{name} {share:.0f} %" for name, share in zip(names, shares, strict=True)
    )
    return Panel(
        key=f"importances-{arm.name}",
        plot=made,
        height=30 + 26 * len(names),
        alt=alt,
        heading=arm.name,
    )
