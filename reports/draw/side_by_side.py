"""Several studies side by side: their verdicts, how their protocols differ, and their winners."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.compute.findings import Findings
from reports.compute.verdict import NO_VERDICT
from reports.draw.drawing import Table
from reports.draw.palette import DISTILLED_LOOKS
from reports.draw.rows import Row, RowChart
from reports.draw.tables import recipe_rows
from reports.read.data import PLAIN, StudyData
from reports.statistics import Difference
from reports.wording import NONE, counted, listed, scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """What a page about several studies says; `chart` is None without any difference."""

    title: str
    warnings: tuple[str, ...]
    results: Table
    protocols: Table
    recipes: Table
    chart: RowChart | None


def compare_studies(studies: Sequence[Findings]) -> SideBySide:
    """Put studies next to each other, in the order given."""
    return SideBySide(
        title=_title(studies),
        warnings=tuple(_warnings([one.data for one in studies])),
        results=_results(studies),
        protocols=_protocols([one.data for one in studies]),
        recipes=_recipes(studies),
        chart=_chart(studies),
    )


def _title(studies: Sequence[Findings]) -> str:
    helped = [one.data.name for one in studies if one.verdict.kind == "better"]
    open_ones = sum(one.verdict.kind == NO_VERDICT for one in studies)
    among = counted(len(studies), "study", "studies")
    if open_ones == len(studies):
        return f"No verdict in {open_ones} of {among}"
    if len(helped) == len(studies):
        return f"Distillation helped in all of {among}"
    text = f"Distillation helped in {len(helped) or 'none'} of {among}"
    text += f": {listed(helped)}" if helped else ""
    return f"{text}; no verdict in {open_ones}" if open_ones else text


def _warnings(studies: Sequence[StudyData]) -> list[str]:
    """Say what of the studies cannot be compared."""
    found = []
    if len({one.settings.dataset for one in studies}) > 1:
        found.append(
            "The studies do not share their images: compare differences within each, not results"
        )
    metrics = {one.protocol.metric for one in studies}
    if len(metrics) > 1:
        found.append(f"The studies' metrics differ: {listed(sorted(metrics))}")
    unconfirmed = [one.name for one in studies if not one.finalists]
    if unconfirmed:
        found.append(f"Not confirmed yet: {listed(unconfirmed)}")
    return found


def _results(studies: Sequence[Findings]) -> Table:
    columns = [
        "study",
        "verdict",
        "difference",
        "95 % interval",
        "detectable",
        "teacher",
        "distilled ± deviation",
        "plain ± deviation",
        "seeds",
        "test images",
        "trials",
        "teacher's parameters",
        "student's parameters",
    ]
    return Table(columns=columns, rows=[_result_row(one) for one in studies], words=2)


def _result_row(findings: Findings) -> list[str]:
    data, difference = findings.data, findings.verdict.difference
    measure = data.measure
    found = (
        [
            measure.change(difference.mean),
            measure.interval(difference.low, difference.high),
            measure.number(difference.detectable),
        ]
        if difference
        else [NONE] * 3
    )
    return [
        data.name,
        findings.verdict.kind,
        *found,
        data.measure.value(data.teacher_value),
        _tuned(findings, data.primary_arm),
        _tuned(findings, PLAIN),
        str(data.seeds),
        str(data.test_images),
        ", ".join(f"{arm.name} {len(arm.counted)}" for arm in data.arms),
        *_parameters(findings),
    ]


def _tuned(findings: Findings, arm: str | None) -> str:
    standing = findings.standing(findings.data.tuned(arm))
    measure = findings.data.measure
    if standing is None:
        return NONE
    return f"{measure.spread(standing.value, standing.deviation)} {measure.symbol}".rstrip()


def _parameters(findings: Findings) -> list[str]:
    """Those of the teacher, and of the student of the tuned recipe that distils."""
    costs = findings.data.costs.models if findings.data.costs else {}
    tuned = findings.standing(findings.data.tuned(findings.data.primary_arm))
    student = tuned.cost if tuned else None
    return [scaled(cost.parameters) if cost else NONE for cost in (costs.get("teacher"), student)]


def _protocols(studies: Sequence[StudyData]) -> Table:
    """Return the fields in which the protocols, or the searches, differ."""
    described = [
        {
            **one.protocol.to_json(),
            "sampler": one.settings.sampler,
            "pruner": one.settings.pruner,
            "lag": one.settings.lag,
        }
        for one in studies
    ]
    rows = [
        [field, *(_shown(one[field]) for one in described)]
        for field in described[0]
        if len({_shown(one[field]) for one in described}) > 1
    ]
    columns = ["protocol", *(one.name for one in studies)]
    return Table(columns=columns, rows=rows, words=len(columns))


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _recipes(studies: Sequence[Findings]) -> Table:
    """Return the tuned recipe of each study's first arm that distils, a column a study."""
    winners = [one.data.tuned(one.data.primary_arm) for one in studies]
    tables = [dict(recipe_rows(one.finalist.recipe)) if one else {} for one in winners]
    parameters = list(dict.fromkeys(name for table in tables for name in table))
    rows = [[name, *(table.get(name, NONE) for table in tables)] for name in parameters]
    columns = ["tuned recipe", *(one.data.name for one in studies)]
    return Table(columns=columns, rows=rows, words=len(columns))


def _chart(studies: Sequence[Findings]) -> RowChart | None:
    rows = [
        _row(one, one.verdict.difference) for one in studies if one.verdict.difference is not None
    ]
    if not rows:
        return None
    units = dict.fromkeys(
        one.data.measure.difference(f"test {one.data.measure.name}") for one in studies
    )
    return RowChart(
        rows=rows,
        axis=f"tuned distilled minus tuned plain, {listed(list(units))}",
        reference=0.0,
        reference_label="no difference",
    )


def _row(findings: Findings, difference: Difference) -> Row:
    return Row(
        label=f"{findings.data.name}: {findings.verdict.kind}",
        look=DISTILLED_LOOKS[0],
        points=[findings.data.measure.scale * one for one in difference.per_seed],
        centre=findings.data.measure.scale * difference.mean,
        low=findings.data.measure.scale * difference.low,
        high=findings.data.measure.scale * difference.high,
    )
