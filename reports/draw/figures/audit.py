"""The audit of the pruner: which auditors it would have cut, and how early ranks are settled."""

from typing import Any

from reports.compute.audit import Audit, Auditor
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots
from reports.draw.palette import light
from reports.draw.rows import labelled_rows, rows_height, swarm
from reports.draw.shared import arm_legend, epochs_panel, looks
from reports.findings import Findings
from reports.read.data import StudyData
from reports.statistics import MINIMUM_AUDITORS
from reports.wording import NONE, Measure, counted, figure, listed

GROUP = "Search"
ORDER = 50
NAME = "Pruning audit"

KEPT, CUT, WRONG = "kept", "cut", "cut wrongly"
# mark of Plotly and its colour, each an arm's own where it is empty, and its size
MARKS = {KEPT: ("", "", 11), CUT: ("x-thin", "grey", 10), WRONG: ("diamond-open", "ink", 13)}

SPREAD = 0.22  # of a row, to either side


def draw(findings: Findings) -> Figure | None:
    """Draw every auditor's final value and whether it would have been cut, and ranks by epoch."""
    if findings.data.by_promotion:
        return None
    data, audits = findings.data, [audit for audit in findings.audits if audit.auditors]
    if not audits:
        note = "Auditors are trials that are exempt from pruning: none has reached the horizon yet."
        return Figure(title="The pruner cannot be judged yet", note=note)
    taus = {audit.arm: dict(enumerate(audit.taus, start=1)) for audit in audits if audit.taus}
    heading = "ranking after an epoch against the last: 1 is the same, 0 is chance"
    y = "Kendall's τ with the last epoch"
    ranks = epochs_panel(data, "audit-taus", taus, heading, y=y, height=TALL)
    rows = [
        {"arm": arm, "epoch": str(epoch), "τ": figure(tau, 2)}
        for arm, curve in taus.items()
        for epoch, tau in curve.items()
    ]
    return Figure(
        title=_title(data, audits),
        caption="Auditors are trials exempt from pruning. A cut is wrong if the auditor ends among "
        "the best third of its arm's auditors. Regret: how much better the best auditor is than "
        "the best one that the pruner would have kept.",
        note=_note(audits),
        panels=[_auditors_panel(data, audits), *([ranks] if taus else [])],
        legend=[
            *arm_legend(data, [audit.arm for audit in audits]),
            Legend(text="would have been cut", colour="grey", mark="cross"),
            Legend(text="wrongly", colour="ink", mark="diamond-open"),
        ],
        tables=[_table(data.measure, audits), *([Table.of(rows)] if taus else [])],
    )


def _title(data: StudyData, audits: list[Audit]) -> str:
    cut, wrong = sum(audit.cut for audit in audits), sum(audit.wrong for audit in audits)
    total = counted(sum(len(audit.auditors) for audit in audits), "auditor")
    if not cut:
        return f"The pruner ({data.settings.pruner}) would have cut none of {total}"
    unit = data.measure.unit
    lost = [f"{data.measure.number(audit.regret)} for {audit.arm}" for audit in audits]
    return (
        f"The pruner would have cut {cut} of {total}, {wrong or 'none'} of them wrongly; "
        f"{f'regret in {unit}' if unit else 'regret'}: {listed(lost)}"
    )


def _note(audits: list[Audit]) -> str:
    """Name the arms with too few auditors to judge their ranks."""
    few = [
        f"{len(audit.auditors)} of {audit.arm}"
        for audit in audits
        if len(audit.auditors) < MINIMUM_AUDITORS
    ]
    rule = f"Kendall's τ by epoch needs {MINIMUM_AUDITORS} auditors per arm"
    return f"{rule}; there are {listed(few)}." if few else ""


def _auditors_panel(data: StudyData, audits: list[Audit]) -> Panel:
    labels = [_label(data.measure, audit) for audit in audits]
    traces = [
        _marks(data, audit, place, fate) for place, audit in enumerate(audits) for fate in MARKS
    ]
    return Panel(
        key="audit-auditors",
        plot=labelled_rows(traces, labels, axis(data.measure.of("final validation"))),
        height=rows_height(len(audits)),
        alt=f"Auditors by their last validation {data.measure.name}. {'. '.join(labels)}.",
        heading="every auditor",
    )


def _fate(auditor: Auditor) -> str:
    if auditor.cut_epoch is None:
        return KEPT
    return WRONG if auditor.wrong else CUT


def _label(measure: Measure, audit: Audit) -> str:
    regret = "none kept" if audit.regret is None else f"regret {measure.number(audit.regret)}"
    return f"{audit.arm}: {audit.cut} of {len(audit.auditors)} cut, {audit.wrong} wrongly; {regret}"


def _marks(data: StudyData, audit: Audit, place: int, fate: str) -> Any:
    """The auditors of one fate, in the row of their arm."""
    auditors = [auditor for auditor in audit.auditors if _fate(auditor) == fate]
    symbol, name, size = MARKS[fate]
    look = looks(data)[audit.arm]
    colour = light(name) if name else look.light
    outline = {"width": 0 if fate == KEPT else 2, "color": colour}
    texts = [
        f"trial {one.number}, {fate}{f' after epoch {one.cut_epoch}' if one.cut_epoch else ''}"
        for one in auditors
    ]
    return dots(
        look,
        [data.measure.scale * auditor.value for auditor in auditors],
        [place + offset for offset in _offsets([auditor.value for auditor in auditors])],
        f"{audit.arm}, {fate}",
        size=size,
        marker={
            "symbol": symbol or look.symbol,
            "color": colour,
            "opacity": 0.8,
            "line": outline,
        },
        customdata=texts,
        hover=f"%{{customdata}}: %{{x:.2f}} {data.measure.symbol}",
    )


def _offsets(values: list[float]) -> list[float]:
    """Keep equal values apart, within their row."""
    offsets = swarm(values)
    most = max(map(abs, offsets), default=0.0)
    return [offset * min(1.0, SPREAD / most) if most else 0.0 for offset in offsets]


def _table(measure: Measure, audits: list[Audit]) -> Table:
    return Table.of(
        {
            "arm": audit.arm,
            "auditor": str(auditor.number),
            f"validation {measure.name}": measure.value(auditor.value),
            "would be cut after epoch": str(auditor.cut_epoch or NONE),
            "wrongly": "yes" if auditor.wrong else "no",
        }
        for audit in audits
        for auditor in audit.auditors
    )
