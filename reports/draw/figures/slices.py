"""Slices: the value of every completed trial against each of its parameters."""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from reports.draw.drawing import Figure, Legend, Panel, Table, axis, dots, log_axis, plot
from reports.draw.shared import arm_legend, looks, value_span
from reports.findings import Findings
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.wording import capitalised, counted, figure, listed

GROUP = "Search"
ORDER = 30
NAME = "Trials by parameter"

MOST_PANELS = 9
PAUSED = Legend(text="paused", colour="muted", mark="cross")
LOW = 230  # px


def draw(findings: Findings) -> Figure:
    """Draw the validation metric against the parameters that matter most, all arms in one panel."""
    data = findings.data
    arms = [arm for arm in data.arms if arm.completed]
    if not arms:
        return Figure(title="No trial to draw yet", note="No trial has completed yet.")
    parameters = _ordered(arms)[:MOST_PANELS]
    return Figure(
        title=_title(arms, "recipe" if data.by_promotion else "trial"),
        caption=_caption(data),
        panels=[_panel(data, arms, parameter) for parameter in parameters],
        dense=True,
        legend=[*arm_legend(data, [arm.name for arm in arms]), *([PAUSED] * data.by_promotion)],
        tables=[_table(data, arms)],
    )


def _caption(data: StudyData) -> str:
    if data.by_promotion:
        return (
            "Runs at the horizon over the whole range of the search, each recipe with all of its "
            "runs; the most important parameters come first. Crosses at the worse end are paused "
            "runs: where marks are dense, the search tried the most values."
        )
    return (
        "Completed trials over the whole range of the search; the most important parameters come "
        "first. Where dots are dense, the sampler tried the most values."
    )


def best_tenth(arm: ArmData) -> list[TrialData]:
    """The first trials of the best recipes, at least one: a tenth is rounded up."""
    ranking = arm.ranking
    return [recipe.first for recipe in ranking[: math.ceil(len(ranking) / 10)]]


def _ordered(arms: Sequence[ArmData]) -> list[str]:
    """All parameters by their largest importance in any arm, then those of most trials first."""
    trials = [trial for arm in arms for trial in arm.completed]
    count = Counter(name for trial in trials for name in trial.parameters)

    def weight(name: str) -> float:
        shares = [arm.importances[name].share for arm in arms if name in arm.importances]
        return max(shares, default=0.0)

    return sorted(count, key=lambda name: (-weight(name), -count[name], name))


def _title(arms: Sequence[ArmData], what: str) -> str:
    """The values of each arm's most important parameter in its best trials."""
    parts = []
    for arm in arms:
        if not arm.importances:
            continue
        name, best = next(iter(arm.importances)), best_tenth(arm)
        which = f"best {len(best)} of {counted(len(arm.ranking), f'{arm.name} {what}')}"
        parts.append(f"in the {which}, {name} is {_where(best, name)}")
    if not parts:
        whole = counted(sum(len(arm.ranking) for arm in arms), f"completed {what}")
        return f"{whole} by parameter: too few to say where the best lie"
    return capitalised(listed(parts))


def _where(trials: Sequence[TrialData], name: str) -> str:
    """The range of a parameter over some trials, or its values."""
    values = [trial.parameters[name] for trial in trials if name in trial.parameters]
    if not values:
        return "–"
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return " or ".join(sorted({str(value) for value in values}))
    low, high = min(values), max(values)
    return figure(low, 2) if low == high else f"{figure(low, 2)} to {figure(high, 2)}"


def _distribution(arms: Sequence[ArmData], name: str) -> BaseDistribution:
    return next(
        trial.distributions[name]
        for arm in arms
        for trial in arm.completed
        if name in trial.distributions
    )


