"""The search by promotion: which runs went on at each rung, and how good the early signal was."""

from html import escape
from typing import Any

from reports.compute.rungs import ArmRungs, Rung
from reports.draw.drawing import TALL, Figure, Legend, Panel, Table, axis, dots, guide, plot
from reports.draw.palette import Look, light
from reports.draw.rows import Row, RowChart
from reports.draw.shared import arm_legend, looks, row_panel
from reports.findings import Findings
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.statistics import MINIMUM_RANKED, RankCorrelation
from reports.wording import NONE, counted, listed, percent, signed

GROUP = "Search"
ORDER = 45
NAME = "Rungs and promotions"

PAUSED, WHOLE, REPEATED, DIVERGED = "paused", "at the horizon", "a repeat", "diverged"


def draw(findings: Findings) -> Figure | None:
    """Draw which epochs every trial trained, and the rank correlation of the early signal."""
    data, arms = findings.data, [arm for arm in findings.rungs if arm.runs]
    if not data.by_promotion:
        return None
    if not arms:
        return Figure(title="No run yet", note="No trial has ended yet.")
    known = [
        (arm, rung, rung.signal) for arm in arms for rung in arm.below if rung.signal is not None
    ]
    return Figure(
        title=_title(arms),
        caption=_caption(data, arms),
        note=_note(arms),
        panels=[
            *(_jobs_panel(data, arm) for arm in data.arms if arm.runs),
            *([_signal_panel(data, known)] if known else []),
        ],
        legend=[
            *arm_legend(data, [arm.arm for arm in arms]),
            Legend(text=REPEATED, colour="ink", mark="circle-open"),
            Legend(text=PAUSED, colour="grey", mark="cross"),
            Legend(text=DIVERGED, colour="grey", mark="triangle-down"),
        ],
        tables=[_table(arms)],
    )


def _title(arms: list[ArmRungs]) -> str:
    parts = [
        f"{arm.rungs[-1].reached or 'none'} of {counted(arm.runs, 'run')} of {arm.arm}"
        for arm in arms
    ]
    return f"Trained to the horizon: {listed(parts)}"


def _caption(data: StudyData, arms: list[ArmRungs]) -> str:
    rungs = [str(rung.epoch) for rung in arms[0].below]
    if not rungs:
        return "This search has no rung below the horizon: every run is trained to the end."
    return (
        "Each line is a trial: it trains its run over these epochs, and a dotted line leads to the "
        f"trial that goes on with it. After epoch {listed(rungs)} a run pauses, and the best third "
        "by the early signal go on: the mean over its epochs of the NLL of some validation "
        "images. The recipes that are tried first, repeats on another seed, and auditors run "
        f"straight to epoch {data.protocol.epochs}. Auditors are new recipes, by which the search "
        f"judges its signal: {_audited(arms)}. While it doubts the signal, it begins more of them, "
        "and chooses these and its finalists by values at the horizon. Kendall's τ compares the "
        f"early signal at a rung with the final validation {data.measure.name}, over the runs at "
        "the horizon, with its 95 % interval. These are a selection, mostly runs that the signal "
        "ranked first, so τ is a lower bound: over all runs it would likely be higher."
    )


def _audited(arms: list[ArmRungs]) -> str:
    """Say how promoted runs did against the auditors."""
    parts = []
    for arm in arms:
        text = f"{arm.arm} has {counted(arm.auditors, 'auditor')}"
        if arm.won is not None:
            text += f", and promoted runs end better in {percent(arm.won, 0)} of pairs"
        parts.append(text + " (the signal is doubted)" * (arm.trusted is False))
    return "; ".join(parts)


def _note(arms: list[ArmRungs]) -> str:
    """Name the arms with too few recipes at the horizon to judge the early signal."""
    few = [
        f"{arm.whole or 'none'} of {arm.arm}"
        for arm in arms
        if arm.below and not any(rung.signal for rung in arm.below)
    ]
    rule = f"How well the early signal ranks needs {MINIMUM_RANKED} recipes at the horizon"
    return f"{rule}; there are {listed(few)}." if few else ""


