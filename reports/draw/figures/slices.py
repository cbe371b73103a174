"""The figure of slices: every completed trial's value against each of its parameters."""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from reports.compute.findings import Findings
from reports.draw.drawing import Figure, Panel, Table, axis, dots, log_axis, plot
from reports.draw.shared import arm_legend, completed, looks, value_span
from reports.read.data import ArmData, StudyData, TrialData
from reports.wording import counted, figure, listed

GROUP = "Search"
ORDER = 30

MOST_PANELS = 9
LOW = 230  # px


def draw(findings: Findings) -> Figure:
    """Draw the validation metric against the parameters that matter most, all arms in one panel."""
    data = findings.data
    arms = [arm for arm in data.arms if completed(arm)]
    name = "Slices"
    if not arms:
        note = "No trial has completed yet."
        return Figure(key="slices", name=name, title="No slice yet", note=note)
    parameters = _ordered(arms)[:MOST_PANELS]
    return Figure(
        key="slices",
        name=name,
        title=_title(arms),
        caption="Completed trials over the whole range that was searched; the parameters that "
        "mattered most come first. Where dots are dense the sampler looked longest.",
        panels=[_panel(data, arms, parameter) for parameter in parameters],
        dense=True,
        legend=arm_legend(data, [arm.name for arm in arms]),
        tables=[_table(data, arms)],
    )


def best_tenth(arm: ArmData) -> list[TrialData]:
    """At least one trial: a tenth is rounded up."""
    trials = completed(arm)
    return trials[: math.ceil(len(trials) / 10)]


def _ordered(arms: Sequence[ArmData]) -> list[str]:
    """All parameters by their largest importance in any arm, then those of most trials first."""
    trials = [trial for arm in arms for trial in completed(arm)]
    count = Counter(name for trial in trials for name in trial.parameters)

    def weight(name: str) -> float:
        shares = [arm.importances[name].share for arm in arms if name in arm.importances]
        return max(shares, default=0.0)

    return sorted(count, key=lambda name: (-weight(name), -count[name], name))


def _title(arms: Sequence[ArmData]) -> str:
    """Say where the best trials lie in the parameter that matters most in each arm."""
    parts = []
    for arm in arms:
        if not arm.importances:
            continue
        name, best = next(iter(arm.importances)), best_tenth(arm)
        which = f"best {len(best)} of {counted(len(completed(arm)), f'{arm.name} trial')}"
        parts.append(f"{which}: {name} {_where(best, name)}")
    if not parts:
        whole = counted(sum(len(completed(arm)) for arm in arms), "completed trial")
        return f"{whole} by parameter: too few to say where the best lie"
    return f"Where the best tenth lies: {listed(parts)}"


def _where(trials: Sequence[TrialData], name: str) -> str:
    """The range of a parameter over some trials, or its values."""
    values = [trial.parameters[name] for trial in trials if name in trial.parameters]
    if not values:
        return "–"
    if not all(isinstance(value, int | float) and value not in (True, False) for value in values):
        return " or ".join(sorted({str(value) for value in values}))
    low, high = min(values), max(values)
    return figure(low, 2) if low == high else f"{figure(low, 2)} to {figure(high, 2)}"


def _distribution(arms: Sequence[ArmData], name: str) -> BaseDistribution:
    return next(
        trial.distributions[name]
        for arm in arms
        for trial in completed(arm)
        if name in trial.distributions
    )


def _panel(data: StudyData, arms: Sequence[ArmData], name: str) -> Panel:
    distribution = _distribution(arms, name)
    named = isinstance(distribution, CategoricalDistribution)
    shown: list[Any] = []
    where = []
    for arm in arms:
        trials = [trial for trial in completed(arm) if name in trial.parameters]
        if trials:
            shown.append(_dots(data, arm, trials, name, named=named))
            where.append(f"best tenth of {arm.name}: {_where(best_tenth(arm), name)}")
    scale = axis(data.measure.of("validation"), range=list(value_span(data, arms)))
    made = plot(shown, xaxis=_axis(distribution), yaxis=scale)
    alt = f"Validation {data.measure.name} against {name}; {listed(where)}."
    key = f"slices-{name}"
    return Panel(key=key, plot=made, height=LOW, alt=alt, heading=name)


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


def _dots(
    data: StudyData, arm: ArmData, trials: Sequence[TrialData], name: str, *, named: bool
) -> Any:
    values = [trial.parameters[name] for trial in trials]
    x: Any = [str(value) for value in values] if named else np.asarray(values, dtype=np.float32)
    return dots(
        looks(data)[arm.name],
        [escape(text) for text in x] if named else x,
        np.asarray([data.measure.scale * trial.ranked for trial in trials], dtype=np.float32),
        arm.name,
        size=6,
        marker={"opacity": 0.65},
        customdata=np.asarray([trial.number for trial in trials], dtype=np.int32),
        hovertemplate=f"{escape(arm.name)}, trial %{{customdata}}: %{{y:.2f}} "
        f"{data.measure.symbol} at %{{x}}<extra></extra>",
    )


def _table(data: StudyData, arms: Sequence[ArmData]) -> Table:
    rows = [_table_row(data, arm, name) for arm in arms for name in _ordered([arm])]
    columns = [
        "arm",
        "parameter",
        "searched",
        "best tenth",
        "best trial",
        f"its {data.measure.name}",
    ]
    return Table(columns=columns, rows=rows, words=5)


def _table_row(data: StudyData, arm: ArmData, name: str) -> list[str]:
    best = completed(arm)[:1]
    return [
        arm.name,
        name,
        _range(_distribution([arm], name)),
        _where(best_tenth(arm), name),
        _where(best, name),
        data.measure.value(best[0].value),
    ]


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    low, high = getattr(distribution, "low", 0.0), getattr(distribution, "high", 0.0)
    log = ", log" if getattr(distribution, "log", False) else ""
    return f"{figure(low)} to {figure(high)}{log}"