def _panel(data: StudyData, arms: Sequence[ArmData], name: str) -> Panel:
    distribution = _distribution(arms, name)
    trials = {arm.name: [one for one in arm.completed if name in one.parameters] for arm in arms}
    traces = [_dots(data, arm, drawn, name) for arm, drawn in trials.items() if drawn]
    if data.by_promotion:
        traces = [*(_paused(data, arm, arms, name) for arm in arms), *traces]
    best = [
        f"best tenth of {arm.name}: {_where(best_tenth(arm), name)}"
        for arm in arms
        if trials[arm.name]
    ]
    scale = axis(data.measure.of("validation"), range=list(value_span(data, arms)))
    return Panel(
        key=f"slices-{name}",
        plot=plot(traces, xaxis=_axis(distribution), yaxis=scale),
        height=LOW,
        alt=f"Validation {data.measure.name} against {name}; {listed(best)}.",
        heading=name,
    )


def _axis(distribution: BaseDistribution) -> dict[str, Any]:
    """The whole range that was searched, whether or not a trial has reached its ends."""
    if isinstance(distribution, CategoricalDistribution):
        names = [escape(str(choice)) for choice in distribution.choices]
        return {"type": "category", "categoryorder": "array", "categoryarray": names}
    low, high = getattr(distribution, "low", 0.0), getattr(distribution, "high", 1.0)
    if getattr(distribution, "log", False) and low < high:
        return log_axis("", low, high)
    room = 0.04 * (high - low) or 0.5
    return {"range": [low - room, high + room], "nticks": 6}


def _dots(data: StudyData, arm: str, trials: Sequence[TrialData], name: str) -> Any:
    values = [trial.parameters[name] for trial in trials]
    named = isinstance(trials[0].distributions[name], CategoricalDistribution)
    shown = data.measure.with_symbol("%{y:.2f}")
    return dots(
        looks(data)[arm],
        [escape(str(value)) for value in values] if named else np.asarray(values, np.float32),
        np.asarray([data.measure.scale * trial.ranked for trial in trials], dtype=np.float32),
        arm,
        size=6,
        marker={"opacity": 0.65},
        customdata=np.asarray([trial.number for trial in trials], dtype=np.int32),
        hover=f"{escape(arm)}, trial %{{customdata}}: {shown} at %{{x}}",
    )


def _paused(data: StudyData, arm: ArmData, arms: Sequence[ArmData], name: str) -> Any:
    """The paused runs of an arm, which have no value at the horizon: at the worse end."""
    paused = [run for run in arm.runs if run.state == "PRUNED" and name in run.parameters]
    low, high = value_span(data, arms)
    worse = high if data.measure.lower else low
    room = 0.04 * (high - low)
    return dots(
        looks(data)[arm.name],
        [_place(run, name) for run in paused],
        [worse + (-room if data.measure.lower else room)] * len(paused),
        f"{arm.name}, paused",
        size=5,
        marker={"symbol": "x-thin", "line": {"color": looks(data)[arm.name].light, "width": 1}},
        customdata=[f"{run.number}, paused after epoch {run.reached}" for run in paused],
        hover=f"{escape(arm.name)}, trial %{{customdata}}, at %{{x}}",
    )


def _place(trial: TrialData, name: str) -> Any:
    named = isinstance(trial.distributions[name], CategoricalDistribution)
    return escape(str(trial.parameters[name])) if named else trial.parameters[name]


def _table(data: StudyData, arms: Sequence[ArmData]) -> Table:
    rows = [
        {
            "arm": arm.name,
            "parameter": name,
            "range": _range(_distribution([arm], name)),
            "best tenth": _where(best_tenth(arm), name),
            f"best {'recipe' if data.by_promotion else 'trial'}": _where(best_tenth(arm)[:1], name),
            f"its {data.measure.name}": data.measure.value(arm.best_value),
        }
        for arm in arms
        for name in _ordered([arm])
    ]
    return Table.of(rows, words=5)


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    low, high = getattr(distribution, "low", 0.0), getattr(distribution, "high", 0.0)
    log = ", log" if getattr(distribution, "log", False) else ""
    return f"{figure(low)} to {figure(high)}{log}"
