"""The optimism of the search: how its winners score on fresh seeds."""

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from reports.draw.drawing import Figure, Legend, Panel, Table, axis
from reports.draw.palette import light
from reports.draw.rows import labelled_rows, rows_height
from reports.draw.shared import looks, unconfirmed
from reports.findings import Findings, Optimism
from reports.read.data import FinalistData, StudyData
from reports.wording import Measure, listed

GROUP = "Search"
ORDER = 60
NAME = "Optimism of the search"

MARKS = (  # colour and symbol of each score
    ("search", "faint", "circle"),
    ("mean over the seeds of the selection", "grey", "square"),
    ("mean over the seeds of the confirmation", "ink", "diamond"),
)


def draw(findings: Findings) -> Figure:
    """Draw each tuned recipe's validation score in the search and on fresh seeds."""
    data, measure = findings.data, findings.data.measure
    known = [one for one in findings.optimism if one.excess is not None]
    unseen = _unseen([one.finalist for one in findings.optimism if one.searched is None])
    if not known:
        same = data.protocol.confirm_horizon == data.protocol.epochs
        other = "Recipes were confirmed at another horizon than they were searched at."
        note = "" if same else other
        return Figure(
            title="The optimism of the search is unknown",
            note=f"{note} {unseen}".strip() if findings.optimism else unconfirmed(data),
        )
    title = _title(measure, known)
    rows = [_table_row(measure, one) for one in known]
    scores = ". ".join(", ".join(f"{name} {cell}" for name, cell in row.items()) for row in rows)
    panel = Panel(
        key="optimism",
        plot=labelled_rows(
            [_trace(data, place, one) for place, one in enumerate(known)],
            [one.finalist.label for one in known],
            axis(measure.of("validation")),
        ),
        height=rows_height(len(known)),
        alt=f"{title}. {scores}.",
    )
    return Figure(
        title=title,
        caption=f"Validation {measure.name} of the tuned recipes. {_why(data)} {unseen}".strip(),
        panels=[panel],
        legend=[Legend(text=text, colour=colour, mark=symbol) for text, colour, symbol in MARKS],
        tables=[Table.of(rows)],
    )


def _unseen(finalists: Sequence[FinalistData]) -> str:
    """Say which tuned recipes, of these, have no score in the search."""
    named = listed([one.label for one in finalists])
    return f"The search did not train {named} to the end, so there is no score." if named else ""


def _why(data: StudyData) -> str:
    """Say what is wrong with a score of the search."""
    if data.by_promotion:
        return (
            "The score in the search is the mean over the recipe's runs at the horizon, one "
            "or few. The recipes that are run on fresh seeds were chosen by the "
            "highest posterior mean, which draws on these runs: so it is too good, and the mean "
            "over fresh seeds is not."
        )
    return (
        "The score in the search is too good, as the best of many; the mean over fresh seeds is "
        "not."
    )


def _title(measure: Measure, known: Sequence[Optimism]) -> str:
    excesses = [(one.finalist.arm, one.excess or 0.0) for one in known]
    if all(excess >= 0 for _, excess in excesses):
        parts = [f"{measure.number(excess)} for {arm}" for arm, excess in excesses]
        fewer = f"{'more' if measure.lower else 'fewer'} {measure.unit}"
        less = fewer if measure.unit else "higher" if measure.lower else "lower"
        return f"On fresh seeds the tuned recipes score {less} than in the search: {listed(parts)}"
    (arm, excess), *others = excesses
    parts = [f"{measure.change(-excess)} for {arm}"]
    parts += [f"{measure.number(-excess, sign=True)} for {arm}" for arm, excess in others]
    return f"From search to fresh seeds, the scores of the tuned recipes changed by {listed(parts)}"


def _trace(data: StudyData, place: int, optimism: Optimism) -> Any:
    values = (optimism.searched, optimism.selected, optimism.confirmed)
    known = [
        (stage, colour, symbol, data.measure.scale * value)
        for (stage, colour, symbol), value in zip(MARKS, values, strict=True)
        if value is not None
    ]
    return go.Scatter(
        x=[value for *_, value in known],
        y=[place] * len(known),
        mode="lines+markers",
        line={"color": looks(data)[optimism.finalist.arm].light, "width": 2},
        marker={
            "symbol": [symbol for _, _, symbol, _ in known],
            "size": 12,
            "color": [light(colour) for _, colour, _, _ in known],
        },
        customdata=[stage for stage, *_ in known],
        name=escape(optimism.finalist.label),
        hovertemplate=f"%{{customdata}}: %{{x:.2f}} {data.measure.symbol}<extra></extra>",
    )


def _table_row(measure: Measure, optimism: Optimism) -> dict[str, str]:
    return {
        "recipe": optimism.finalist.label,
        "search": measure.value(optimism.searched),
        "selection": measure.value(optimism.selected),
        "confirmation": measure.value(optimism.confirmed),
        measure.in_unit("search minus fresh seeds"): measure.number(optimism.excess, sign=True),
    }
