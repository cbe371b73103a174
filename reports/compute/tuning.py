"""What tuning added: the winner of each arm against the recipe that its search began with."""

from dataclasses import dataclass

from reports.compute.comparisons import paired
from reports.compute.verdict import evidence
from reports.read.data import FinalistData, StudyData
from reports.statistics import MINIMUM_PAIRS, Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """An arm's tuned recipe minus the first that it tried, and a sentence about the difference.

    `difference` is None if the two are one recipe, or share fewer than two seeds.
    """

    tuned: FinalistData
    first: FinalistData
    difference: Difference | None
    text: str


def compare_tuning(data: StudyData) -> tuple[Tuning, ...]:
    """Compare the tuned recipe of each arm with its trial 0."""
    compared = []
    for arm in data.arms:
        tuned, first = data.tuned(arm.name), _first(data, arm.name)
        if tuned and first:
            same = tuned.key == first.key
            difference = None if same else paired(tuned, first)
            text = _text(data, tuned, first, difference)
            compared.append(Tuning(tuned=tuned, first=first, difference=difference, text=text))
    return tuple(compared)


def _first(data: StudyData, arm: str) -> FinalistData | None:
    """The finalist of the arm's trial 0."""
    defaults = (one for one in data.of_role("default") if one.arm == arm)
    return next((one for one in defaults if one.finalist.trial == 0), None)


def _text(
    data: StudyData, tuned: FinalistData, first: FinalistData, difference: Difference | None
) -> str:
    arm, recipe = first.arm, f"its first recipe, “{first.title}”"
    if tuned.key == first.key:
        return f"Tuning {arm} gained nothing: the search found nothing better than {recipe}."
    if difference is None:
        return f"Two seeds are needed to measure what tuning {arm} added to {recipe}."
    measure, shown = data.measure, f"({evidence(data, difference)})"
    by = f"{measure.amount(difference.mean)} in test {measure.name}"
    change = f"{measure.change(difference.mean)} in test {measure.name} {shown}"
    if difference.seeds < MINIMUM_PAIRS:
        return f"There are too few seeds to judge what tuning {arm} added to {recipe}: {change}."
    if difference.low > 0 or difference.high < 0:
        verb = "improved on" if difference.mean > 0 else "fell behind"
        return f"Tuning {arm} {verb} {recipe}, by {by} {shown}."
    return f"Tuning {arm} made no detectable difference to {recipe}: {change}."
