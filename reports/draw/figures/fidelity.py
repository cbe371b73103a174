"""The figure of fidelity: how far the students say what the teacher says."""

from html import escape

from reports.compute.findings import Findings, Standing
from reports.draw.drawing import Figure, Panel, Table, axis, line, plot
from reports.draw.rows import Row, RowChart
from reports.draw.shared import looks, row_panel
from reports.read.data import PLAIN, StudyData, TrialData
from reports.statistics import mean_and_deviation
from reports.wording import decimals, listed, percent, points, spread

GROUP = "Evidence"
ORDER = 60


def draw(findings: Findings) -> Figure:
    """Draw on how many test images each finalist names the teacher's class, seed by seed."""
    standings = [one for one in findings.distinct if one.agreement is not None]
    name = "Fidelity to the teacher"
    if not standings:
        note = "It takes the teacher's and the finalists' logits on the test split."
        return Figure(key="fidelity", name=name, title="No fidelity yet", note=note)
    title = _title(findings)
    chart = RowChart(
        rows=[_row(findings.data, one) for one in standings],
        axis="agreement with the teacher, %",
    )
    return Figure(
        key="fidelity",
        name=name,
        title=title,
        caption="Dots are seeds, bars mean ± one standard deviation. Saying what the teacher says "
        "and being right are different things.",
        panels=[
            row_panel("fidelity", chart, title, "finalists on test images, by seed"),
            *_by_epoch(findings.data),
        ],
        tables=[_table(findings.data, standings)],
    )


def _agreements(standing: Standing) -> list[float]:
    found = [run.agreement for run in standing.one.tested]
    return [value for value in found if value is not None]


def _title(findings: Findings) -> str:
    data = findings.data
    tuned = [findings.standing(data.tuned(arm)) for arm in (data.primary_arm, PLAIN)]
    known = [one for one in tuned if one and one.agreement is not None]
    if not known:
        known = [max(findings.standings, key=lambda one: one.agreement or 0.0)]
    parts = [
        f"{one.one.finalist.role} {one.one.finalist.arm} on {percent(one.agreement, 1)}"
        for one in known
    ]
    return f"Test images on which the student names the teacher's class: {listed(parts)}"


def _row(data: StudyData, standing: Standing) -> Row:
    agreements = _agreements(standing)
    mean, deviation = mean_and_deviation(agreements)
    return Row(
        label=f"{data.named(standing.one)}  {spread(mean, deviation)} %",
        look=looks(data)[standing.one.finalist.arm],
        points=[100 * value for value in agreements],
        centre=100 * mean,
        low=100 * (mean - (deviation or 0.0)),
        high=100 * (mean + (deviation or 0.0)),
    )


def _by_epoch(data: StudyData) -> list[Panel]:
    """Agreement of the tuned recipes' trials on validation images, epoch by epoch."""
    trials = [trial for arm in data.arms if (trial := data.chosen_trial(arm))]
    known = [trial for trial in trials if _curve(trial)]
    if not known:
        return []
    traces, ends = [], []
    for trial in known:
        curve = _curve(trial)
        hover = f"{escape(trial.arm)}, epoch %{{x}}: %{{y:.2f}} %<extra></extra>"
        look = looks(data)[trial.arm]
        trace = line(look, list(curve), list(curve.values()), trial.arm, hovertemplate=hover)
        traces.append(trace.update(mode="lines+markers", marker={"symbol": look.symbol, "size": 7}))
        ends.append(f"{trial.arm} ends at {curve[max(curve)]:.1f} %")
    made = plot(traces, xaxis=axis("epoch"), yaxis=axis("agreement, %"))
    alt = f"Agreement with the teacher on validation images by epoch: {listed(ends)}."
    heading = "trials of the tuned recipes on validation images, by epoch"
    return [Panel(key="fidelity-epochs", plot=made, height=260, alt=alt, heading=heading)]


def _curve(trial: TrialData) -> dict[int, float]:
    return {
        epoch.epoch: 100 * epoch.agreement for epoch in trial.history if epoch.agreement is not None
    }


def _table(data: StudyData, standings: list[Standing]) -> Table:
    rows = []
    for one in standings:
        mean, deviation = mean_and_deviation(_agreements(one))
        rows.append(
            [
                data.named(one.one),
                spread(mean, deviation),
                points(min(_agreements(one))),
                points(max(_agreements(one))),
                decimals(one.teacher_kl),
                data.measure.level(one.value),
            ]
        )
    columns = [
        "finalist",
        "agrees with teacher, %",
        "lowest seed",
        "highest seed",
        "KL to teacher, nats",
        data.measure.of("test"),
    ]
    return Table(columns=columns, rows=rows)
