"""Fidelity: how often the students predict what the teacher predicts."""

from reports.draw.drawing import Figure, Panel, Table
from reports.draw.rows import RowChart
from reports.draw.shared import epochs_panel, finalist_row, row_panel
from reports.findings import Findings, Standing
from reports.read.data import PLAIN, StudyData
from reports.statistics import mean_and_deviation
from reports.wording import decimals, listed, measure, percent, points

GROUP = "Evidence"
ORDER = 60
NAME = "Fidelity to the teacher"


def draw(findings: Findings) -> Figure:
    """Draw the share of test images with the teacher's prediction, seed by seed."""
    data = findings.data
    standings = [standing for standing in findings.distinct if standing.agreement is not None]
    if not standings:
        note = "Needs the predictions of the teacher and the finalists on the test split."
        return Figure(title="No fidelity yet", note=note)
    title, examples = _title(findings, standings), f"{data.example}s"
    seeds = [(standing.finalist, _agreements(standing)) for standing in standings]
    rows = [finalist_row(data, one, shares, 100, f"{_spread(shares)} %") for one, shares in seeds]
    chart = RowChart(rows=rows, axis="agreement with the teacher, %")
    return Figure(
        title=title,
        caption=f"Agreement is the share of {examples} for which student and teacher predict the "
        "same class, right or wrong. Each dot is one seed; the bar is the mean ± one standard "
        "deviation.",
        panels=[
            row_panel("fidelity", chart, title, f"finalists on test {examples}, by seed"),
            *_by_epoch(data),
        ],
        tables=[Table.of(_table_row(data, standing) for standing in standings)],
    )


def _agreements(standing: Standing) -> list[float]:
    return [run.agreement for run in standing.finalist.tested if run.agreement is not None]


def _title(findings: Findings, standings: list[Standing]) -> str:
    data = findings.data
    tuned = [findings.standing(data.tuned(arm)) for arm in (data.primary_arm, PLAIN)]
    known = [standing for standing in tuned if standing and standing.agreement is not None]
    known = known or [max(standings, key=lambda standing: standing.agreement or 0.0)]
    shares = [
        f"{percent(standing.agreement, 1)} for {standing.finalist.label}" for standing in known
    ]
    return f"Test {data.example}s on which student and teacher agree: {listed(shares)}"


def _spread(agreements: list[float]) -> str:
    return measure("accuracy").spread(*mean_and_deviation(agreements))


def _by_epoch(data: StudyData) -> list[Panel]:
    """The trials of the tuned recipes on the validation split."""
    curves: dict[str, dict[int, float | None]] = {}
    for arm in data.arms:
        trial = data.chosen_trial(arm)
        for epoch in trial.history if trial else ():
            if epoch.agreement is not None:
                curves.setdefault(arm.name, {})[epoch.epoch] = 100 * epoch.agreement
    heading = f"trials of the tuned recipes on validation {data.example}s, by epoch"
    panel = epochs_panel(data, "fidelity-epochs", curves, heading, unit="%", y="agreement, %")
    return [panel] if curves else []


def _table_row(data: StudyData, standing: Standing) -> dict[str, str]:
    agreements = _agreements(standing)
    return {
        "finalist": data.named(standing.finalist),
        "agreement with the teacher, %": _spread(agreements),
        "lowest seed": points(min(agreements)),
        "highest seed": points(max(agreements)),
        "KL to the teacher, nats": decimals(standing.teacher_kl),
        data.measure.of("test"): data.measure.level(standing.value),
    }
