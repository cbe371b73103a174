"""The schedules of the tuned recipes, and their validation scores by epoch."""

from html import escape

from kd import schedules
from kd.recipe import Recipe, Schedule
from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Panel, Table, axis, line, plot
from reports.draw.shared import arm_legend, at, chosen_trials, looks, recipe_of
from reports.read.data import StudyData, TrialData
from reports.wording import figure, listed, percent

GROUP = "Recipe"
ORDER = 10

LOW = 220  # px
STEPS = 200  # points of a drawn schedule


def draw(findings: Findings) -> Figure:
    """Draw temperature, alpha and learning rate over the horizon, and what came of them."""
    data, trials = findings.data, chosen_trials(findings.data)
    name = "Schedules of the tuned recipes"
    if not trials:
        note = "No trial has completed yet."
        return Figure(key="schedules", name=name, title="No recipe yet", note=note)
    distilled = [trial for trial in trials if any(recipe_of(trial).alpha.ends)]
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
        tables=[_epochs_table(data, trials)],
    )


def _schedules_title(data: StudyData, trials: list[TrialData]) -> str:
    for trial in trials:
        recipe = recipe_of(trial)
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
        recipe = recipe_of(trial)
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
        hover = (
            f"{escape(trial.arm)}, epoch %{{x}}: %{{y:.2f}} {data.measure.symbol}<extra></extra>"
        )
        trace = line(
            looks(data)[trial.arm],
            [epoch.epoch for epoch in history],
            [data.measure.scale * epoch.objective for epoch in history],
            trial.arm,
            hovertemplate=f"{hover}<extra></extra>",
        )
        mark = {"symbol": looks(data)[trial.arm].symbol, "size": 7}
        traces.append(trace.update(mode="lines+markers", marker=mark))
        ends.append(f"{trial.arm} ends at {data.measure.value(trial.value)}")
    made = plot(traces, xaxis=axis("epoch", range=[0, data.protocol.epochs + 0.4]), yaxis={})
    return Panel(
        key="schedules-validation",
        plot=made,
        height=LOW,
        heading=data.measure.of("validation"),
        alt=f"Validation {data.measure.name} by epoch: {', '.join(ends)}.",
    )


def _epochs_table(data: StudyData, trials: list[TrialData]) -> Table:
    rows = [
        [
            trial.arm,
            str(epoch.epoch),
            figure(epoch.temperature),
            figure(epoch.alpha),
            figure(epoch.lr),
            data.measure.value(epoch.objective),
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
        f"validation {data.measure.name}",
        "NLL",
        "ECE",
        "agreement with the teacher",
    ]
    return Table(columns=columns, rows=rows)
