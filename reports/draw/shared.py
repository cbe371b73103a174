"""What several figures share: looks of arms, rows of dots, and the trials that they draw."""

from collections.abc import Sequence

from kd import schedules
from kd.recipe import Recipe, Schedule
from reports.draw.drawing import Legend, Panel
from reports.draw.palette import Look, arm_looks
from reports.draw.rows import RowChart, rows_plot, rows_svg
from reports.read.data import ArmData, StudyData, TrialData
from reports.wording import figure


def unconfirmed(data: StudyData) -> str:
    """Say why a figure of the confirmation is empty."""
    return f"No finalist has been tested yet; run: {data.command('confirm')}"


def looks(data: StudyData) -> dict[str, Look]:
    return arm_looks([arm.name for arm in data.arms])


def arm_legend(data: StudyData, arms: list[str]) -> list[Legend]:
    return [
        Legend(text=arm, colour=looks(data)[arm].colour, mark=looks(data)[arm].symbol)
        for arm in arms
    ]


def row_panel(key: str, chart: RowChart, title: str, heading: str = "") -> Panel:
    values = "; ".join(
        f"{row.label}: {figure(row.centre)} "
        f"({figure(min(row.low, row.high))} to {figure(max(row.low, row.high))})"
        for row in chart.rows
    )
    alt = f"{title}. {values}."
    return Panel(
        key=key,
        plot=rows_plot(chart),
        height=chart.height,
        alt=alt,
        heading=heading,
        fallback=rows_svg(chart, alt),
    )


def value_span(data: StudyData, arms: Sequence[ArmData]) -> tuple[float, float]:
    """The range of the completed trials (of all if none is) as drawn, wider at its worse end."""
    ended = [
        trial
        for arm in arms
        for trial in arm.counted
        if trial.value is not None and not trial.diverged
    ]
    whole = [trial for trial in ended if trial.state == "COMPLETE"] or ended
    scale, ends = data.measure.scale, (data.measure.worst, data.measure.best)
    values = [scale * value for trial in whole if (value := trial.value) is not None]
    values = values or [scale * end for end in ends]
    room = 0.1 * (max(values) - min(values)) or 1.0
    below, above = (room, 2 * room) if data.measure.lower else (2 * room, room)
    return min(values) - below, max(values) + above


def completed(arm: ArmData) -> list[TrialData]:
    """The trials that were trained to the horizon, the best first."""
    found = [one for one in arm.trials if one.state == "COMPLETE" and not one.diverged]
    return sorted(found, key=lambda one: (-one.ranked, one.number))


def at(schedule: Schedule, progress: float) -> float:
    return schedules.value(
        schedule.shape, schedule.initial, schedule.final, progress, schedule.sharpness
    )


def chosen_trials(data: StudyData) -> list[TrialData]:
    found = [data.chosen_trial(arm) for arm in data.arms]
    return [trial for trial in found if trial is not None and trial.record is not None]


def recipe_of(trial: TrialData) -> Recipe:
    assert trial.record is not None  # of those that chosen_trials returns
    return trial.record.recipe