def _jobs_panel(data: StudyData, arm: ArmData) -> Panel:
    look = looks(data)[arm.name]
    ended = arm.counted
    last = {run.number for run in arm.runs}
    traces = [
        _joins([trial for trial in ended if trial.continues is not None]),
        _spans(ended, look),
        *(
            _ends(data, [one for one in ended if one.number in last and _fate(one) == fate], fate)
            for fate in (PAUSED, WHOLE, REPEATED, DIVERGED)
        ),
    ]
    horizon = data.protocol.epochs
    rungs = sorted({0, horizon, *(trial.until for trial in ended if trial.until)})
    made = plot(
        traces,
        xaxis=axis("trial", range=[-0.7, len(arm.trials) - 0.3]),
        yaxis=axis("epoch", tickvals=rungs, range=[-0.03 * horizon, 1.06 * horizon]),
    )
    count = {fate: sum(_fate(run) == fate for run in arm.runs) for fate in (PAUSED, REPEATED)}
    alt = (
        f"{arm.name}: epochs by trial. {counted(len(arm.runs), 'run')}, of which {count[PAUSED]} "
        f"are paused and {count[REPEATED]} at the horizon repeat a recipe."
    )
    return Panel(key=f"rungs-{arm.name}", plot=made, height=TALL, alt=alt, heading=arm.name)


def _fate(run: TrialData) -> str:
    if run.diverged:
        return DIVERGED
    if run.state == "PRUNED":
        return PAUSED
    return WHOLE if run.repeats is None else REPEATED


def _spans(trials: tuple[TrialData, ...], look: Look) -> Any:
    """A vertical line for each trial, over the epochs that it trained."""
    x: list[float | None] = []
    y: list[float | None] = []
    for trial in trials:
        x += [trial.number, trial.number, None]
        y += [trial.begun, trial.reached, None]
    return guide(x, y, look.colour, dash="solid", width=2)


def _joins(trials: list[TrialData]) -> Any:
    """A line from each trial that was continued to the one that goes on with its run."""
    x: list[float | None] = []
    y: list[float | None] = []
    for trial in trials:
        x += [trial.continues, trial.number, None]
        y += [trial.begun, trial.begun, None]
    return guide(x, y, "faint", width=1)


def _ends(data: StudyData, trials: list[TrialData], fate: str) -> Any:
    look = looks(data)[trials[0].arm] if trials else looks(data)[data.arms[0].name]
    symbol = {PAUSED: "x-thin", REPEATED: f"{look.symbol}-open", DIVERGED: "triangle-down"}
    colour = light("grey") if fate in (PAUSED, DIVERGED) else look.light
    return dots(
        look,
        [trial.number for trial in trials],
        [trial.reached for trial in trials],
        fate,
        marker={
            "symbol": symbol.get(fate, look.symbol),
            "color": colour,
            "line": {"width": 0 if fate == WHOLE else 2, "color": colour},
        },
        customdata=[_hint(trial, fate) for trial in trials],
        hover="%{customdata}",
    )


def _hint(trial: TrialData, fate: str) -> str:
    text = f"{escape(trial.arm)}, trial {trial.number}: "
    text += f"epochs {trial.begun + 1} to {trial.reached}, {fate}"
    text += ", an auditor" if trial.auditor else ""
    text += "" if trial.continues is None else f", goes on from {trial.continues}"
    return text + ("" if trial.repeats is None else f" of {trial.repeats}")


def _signal_panel(data: StudyData, known: list[tuple[ArmRungs, Rung, RankCorrelation]]) -> Panel:
    heading = "early signal at a rung against the value at the horizon"
    chart = RowChart(
        rows=[
            Row(
                label=f"{arm.arm}, epoch {rung.epoch}  τ {signed(one.tau, sign=True, digits=2)}",
                look=looks(data)[arm.arm],
                points=(),
                centre=one.tau,
                low=one.low,
                high=one.high,
            )
            for arm, rung, one in known
        ],
        axis="Kendall's τ: 1 is the same ranking, 0 is chance",
        reference=0.0,
        reference_label="chance",
        ends=(-1.05, 1.05),
    )
    return row_panel("rungs-signal", chart, heading, heading)


def _table(arms: list[ArmRungs]) -> Table:
    return Table.of(
        {
            "arm": arm.arm,
            "after epoch": f"{rung.epoch}{', the horizon' * (rung is arm.rungs[-1])}",
            "runs that reached it": str(rung.reached),
            "repeats, of all runs": str(arm.repeats),
            "promoted": NONE if rung is arm.rungs[-1] else str(rung.promoted),
            "still paused": NONE if rung is arm.rungs[-1] else str(rung.paused),
            "promoted by trials": ", ".join(map(str, rung.promotions)) or NONE,
            "Kendall's τ": signed(rung.signal.tau, sign=True, digits=2) if rung.signal else NONE,
            "95 % interval": _interval(rung.signal),
        }
        for arm in arms
        for rung in arm.rungs
    )


def _interval(signal: RankCorrelation | None) -> str:
    if signal is None:
        return NONE
    return " to ".join(signed(end, sign=True, digits=2) for end in (signal.low, signal.high))
