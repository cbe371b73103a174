"""Figures of the tuned recipes: their schedules, learning curves, and shares of the loss."""

from html import escape
from typing import Any

import plotly.graph_objects as go

from kd import schedules
from kd.recipe import Recipe, Schedule
from kd.training.history import EpochMetrics
from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Legend, Panel, Table, axis, line, plot
from reports.draw.figures.seeds import arm_legend, looks
from reports.draw.palette import light
from reports.read.data import StudyData, TrialData, learns_from_teacher
from reports.wording import figure, listed, percent

LOW = 220  # px
STEPS = 200  # points of a drawn schedule
TERMS = (("hard", "faint"), ("soft", "blue"), ("feature", "green"))


def at(schedule: Schedule, progress: float) -> float:
    return schedules.value(
        schedule.shape, schedule.initial, schedule.final, progress, schedule.sharpness
    )


def _chosen_trials(data: StudyData) -> list[TrialData]:
    found = [data.chosen_trial(arm) for arm in data.arms]
    return [trial for trial in found if trial is not None and trial.record is not None]


def _recipe(trial: TrialData) -> Recipe:
    assert trial.record is not None  # of those that _chosen_trials returns
    return trial.record.recipe


def schedules_figure(findings: Findings) -> Figure:
    """Draw temperature, alpha and learning rate over the horizon, and what came of them."""
    data, trials = findings.data, _chosen_trials(findings.data)
    name = "Schedules of the tuned recipes"
    if not trials:
        note = "No trial has completed yet."
        return Figure(key="schedules", name=name, title="No recipe yet", note=note)
    distilled = [trial for trial in trials if any(_recipe(trial).alpha.ends)]
    panels = []
    if distilled:
        panels += [
            _schedule_panel(data, distilled, "temperature"),
            _schedule_panel(data, distilled, "alpha"),
        ]
    panels += [_schedule_panel(data, trials, "lr"), _validation_panel(data, trials)]
    return Figure(
        key="schedules",
        name=name,
        title=_schedules_title(data, trials),
        caption="The trial that each tuned recipe comes from, or the best so far. The selection "
        "on fresh seeds chose it, so the search may have seen a better one.",
        panels=panels,
        legend=arm_legend(data, [trial.arm for trial in trials]),
        tables=[_epochs_table(trials)],
    )


def _schedules_title(data: StudyData, trials: list[TrialData]) -> str:
    for trial in trials:
        recipe = _recipe(trial)
        if any(recipe.alpha.ends):
            return (
                f"The {data.trial_title(trial)} distils with "
                f"{_way('temperature', recipe.temperature)} and {_way('alpha', recipe.alpha)}"
            )
    return f"No soft targets: {listed([data.trial_title(trial) for trial in trials])}"


def _way(name: str, schedule: Schedule) -> str:
    if schedule.initial == schedule.final:
        return f"{name} {figure(schedule.initial, 2)} throughout"
    ends = f"{figure(schedule.initial, 2)} to {figure(schedule.final, 2)}"
    return f"{name} {ends} ({schedule.shape})"


def _schedule_values(recipe: Recipe, quantity: str, progress: float, warmup: float) -> float:
    if quantity == "lr":
        return recipe.lr * schedules.warmup_cosine(progress, warmup)
    return at(recipe.temperature if quantity == "temperature" else recipe.alpha, progress)


def _schedule_panel(data: StudyData, trials: list[TrialData], quantity: str) -> Panel:
    name = {"lr": "learning rate"}.get(quantity, quantity)
    horizon = data.protocol.epochs
    traces, ends = [], []
    for trial in trials:
        recipe = _recipe(trial)
        shares = [step / STEPS for step in range(STEPS + 1)]
        values = [
            _schedule_values(recipe, quantity, share, data.protocol.warmup) for share in shares
        ]
        hover = f"{escape(trial.arm)}, epoch %{{x:.1f}}: %{{y:.3g}}<extra></extra>"
        traces.append(
            line(
                looks(data)[trial.arm],
                [horizon * share for share in shares],
                values,
                trial.arm,
                hovertemplate=hover,
            )
        )
        ends.append(f"{trial.arm} from {figure(values[0])} to {figure(values[-1])}")
    made = plot(traces, xaxis=axis("epoch", range=[0, horizon]), yaxis={"rangemode": "tozero"})
    alt = f"{name} over {horizon} epochs: {', '.join(ends)}."
    return Panel(key=f"schedules-{quantity}", plot=made, height=LOW, alt=alt, heading=name)


def _validation_panel(data: StudyData, trials: list[TrialData]) -> Panel:
    traces, ends = [], []
    for trial in trials:
        history = trial.history
        hover = f"{escape(trial.arm)}, epoch %{{x}}: %{{y:.2f}} %<extra></extra>"
        trace = line(
            looks(data)[trial.arm],
            [epoch.epoch for epoch in history],
            [100 * epoch.accuracy for epoch in history],
            trial.arm,
            hovertemplate=hover,
        )
        mark = {"symbol": looks(data)[trial.arm].symbol, "size": 7}
        traces.append(trace.update(mode="lines+markers", marker=mark))
        ends.append(f"{trial.arm} ends at {percent(trial.value)}")
    made = plot(traces, xaxis=axis("epoch", range=[0, data.protocol.epochs + 0.4]), yaxis={})
    return Panel(
        key="schedules-accuracy",
        plot=made,
        height=LOW,
        heading="validation accuracy, %",
        alt=f"Validation accuracy by epoch: {', '.join(ends)}.",
    )


