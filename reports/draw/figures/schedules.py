"""The schedules of the tuned recipes, and their validation scores by epoch."""

from collections.abc import Callable
from html import escape

from kd import schedules
from kd.recipe import Recipe, Schedule
from reports.draw.drawing import Figure, Panel, Table, epoch_axis, line, plot
from reports.draw.shared import arm_legend, at, chosen_trials, epochs_panel, looks, recipe_of
from reports.findings import Findings
from reports.read.data import StudyData
from reports.read.trials import TrialData
from reports.wording import figure, listed, percent

GROUP = "Recipe"
ORDER = 10
NAME = "Schedules of the tuned recipes"

LOW = 220  # px
STEPS = 200  # points of a drawn schedule


def draw(findings: Findings) -> Figure:
    """Draw temperature, alpha and learning rate over the horizon, the scores, the early NLL."""
    data, trials = findings.data, chosen_trials(findings.data)
    if not trials:
        return Figure(title="No recipe yet", note="No trial has completed yet.")
    distilled = [trial for trial in trials if any(recipe_of(trial).alpha.ends)]
    panels = [
        _schedule_panel(
            data, distilled, "temperature", lambda recipe, p: at(recipe.temperature, p)
        ),
        _schedule_panel(data, distilled, "alpha", lambda recipe, p: at(recipe.alpha, p)),
    ]
    warmup, measure = data.protocol.warmup, data.measure
    scores = {
        trial.arm: {epoch.epoch: measure.scale * epoch.objective for epoch in trial.history}
        for trial in trials
    }
    return Figure(
        title=_title(data, trials),
        caption=_caption(data),
        panels=[
            *(panels if distilled else []),
            _schedule_panel(
                data,
                trials,
                "learning rate",
                lambda recipe, p: recipe.lr * schedules.warmup_cosine(p, warmup),
            ),
            epochs_panel(
                data,
                "schedules-validation",
                scores,
                measure.of("validation"),
                unit=measure.symbol,
                height=LOW,
            ),
            epochs_panel(
                data,
                "schedules-early",
                {
                    one.arm: {epoch.epoch: epoch.early_nll for epoch in one.history}
                    for one in trials
                },
                "early NLL: logits calibrated, statistics of the batch",
                unit="nats",
                height=LOW,
            ),
        ],
        legend=arm_legend(data, [trial.arm for trial in trials]),
        tables=[_table(data, trials)],
    )


def _caption(data: StudyData) -> str:
    """Say how the tuned recipes were chosen."""
    if data.by_promotion:
        return (
            "A trial of each tuned recipe, or of the recipe with the best mean so far. The "
            "selection on fresh seeds chose it among the recipes with the highest posterior mean "
            "of the search's model, which weighs all runs: another trial may have scored better "
            "in the search, and this one may be paused."
        )
    return (
        "The trial of each tuned recipe, or the best trial so far. The selection on fresh seeds "
        "chose it, so another trial may have scored better in the search."
    )


def _title(data: StudyData, trials: list[TrialData]) -> str:
    for trial in trials:
        recipe = recipe_of(trial)
        if any(recipe.alpha.ends):
            return (
                f"The {data.trial_title(trial)} distils with "
                f"{_course('temperature', recipe.temperature)} and {_course('alpha', recipe.alpha)}"
            )
    return f"No soft targets: {listed([data.trial_title(trial) for trial in trials])}"


def _course(name: str, schedule: Schedule) -> str:
    if schedule.initial == schedule.final:
        return f"{name} {figure(schedule.initial, 2)} throughout"
    ends = f"{figure(schedule.initial, 2)} to {figure(schedule.final, 2)}"
    return f"{name} {ends} ({schedule.shape})"


def _schedule_panel(
    data: StudyData, trials: list[TrialData], quantity: str, value: Callable[[Recipe, float], float]
) -> Panel:
    """Draw a quantity over the epochs; `value` computes it from a recipe and the progress, 0-1."""
    horizon = data.protocol.epochs
    shares = [step / STEPS for step in range(STEPS + 1)]
    curves = {trial.arm: [value(recipe_of(trial), share) for share in shares] for trial in trials}
    traces = [
        line(
            looks(data)[arm],
            [horizon * share for share in shares],
            values,
            arm,
            hover=f"{escape(arm)}, epoch %{{x:.1f}}: %{{y:.3g}}",
        )
        for arm, values in curves.items()
    ]
    ends = [
        f"{arm} from {figure(values[0])} to {figure(values[-1])}" for arm, values in curves.items()
    ]
    xaxis = epoch_axis(horizon, range=[0, horizon])
    return Panel(
        key=f"schedules-{quantity.replace(' ', '-')}",
        plot=plot(traces, xaxis=xaxis, yaxis={"rangemode": "tozero"}),
        height=LOW,
        alt=f"{quantity} over {horizon} epochs: {', '.join(ends)}.",
        heading=quantity,
    )


def _table(data: StudyData, trials: list[TrialData]) -> Table:
    return Table.of(
        {
            "arm": trial.arm,
            "epoch": str(epoch.epoch),
            "temperature": figure(epoch.temperature),
            "alpha": figure(epoch.alpha),
            "learning rate": figure(epoch.lr),
            f"validation {data.measure.name}": data.measure.value(epoch.objective),
            "NLL": figure(epoch.nll),
            "early NLL": figure(epoch.early_nll),
            "ECE": percent(epoch.ece),
            "agreement with the teacher": percent(epoch.agreement),
        }
        for trial in trials
        for epoch in trial.history
    )
