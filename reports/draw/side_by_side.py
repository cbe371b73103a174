"""Several studies side by side: their verdicts, how their protocols differ, and their winners."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.caveats.openings import of_several
from reports.compute.budget import amount
from reports.compute.verdict import NO_VERDICT
from reports.draw.drawing import Table
from reports.draw.palette import DISTILLED_LOOKS
from reports.draw.rows import RowChart, difference_row
from reports.draw.shared import roughly_detectable
from reports.draw.tables import recipe_rows
from reports.findings import Findings
from reports.read.data import PLAIN, StudyData
from reports.wording import NONE, counted, listed, scaled
from storage.files.records import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """The content of a page about several studies; `chart` is None without any difference."""

    title: str
    example: str  # what one input is called: image, or example where not all are images
    warnings: tuple[str, ...]
    results: Table
    protocols: Table
    recipes: Table
    chart: RowChart | None


def compare_studies(studies: Sequence[Findings]) -> SideBySide:
    """Compare studies in the order of `studies`."""
    units = {one.data.by_promotion for one in studies}
    example = max((one.data.example for one in studies), key=("image", "example").index)
    return SideBySide(
        title=_title(studies),
        example=example,
        warnings=tuple(_warnings([one.data for one in studies], example)),
        results=Table.of((_result_row(one, example, units) for one in studies), words=2),
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


def _warnings(studies: Sequence[StudyData], example: str) -> list[str]:
    """Sentences about what cannot be compared."""
    warnings = []
    if len({one.settings.dataset for one in studies}) > 1:
        warnings.append(
            f"The studies use different {example}s: compare their differences, not their results"
        )
    metrics = {one.protocol.metric for one in studies}
    if len(metrics) > 1:
        warnings.append(f"The studies' metrics differ: {listed(sorted(metrics))}")
    warnings += [text.removesuffix(".") for text in of_several(studies)]  # the page adds it
    unconfirmed = [one.name for one in studies if not one.finalists]
    if unconfirmed:
        warnings.append(f"Not confirmed yet: {listed(unconfirmed)}")
    return warnings


def _result_row(findings: Findings, example: str, units: set[bool]) -> dict[str, str]:
    """Return a study's row. `units` has whether budgets are trainings' worth, of all studies."""
    data, difference, measure = findings.data, findings.verdict.difference, findings.data.measure
    change = interval = detectable = NONE
    if difference:
        change = measure.change(difference.mean)
        interval = measure.interval(difference.low, difference.high)
        detectable = roughly_detectable(measure, difference)
    costs = data.costs.models if data.costs else {}
    tuned = findings.standing(data.tuned(data.primary_arm))
    return {
        "study": data.name,
        "verdict": findings.verdict.kind,
        "difference": change,
        "95 % interval": interval,
        "shown with 80 % power, about": detectable,
        "teacher": measure.value(data.teacher.value),
        "tuned distilled": _tuned(findings, data.primary_arm),
        "tuned plain": _tuned(findings, PLAIN),
        "seeds": str(data.seeds),
        f"test {example}s": str(data.test_images),
        "trials" if units == {False} else "budget": _budgets(data, units),
        "teacher's parameters": _parameters(costs.get(data.teacher.role)),
        "student's parameters": _parameters(tuned.cost if tuned else None),
    }


def _budgets(data: StudyData, units: set[bool]) -> str:
    each = ", ".join(f"{arm.name} {amount(data, arm)}" for arm in data.arms)
    if units == {False}:
        return each
    unit = "trainings' worth" if data.by_promotion else "trials"
    return f"{each} {unit}"


def _parameters(cost: Cost | None) -> str:
    return scaled(cost.parameters) if cost else NONE


def _tuned(findings: Findings, arm: str | None) -> str:
    standing = findings.standing(findings.data.tuned(arm))
    measure = findings.data.measure
    if standing is None or standing.value is None:
        return NONE
    return measure.with_symbol(measure.spread(standing.value, standing.deviation))


def _protocols(studies: Sequence[StudyData]) -> Table:
    """The fields in which the protocols, or the searches, differ."""
    described = [
        {
            **one.protocol.to_json(),
            "taps": one.protocol.taps or one.taps,
            "sampler": one.settings.sampler or "none: by promotion",
            "pruner": one.settings.pruner or NONE,
            "lag": one.settings.lag,
        }
        for one in studies
    ]
    shown = {field: [_shown(one[field]) for one in described] for field in described[0]}
    rows = [[field, *cells] for field, cells in shown.items() if len(set(cells)) > 1]
    columns = ["protocol", *(one.name for one in studies)]
    return Table(columns=columns, rows=rows, words=len(columns))


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or NONE if isinstance(value, list | tuple) else str(value)


def _recipes(studies: Sequence[Findings]) -> Table:
    """The tuned recipe of each study's first arm that distils, one column per study."""
    winners = [one.data.tuned(one.data.primary_arm) for one in studies]
    tables = [dict(recipe_rows(one.recipe)) if one else {} for one in winners]
    parameters = list(dict.fromkeys(name for table in tables for name in table))
    rows = [[name, *(table.get(name, NONE) for table in tables)] for name in parameters]
    columns = ["tuned recipe", *(one.data.name for one in studies)]
    return Table(columns=columns, rows=rows, words=len(columns))


def _chart(studies: Sequence[Findings]) -> RowChart | None:
    rows = [
        difference_row(
            f"{one.data.name}: {one.verdict.kind}",
            DISTILLED_LOOKS[0],
            one.verdict.difference,
            one.data.measure.scale,
        )
        for one in studies
        if one.verdict.difference
    ]
    units = {one.data.measure.difference(f"test {one.data.measure.name}") for one in studies}
    axis = f"tuned distilled minus tuned plain, {listed(sorted(units))}"
    chart = RowChart(rows=rows, axis=axis, reference=0.0, reference_label="no difference")
    return chart if rows else None
