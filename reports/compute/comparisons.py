"""Paired comparisons of finalists: the primary one, the secondary ones, and the ablations."""

from dataclasses import dataclass

import numpy as np

from reports.intervals import holm_difference
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import MINIMUM_PAIRS, Difference, holm, paired_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Finalist a minus finalist b; `p_holm` is None for the comparison of the verdict."""

    a: FinalistData
    b: FinalistData
    question: str
    difference: Difference
    p_holm: float | None

    @property
    def corrected(self) -> Difference:
        """The difference, with the interval that agrees with `p_holm`."""
        return holm_difference(self.difference, self.p_holm)

    @property
    def label(self) -> str:
        return f"{self.a.label} minus {self.b.label}"


Pair = tuple[FinalistData, FinalistData, str]  # a, b and the question that they answer


def paired(a: FinalistData, b: FinalistData) -> Difference | None:
    """Compare two finalists on the seeds that both were tested on; None below two of them."""
    common = sorted(set(a.scores) & set(b.scores))
    if len(common) < 2:
        return None
    tables = [np.stack([one.scores[replicate] for replicate in common]) for one in (a, b)]
    return paired_difference(*tables)


def minus_teacher(data: StudyData, finalist: FinalistData) -> Difference | None:
    """Compare a finalist with the one run of the teacher; None below two seeds."""
    tables, teacher = list(finalist.scores.values()), data.teacher.scores
    if teacher is None or len(tables) < 2:
        return None
    scores = np.stack(tables)
    return paired_difference(scores, np.broadcast_to(teacher, scores.shape))


def compare_others(data: StudyData) -> tuple[Comparison, ...]:
    """Compare the other finalists, with Holm's correction over those of at least six pairs.

    Other tuned arms with tuned plain and with the arm of the verdict (on equal budgets), defaults
    that distil with the plain default, and every tuned recipe with the defaults of its own arm.
    """
    return _compare(_pairs(data))


def compare_ablations(data: StudyData) -> tuple[Comparison, ...]:
    """Compare each ablation of at least six pairs with its arm's winner; the worst one first."""
    pairs = [
        (ablation, winner, "what a part of the winner is worth")
        for ablation in data.of_role("ablation")
        if (winner := data.tuned(ablation.arm))
    ]
    return tuple(sorted(_compare(pairs), key=lambda one: one.difference.mean))


def _compare(pairs: list[Pair]) -> tuple[Comparison, ...]:
    enough = [
        (a, b, question, difference)
        for a, b, question in pairs
        if (difference := paired(a, b)) and difference.seeds >= MINIMUM_PAIRS
    ]
    adjusted = holm([difference.p for *_, difference in enough])
    return tuple(
        Comparison(a=a, b=b, question=question, difference=difference, p_holm=p)
        for (a, b, question, difference), p in zip(enough, adjusted, strict=True)
    )


def _pairs(data: StudyData) -> list[Pair]:
    tuned, defaults = data.of_role("tuned"), data.of_role("default")
    primary, plain = data.tuned(data.primary_arm), data.tuned(PLAIN)
    others = [finalist for finalist in tuned if finalist.distils and finalist is not primary]

    return [
        *(
            (a, plain, "another tuned arm against tuned plain")
            for a in others
            if plain and _same_budget(data, a, plain)
        ),
        *(
            (primary, b, "two tuned arms that distil")
            for b in others
            if primary and primary.distils and _same_budget(data, b, primary)
        ),
        *(
            (a, b, "distillation without tuning")
            for a in defaults
            for b in defaults
            if a.distils and not b.distils
        ),
        *(
            (a, b, "the gain from tuning")
            for a in tuned
            for b in defaults
            if a.arm == b.arm and a.key != b.key
        ),
    ]


def _same_budget(data: StudyData, a: FinalistData, b: FinalistData) -> bool:
    one, other = data.arm(a.arm), data.arm(b.arm)
    return one is not None and other is not None and data.same_budget(one, other)
