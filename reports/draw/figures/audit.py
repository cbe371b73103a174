"""The figure of the pruning audit: what would have been cut, and how early ranks are settled."""

from html import escape
from typing import Any

import plotly.graph_objects as go

from reports.compute.audit import Audit, Auditor
from reports.compute.findings import Findings
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, line, plot, text_label
from reports.draw.palette import light
from reports.draw.rows import HEAD, ROW, swarm
from reports.draw.shared import arm_legend, looks
from reports.statistics import MINIMUM_AUDITORS
from reports.wording import NONE, Measure, counted, figure, listed

GROUP = "Search"
ORDER = 50

KEPT, CUT, WRONG = "kept", "cut", "cut wrongly"
# mark of Plotly, its size, and its colour; an arm's own where that is empty
MARKS = {KEPT: ("circle", 11, ""), CUT: ("x-thin", 10, "grey"), WRONG: ("diamond-open", 13, "ink")}

SPREAD = 0.22  # of a row, to either side


def draw(findings: Findings) -> Figure:
    """Draw every auditor's end by what would have become of it, and the ranks by epoch."""
    audits = [audit for audit in findings.audits if audit.auditors]
    name = "Pruning audit"
    if not audits:
        note = "Auditors are trials that are exempt from pruning: none has reached the horizon yet."
        return Figure(key="audit", name=name, title="Pruning cannot be judged yet", note=note)
    judged = [audit for audit in audits if audit.taus]
    arms = [audit.arm for audit in audits]
    panels = [_auditors_panel(findings, audits)]
    return Figure(
        key="audit",
        name=name,
        title=_title(findings, audits),
        caption="Auditors are trials exempt from pruning. A cut is wrong if the auditor ends among "
        "the best third of its arm's auditors; regret is how much better the best auditor is than "
        "the best that the pruner would have kept.",
        note=_note(audits),
        panels=[*panels, _tau_panel(findings, judged)] if judged else panels,
        legend=[
            *arm_legend(findings.data, arms),
            Legend(text="would have been cut", colour="grey", mark="cross"),
            Legend(text="wrongly", colour="ink", mark="diamond-open"),
        ],
        tables=[_table(findings.data.measure, audits), _tau_table(judged)]
        if judged
        else [_table(findings.data.measure, audits)],
    )


def _title(findings: Findings, audits: list[Audit]) -> str:
    measure = findings.data.measure
    cut, wrong = sum(audit.cut for audit in audits), sum(audit.wrong for audit in audits)
    whole = counted(sum(len(audit.auditors) for audit in audits), "auditor")
    if not cut:
        return f"The pruner ({findings.data.settings.pruner}) would have cut none of {whole}"
    lost = [f"{measure.number(audit.regret)} for {audit.arm}" for audit in audits]
    return (
        f"The pruner would have cut {cut} of {whole}, {wrong or 'none'} of them wrongly; "
        f"{f'regret in {measure.unit}' if measure.unit else 'regret'}: {listed(lost)}"
    )


def _note(audits: list[Audit]) -> str:
    """Say where ranks are not judged for want of auditors."""
    few = [
        f"{len(audit.auditors)} of {audit.arm}"
        for audit in audits
        if len(audit.auditors) < MINIMUM_AUDITORS
    ]
    if not few:
        return ""
    rule = f"Kendall's τ by epoch takes {MINIMUM_AUDITORS} auditors"
    return f"{rule}; there are {listed(few)}."


def _auditors_panel(findings: Findings, audits: list[Audit]) -> Panel:
    traces: list[Any] = []
    labels = []
    for place, audit in enumerate(audits):
        for what in MARKS:
            found = [one for one in audit.auditors if _became(one) == what]
            traces.append(_marks(findings, audit, place, what, found))
        labels.append(
            text_label(
                _summary(findings.data.measure, audit),
                0,
                place - 0.36,
                xref="paper",
                xanchor="left",
                font={"size": 13, "color": light("ink")},
            )
        )
    made = plot(
        traces,
        xaxis=axis(findings.data.measure.of("final validation")),
        yaxis={"visible": False, "range": [len(audits) - 0.4, -0.6], "fixedrange": True},
        annotations=labels,
    )
    height = HEAD + ROW * len(audits) + 56
    summaries = [_summary(findings.data.measure, audit) for audit in audits]
    alt = f"Auditors by their last validation {findings.data.measure.name}. {'. '.join(summaries)}."
    return Panel(key="audit-auditors", plot=made, height=height, alt=alt, heading="every auditor")


