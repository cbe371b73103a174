"""Which parameters of the search mattered."""

from html import escape

import plotly.graph_objects as go

from reports.draw.drawing import Figure, Panel, Table, plot, text_label
from reports.draw.palette import Look, light
from reports.draw.shared import importances_note, looks
from reports.findings import Findings
from reports.read.trials import ArmData
from reports.wording import listed, percent, points

GROUP = "Search"
ORDER = 20
NAME = "Parameter importances"

MOST_BARS = 10  # importances drawn; the table has all
BY_TRIALS = (
    "How much each parameter distinguishes the best tenth of an arm's completed trials from all of "
    "them (PED-ANOVA); whiskers are the spread of 90 % of bootstrap "
    "samples of the trials, not confidence: a parameter without effect has a share above 0 too."
)
BY_SURROGATE = (
    "The share of the variance over random recipes of the space that each parameter explains "
    "alone, in what the search's surrogate expects at the horizon: a one-way analysis of variance "
    "(epsilon squared, Kelley 1935). Whiskers are the spread of 90 % of the draws of the "
    "surrogate's posterior, not confidence: a parameter without effect has a share above 0 too. "
    "Shares do not sum to 100 %: what only several parameters together explain belongs "
    "to none, and parameters that come together share what they explain."
)


def draw(findings: Findings) -> Figure:
    """Draw how much each parameter explains of the surrogate or, with a sampler, of the trials."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.importances]
    note = importances_note(data)
    if not arms:
        few = "Too few completed trials to measure importances"
        return Figure(title="Importances are unknown" if data.by_promotion else few, note=note)
    return Figure(
        title=f"What mattered most: {listed([_largest(arm) for arm in arms])}",
        caption=BY_SURROGATE if data.by_promotion else BY_TRIALS,
        panels=[_panel(arm, looks(data)[arm.name]) for arm in arms],
        tables=[_table(arms)],
        note=note,
    )


def _largest(arm: ArmData) -> str:
    name, importance = next(iter(arm.importances.items()))
    ends = f"{points(importance.low, digits=0)} to {percent(importance.high, 0)}"
    return f"{name} in {arm.name} ({percent(importance.share, 0)}, spread {ends})"


def _panel(arm: ArmData, look: Look) -> Panel:
    bars = [
        (name, 100 * one.share, 100 * one.low, 100 * one.high)
        for name, one in list(arm.importances.items())[:MOST_BARS]
    ]
    whiskers = {
        "type": "data",
        "array": [max(0.0, high - share) for _, share, _, high in bars],
        "arrayminus": [max(0.0, share - low) for _, share, low, _ in bars],
        "color": light("ink"),
        "thickness": 1.2,
        "width": 3,
    }
    trace = go.Bar(
        x=[share for _, share, _, _ in bars],
        y=[escape(name) for name, *_ in bars],
        orientation="h",
        marker={"color": look.light},
        width=0.6,
        error_x=whiskers,
        customdata=[(low, high) for *_, low, high in bars],
        hovertemplate="%{y}: %{x:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f})"
        "<extra></extra>",
    )
    made = plot(
        [trace],
        xaxis={"visible": False, "range": [0, 1.18 * (max(max(bar[1:]) for bar in bars) or 1.0)]},
        yaxis={"autorange": "reversed", "type": "category", "ticksuffix": " "},
        annotations=[
            text_label(f"{share:.0f} %", max(share, high), escape(name), xanchor="left", xshift=6)
            for name, share, _, high in bars
        ],
    )
    shares = ", ".join(f"{name} {share:.0f} %" for name, share, _, _ in bars)
    return Panel(
        key=f"importances-{arm.name}",
        plot=made,
        height=30 + 26 * len(bars),
        alt=f"Importances in {arm.name}: {shares}",
        heading=arm.name,
    )


def _table(arms: list[ArmData]) -> Table:
    rows = [
        {
            "arm": arm.name,
            "parameter": name,
            "importance": percent(importance.share, 1),
            "spread of 90 %": f"{percent(importance.low, 1)} to {percent(importance.high, 1)}",
        }
        for arm in arms
        for name, importance in arm.importances.items()
    ]
    return Table.of(rows, words=2)
