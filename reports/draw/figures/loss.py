"""The shares of the terms in the training loss of the tuned recipes."""

import plotly.graph_objects as go

from kd.recipe import Recipe
from kd.training.history import EpochMetrics
from reports.draw.drawing import Figure, Legend, Panel, Table, axis, epoch_axis, plot
from reports.draw.palette import light
from reports.draw.shared import at, chosen_trials, recipe_of
from reports.findings import Findings
from reports.read.data import StudyData, learns_from_teacher
from reports.read.trials import TrialData
from reports.wording import figure, percent

GROUP = "Recipe"
ORDER = 20
NAME = "Terms of the loss"

TERMS = (("hard", "faint"), ("soft", "blue"), ("feature", "green"))


def draw(findings: Findings) -> Figure:
    """Draw the share of each term in the training loss, epoch by epoch."""
    data = findings.data
    trials = [
        trial
        for trial in chosen_trials(data)
        if trial.history and learns_from_teacher(recipe_of(trial))
    ]
    if not trials:
        return Figure(
            title="No distilled trial yet", note="No trial that distils has completed yet."
        )
    return Figure(
        title=_title(data, trials[0]),
        caption="Each term, with its weight, as a share of the loss. The largest term need not "
        "have the largest effect on the weights.",
        panels=[_panel(trial, data.protocol.epochs) for trial in trials],
        legend=[Legend(text=term, colour=colour, mark="area") for term, colour in TERMS],
        tables=[_table(trials, data.protocol.epochs)],
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
    return [loss_shares(recipe_of(trial), epoch, horizon) for epoch in trial.history]


def _title(data: StudyData, trial: TrialData) -> str:
    shares = _shares(trial, data.protocol.epochs)
    first, last = shares[0], shares[-1]
    place = 1 if first[1] or last[1] else 2
    term = TERMS[place][0]
    return (
        f"In the {data.trial_title(trial)}, the {term} term is {percent(first[place], 0)} of the "
        f"loss in epoch 1 and {percent(last[place], 0)} in epoch {trial.history[-1].epoch}"
    )


def _panel(trial: TrialData, horizon: int) -> Panel:
    shares = _shares(trial, horizon)
    traces = [
        go.Bar(
            x=[epoch.epoch for epoch in trial.history],
            y=[100 * share[place] for share in shares],
            name=term,
            marker={"color": light(colour), "line": {"width": 0}},
            hovertemplate=f"{term}, epoch %{{x}}: %{{y:.0f}} %<extra></extra>",
        )
        for place, (term, colour) in enumerate(TERMS)
    ]
    made = plot(
        traces,
        barmode="stack",
        bargap=0.12,
        xaxis=epoch_axis(horizon),
        yaxis=axis("share of the loss, %", range=[0, 100]),
    )
    alt = f"{trial.arm}, last epoch: " + ", ".join(
        f"{term} {percent(share, 0)}" for (term, _), share in zip(TERMS, shares[-1], strict=True)
    )
    heading = f"{trial.arm}, trial {trial.number}"
    return Panel(key=f"loss-{trial.arm}", plot=made, height=260, alt=alt, heading=heading)


def _table(trials: list[TrialData], horizon: int) -> Table:
    return Table.of(
        {
            "arm": trial.arm,
            "epoch": str(epoch.epoch),
            "loss": figure(epoch.loss),
            "hard": figure(epoch.hard_loss),
            "soft": figure(epoch.soft_loss),
            "feature": figure(epoch.feature_loss),
            "share of hard": percent(hard, 0),
            "share of soft": percent(soft, 0),
            "share of feature": percent(feature, 0),
        }
        for trial in trials
        for epoch, (hard, soft, feature) in zip(trial.history, _shares(trial, horizon), strict=True)
    )
