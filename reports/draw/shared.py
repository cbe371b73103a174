"""What several figures share: looks of arms, panels of rows and of epochs, and trials to draw."""

from collections.abc import Mapping, Sequence
from html import escape

from kd import schedules
from kd.recipe import Recipe, Schedule
from reports.compute.comparisons import Comparison
from reports.draw.drawing import Legend, Panel, axis, epoch_axis, line, plot
from reports.draw.palette import Look, arm_looks
from reports.draw.rows import Row, RowChart, mean_row, rows_height, rows_plot, rows_svg
from reports.intervals import detectable_range
from reports.read.data import FinalistData, StudyData
from reports.read.trials import ArmData, TrialData
from reports.statistics import Difference
from reports.wording import Measure, figure, listed, p_value


def unconfirmed(data: StudyData) -> str:
    """Say why a figure of the confirmation is empty."""
    return f"No finalist has been tested yet; run: {data.command('confirm')}"


def looks(data: StudyData) -> dict[str, Look]:
    return arm_looks([arm.name for arm in data.arms])


def arm_legend(data: StudyData, arms: Sequence[str]) -> list[Legend]:
    return [
        Legend(text=arm, colour=looks(data)[arm].colour, mark=looks(data)[arm].symbol)
        for arm in arms
    ]


def row_panel(key: str, chart: RowChart, title: str, heading: str = "") -> Panel:
    values = "; ".join(
        f"{row.label}: {figure(row.centre)} ({figure(row.low)} to {figure(row.high)})"
        for row in chart.rows
    )
    alt = f"{title}. {values}."
    return Panel(
        key=key,
        plot=rows_plot(chart),
        height=rows_height(len(chart.rows)),
        alt=alt,
        heading=heading,
        fallback=rows_svg(chart, alt),
    )


def finalist_row(
    data: StudyData, finalist: FinalistData, values: Sequence[float], scale: float, shown: str
) -> Row:
    """A row with a finalist's values by seed, and their mean as it is shown."""
    label = f"{data.named(finalist)}  {shown}"
    return mean_row(label, looks(data)[finalist.arm], values, scale)


def roughly_detectable(measure: Measure, difference: Difference) -> str:
    """1.14 (0.80 to 2.35): what is shown with 80 % power, and its range, without their unit."""
    span = measure.amounts(*detectable_range(difference))
    return f"{measure.number(difference.detectable)} ({span})"


def comparison_cells(measure: Measure, comparison: Comparison, title: str) -> dict[str, str]:
    """The cells of a comparison in a table, whose column of differences has this title."""
    difference = comparison.difference
    return {
        measure.difference(title): measure.number(difference.mean, sign=True),
        "median": measure.number(difference.median, sign=True),
        "95 % interval": measure.interval(difference.low, difference.high),
        "interval, Holm": measure.interval(comparison.corrected.low, comparison.corrected.high),
        "p": p_value(difference.p),
        "p, Holm": p_value(comparison.p_holm),
        measure.in_unit("shown with 80 % power, about"): roughly_detectable(measure, difference),
    }


def epochs_panel(
    data: StudyData,
    key: str,
    curves: Mapping[str, Mapping[int, float | None]],
    heading: str,
    *,
    unit: str = "",
    y: str = "",
    height: int = 260,
) -> Panel:
    """Draw one curve per arm with a value in `unit` per epoch; `y` is the vertical axis."""
    traces = [
        line(
            looks(data)[arm],
            list(curve),
            list(curve.values()),
            arm,
            marked=True,
            hover=f"{escape(arm)}, epoch %{{x}}: %{{y:.2f}} {unit}",
        )
        for arm, curve in curves.items()
    ]
    made = plot(traces, xaxis=epoch_axis(data.protocol.epochs), yaxis=axis(y))
    halfway = data.protocol.epochs // 2 or 1
    values = [
        f"{arm} {figure(curve.get(halfway))} at epoch {halfway}, {figure(curve[max(curve)])} at "
        f"epoch {max(curve)}"
        for arm, curve in curves.items()
    ]
    alt = f"{heading}: {listed(values)}."
    return Panel(key=key, plot=made, height=height, alt=alt, heading=heading)


def importances_note(data: StudyData) -> str:
    """The notes on the arms' importances; what holds for all arms is said once."""
    notes = {arm.name: arm.importances_note for arm in data.arms if arm.importances_note}
    if len(notes) == len(data.arms) > len(set(notes.values())) == 1:
        return next(iter(notes.values()))
    return " ".join(f"{name}: {note}" for name, note in notes.items())


def cut_words(data: StudyData) -> str:
    """What happened to a trial that ended before the horizon, PRUNED in Optuna."""
    return "paused" if data.by_promotion else "pruned"


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
    values = [scale * trial.ranked for trial in whole] or [scale * end for end in ends]
    room = 0.1 * (max(values) - min(values)) or 1.0
    below, above = (room, 2 * room) if data.measure.lower else (2 * room, room)
    return min(values) - below, max(values) + above


def at(schedule: Schedule, progress: float) -> float:
    return schedules.value(
        schedule.shape, schedule.initial, schedule.final, progress, schedule.sharpness
    )


def chosen_trials(data: StudyData) -> list[TrialData]:
    """The trial of each arm's tuned recipe, or the best so far, if its record was read."""
    trials = [data.chosen_trial(arm) for arm in data.arms]
    return [trial for trial in trials if trial is not None and trial.record is not None]


def recipe_of(trial: TrialData) -> Recipe:
    assert trial.record is not None  # of those that chosen_trials returns
    return trial.record.recipe