def _epochs_table(trials: list[TrialData]) -> Table:
    rows = [
        [
            trial.arm,
            str(epoch.epoch),
            figure(epoch.temperature),
            figure(epoch.alpha),
            figure(epoch.lr),
            percent(epoch.accuracy),
            figure(epoch.nll),
            percent(epoch.ece),
            percent(epoch.agreement),
        ]
        for trial in trials
        for epoch in trial.history
    ]
    columns = [
        "arm",
        "epoch",
        "temperature",
        "alpha",
        "learning rate",
        "validation accuracy",
        "NLL",
        "ECE",
        "agreement with the teacher",
    ]
    return Table(columns=columns, rows=rows)


def loss_figure(findings: Findings) -> Figure:
    """Draw which share of the training loss each term had, epoch by epoch."""
    trials = [one for one in _chosen_trials(findings.data) if learns_from_teacher(_recipe(one))]
    trials = [one for one in trials if one.history]
    name = "What the loss is made of"
    if not trials:
        note = "No trial that distils has completed yet."
        return Figure(key="loss", name=name, title="No distilled trial yet", note=note)
    return Figure(
        key="loss",
        name=name,
        title=_loss_title(findings.data, trials[0]),
        caption="Weighted terms as shares of the loss; a large term need not pull hardest.",
        panels=[_loss_panel(trial, findings.data.protocol.epochs) for trial in trials],
        legend=[Legend(text=term, colour=colour, mark="area") for term, colour in TERMS],
        tables=[_loss_table(trials, findings.data.protocol.epochs)],
    )


def loss_shares(recipe: Recipe, epoch: EpochMetrics, horizon: int) -> tuple[float, float, float]:
    """Shares of the hard, soft and feature term in an epoch's loss; they sum to 1.

    loss = (1 - alpha) hard + alpha soft + feature_weight feature, with the mean alpha of the epoch
    and the mean losses of its steps.
    """
    steps = [(epoch.epoch - 1 + (step + 0.5) / 16) / horizon for step in range(16)]
    alpha = sum(at(recipe.alpha, min(step, 1.0)) for step in steps) / len(steps)
    parts = (
        (1 - alpha) * epoch.hard_loss,
        alpha * epoch.soft_loss,
        recipe.feature_weight * epoch.feature_loss,
    )
    total = sum(parts) or 1.0
    return parts[0] / total, parts[1] / total, parts[2] / total


def _shares(trial: TrialData, horizon: int) -> list[tuple[float, float, float]]:
    return [loss_shares(_recipe(trial), epoch, horizon) for epoch in trial.history]


def _loss_title(data: StudyData, trial: TrialData) -> str:
    shares = _shares(trial, data.protocol.epochs)
    first, last = shares[0], shares[-1]
    place = 1 if first[1] or last[1] else 2
    term = TERMS[place][0]
    return (
        f"In the {data.trial_title(trial)} the {term} term is {percent(first[place], 0)} of the "
        f"loss in the first epoch and {percent(last[place], 0)} in the last"
    )


def _loss_panel(trial: TrialData, horizon: int) -> Panel:
    shares = _shares(trial, horizon)
    epochs = [epoch.epoch for epoch in trial.history]
    traces: list[Any] = []
    for place, (term, colour) in enumerate(TERMS):
        traces.append(
            go.Bar(
                x=epochs,
                y=[100 * share[place] for share in shares],
                name=term,
                marker={"color": light(colour), "line": {"width": 0}},
                hovertemplate=f"{term}, epoch %{{x}}: %{{y:.0f}} %<extra></extra>",
            )
        )
    made = plot(
        traces,
        barmode="stack",
        bargap=0.12,
        xaxis=axis("epoch"),
        yaxis=axis("share of the loss, %", range=[0, 100]),
    )
    last = shares[-1]
    alt = f"{trial.arm}, last epoch: " + ", ".join(
        f"{term} {percent(share, 0)}" for (term, _), share in zip(TERMS, last, strict=True)
    )
    heading = f"{trial.arm}, trial {trial.number}"
    return Panel(key=f"loss-{trial.arm}", plot=made, height=260, alt=alt, heading=heading)


def _loss_table(trials: list[TrialData], horizon: int) -> Table:
    rows = []
    for trial in trials:
        for epoch, shares in zip(trial.history, _shares(trial, horizon), strict=True):
            rows.append(
                [
                    trial.arm,
                    str(epoch.epoch),
                    figure(epoch.loss),
                    figure(epoch.hard_loss),
                    figure(epoch.soft_loss),
                    figure(epoch.feature_loss),
                    *(percent(share, 0) for share in shares),
                ]
            )
    columns = [
        "arm",
        "epoch",
        "loss",
        "hard",
        "soft",
        "feature",
        "share of hard",
        "share of soft",
        "share of feature",
    ]
    return Table(columns=columns, rows=rows)
