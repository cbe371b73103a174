"""What tuning added: the winner of each arm against the recipe that its search began with."""

from dataclasses import dataclass

from reports.compute.verdict import evidence, paired
from reports.read.data import FinalistData, StudyData
from reports.statistics import MINIMUM_PAIRS, Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """An arm's tuned recipe less the first that it tried, in one sentence.

    `difference` is None where the two are one recipe, or share fewer than two seeds.
    """

    tuned: FinalistData
    first: FinalistData
    difference: Difference | None
    text: str


def compare_tuning(data: StudyData) -> tuple[Tuning, ...]:
    """Compare the tuned recipe of each arm with its trial 0."""
    found = []
    for arm in data.arms:
        tuned, first = data.tuned(arm.name), _first(data, arm.name)
        if tuned and first:
            same = tuned.key == first.key
            difference = None if same else paired(tuned, first)
            text = _text(data, tuned, first, difference)
            found.append(Tuning(tuned=tuned, first=first, difference=difference, text=text))
    return tuple(found)


def _first(data: StudyData, arm: str) -> FinalistData | None:
    defaults = [one for one in data.of_role("default") if one.finalist.arm == arm]
    return next((one for one in defaults if one.finalist.trial == 0), None)


def _text(
    data: StudyData, tuned: FinalistData, first: FinalistData, difference: Difference | None
) -> str:
    arm, recipe = first.finalist.arm, f"“{first.finalist.title}”, its first recipe"
    if tuned.key == first.key:
        return f"Tuning {arm} gained nothing: the search found nothing better than {recipe}."
    if difference is None:
        return f"The gain from tuning {arm} over {recipe}, is known once both ran on two seeds."
    unit, shown = f"of test {data.measure.name}", f"({evidence(data, difference)})"
    by, change = data.measure.amount(difference.mean), data.measure.change(difference.mean)
    change = f"{change} {unit} {shown}"
    if difference.seeds < MINIMUM_PAIRS:
        return f"Too few seeds to judge the gain from tuning {arm} over {recipe}: {change}."
    if difference.low > 0 or difference.high < 0:
        rose = data.measure.scale * difference.mean > 0
        verb, onto = ("added", "to") if rose else ("took", "from")
        return f"Tuning {arm} {verb} {by} {unit} {onto} {recipe} {shown}."
    return f"Tuning {arm} made no detectable difference to {recipe}: {change}."
