"""The ablation ladder: what the winner's recipe loses with each of its parts."""

from dataclasses import dataclass

from reports.compute.verdict import paired
from reports.read.data import FinalistData, StudyData
from reports.statistics import MINIMUM_PAIRS, Difference, holm


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """`difference` is the ablated recipe less the winner; `p_holm` is corrected over the ladder."""

    one: FinalistData
    winner: FinalistData
    difference: Difference
    p_holm: float


def compare_ablations(data: StudyData) -> tuple[Ablation, ...]:
    """Compare each ablation of at least six pairs with its arm's winner; the worst one first."""
    found = []
    for one in data.of_role("ablation"):
        winner = data.tuned(one.finalist.arm)
        difference = paired(one, winner) if winner else None
        if winner and difference and difference.seeds >= MINIMUM_PAIRS:
            found.append((one, winner, difference))
    adjusted = holm([difference.p for *_, difference in found])
    ladder = [
        Ablation(one=one, winner=winner, difference=difference, p_holm=p)
        for (one, winner, difference), p in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(ladder, key=lambda step: step.difference.mean))