def _became(one: Auditor) -> str:
    if one.cut_epoch is None:
        return KEPT
    return WRONG if one.wrong else CUT


def _summary(measure: Measure, audit: Audit) -> str:
    regret = "none kept" if audit.regret is None else f"regret {measure.number(audit.regret)}"
    return f"{audit.arm}: {audit.cut} of {len(audit.auditors)} cut, {audit.wrong} wrongly; {regret}"


def _marks(findings: Findings, audit: Audit, place: int, what: str, found: list[Auditor]) -> Any:
    symbol, size, name = MARKS[what]
    look = looks(findings.data)[audit.arm]
    colour = light(name) if name else look.light
    words = [
        f"trial {one.number}, {what}{f' after epoch {one.cut_epoch}' if one.cut_epoch else ''}"
        for one in found
    ]
    return go.Scatter(
        x=[findings.data.measure.scale * one.value for one in found],
        y=[place + offset for offset in _apart([one.value for one in found])],
        mode="markers",
        customdata=words,
        marker={
            "symbol": look.symbol if what == KEPT else symbol,
            "size": size,
            "color": colour,
            "opacity": 0.8,
            "line": {"width": 0 if what == KEPT else 2, "color": colour},
        },
        name=escape(f"{audit.arm}, {what}"),
        hovertemplate=f"%{{customdata}}: %{{x:.2f}} {findings.data.measure.symbol}<extra></extra>",
    )


def _apart(values: list[float]) -> list[float]:
    """Keep equal values apart, within their row."""
    offsets = swarm(values)
    most = max(map(abs, offsets), default=0.0)
    return [offset * min(1.0, SPREAD / most) if most else 0.0 for offset in offsets]


def _tau_panel(findings: Findings, judged: list[Audit]) -> Panel:
    traces, halves = [], []
    half = findings.data.protocol.epochs // 2 or 1
    for audit in judged:
        epochs = list(range(1, len(audit.taus) + 1))
        hover = f"{escape(audit.arm)}, epoch %{{x}}: τ = %{{y:.2f}}<extra></extra>"
        look = looks(findings.data)[audit.arm]
        traces.append(line(look, epochs, list(audit.taus), audit.arm, hovertemplate=hover))
        halves.append(f"{figure(audit.taus[half - 1], 2)} for {audit.arm}")
    made = plot(traces, xaxis=axis("epoch"), yaxis=axis("Kendall's τ with the last epoch"))
    alt = f"Agreement of each epoch's ranking with the last; at epoch {half}: {listed(halves)}."
    heading = "ranking at an epoch against the last: 1 is the same, 0 is chance"
    return Panel(key="audit-taus", plot=made, height=TALL, alt=alt, heading=heading)


def _table(measure: Measure, audits: list[Audit]) -> Table:
    rows = [
        [
            audit.arm,
            str(one.number),
            measure.value(one.value),
            NONE if one.cut_epoch is None else str(one.cut_epoch),
            "yes" if one.wrong else "no",
        ]
        for audit in audits
        for one in audit.auditors
    ]
    columns = [
        "arm",
        "auditor",
        f"validation {measure.name}",
        "would be cut after epoch",
        "wrongly",
    ]
    return Table(columns=columns, rows=rows)


def _tau_table(judged: list[Audit]) -> Table:
    rows = [
        [audit.arm, str(epoch), figure(tau, 2)]
        for audit in judged
        for epoch, tau in enumerate(audit.taus, start=1)
    ]
    return Table(columns=["arm", "epoch", "τ"], rows=rows)
