"""From confirmation runs to a verdict, or to the reason why there is none."""

from dataclasses import dataclass

import numpy as np

from reports.read.data import PLAIN, FinalistData, StudyData, TrialData
from reports.statistics import (
    MINIMUM_PAIRS,
    Difference,
    holm,
    paired_difference,
    verdict_kind,
)
from reports.wording import counted, figure

NO_VERDICT = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Finalist a less finalist b. `p_holm` is None for the primary one, which stands alone."""

    a: FinalistData
    b: FinalistData
    question: str
    difference: Difference
    p_holm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`kind` is better, worse, equivalent, inconclusive or none; `reasons` say why it is none.

    `difference` is there even without a verdict if at least two pairs are; `margin` is in the
    metric's unit.
    """

    kind: str
    text: str
    reasons: tuple[str, ...]
    difference: Difference | None
    a: FinalistData | None
    b: FinalistData | None
    margin: float


def decide(data: StudyData) -> Verdict:
    """Compare the tuned recipe of the first arm that distils with the tuned plain recipe."""
    a, b = data.tuned(data.primary_arm), data.tuned(PLAIN)
    difference = paired(a, b) if a and b else None
    obstacles, shortfalls = _obstacles(data, a, b), _shortfalls(data, a, b)
    reasons = (*obstacles, *shortfalls)
    if reasons or difference is None:
        kind, text = NO_VERDICT, _text_without(data, reasons, difference)
        if not obstacles:
            seeds = str(max(MINIMUM_PAIRS, data.seeds))
            text = f"{text} Run: {data.command('confirm', '--seeds', seeds)}"
    else:
        kind = verdict_kind(difference, data.protocol.margin / abs(data.measure.scale))
        text = _text(data, kind, difference)
    return Verdict(
        kind=kind,
        text=text,
        reasons=reasons,
        difference=difference,
        a=a,
        b=b,
        margin=data.protocol.margin,
    )


def paired(a: FinalistData, b: FinalistData) -> Difference | None:
    """Compare two finalists paired by replicate, which is to say by seed; None below two pairs."""
    left, right = a.scores, b.scores
    common = sorted(set(left) & set(right))
    if len(common) < 2:
        return None
    return paired_difference(
        np.stack([left[replicate] for replicate in common]),
        np.stack([right[replicate] for replicate in common]),
    )


def less_teacher(data: StudyData, one: FinalistData) -> Difference | None:
    """Compare a finalist with the one run of the teacher; None below two seeds."""
    tables = list(one.scores.values())
    if data.teacher_scores is None or len(tables) < 2:
        return None
    scores = np.stack(tables)
    return paired_difference(scores, np.broadcast_to(data.teacher_scores, scores.shape))


def _obstacles(data: StudyData, a: FinalistData | None, b: FinalistData | None) -> tuple[str, ...]:
    """Return every reason against a conclusion that more runs would not remove."""
    arm, plain = data.primary_arm, data.arm(PLAIN)
    if arm is None:
        return ("no arm of this study distils",)
    reasons = []
    if plain is None:
        reasons.append("there is no plain arm, tuned with the same budget, to compare with")
    else:
        reasons += _budget_reasons(data, arm)
    if not data.finalists:
        return (*reasons, "the finalists have not been confirmed on fresh seeds yet")
    if a is None:
        reasons.append(f"no tuned recipe of {arm} was confirmed")
    if b is None and plain is not None:
        reasons.append("no tuned plain recipe was confirmed")
    if a is not None and not a.distils:
        recipe = a.finalist.recipe
        why = "it has no soft loss" if recipe.soft_kind == "none" else "alpha is 0 throughout"
        reasons.append(
            f"the tuned recipe of {arm} does not distil ({why}, and it has no feature loss)"
        )
    for one in (a, b):
        reasons += _lost_runs(one, data.seeds) if one else []
    if a and b and data.student(a) != data.student(b):
        reasons.append(
            f"the tuned recipes train different students, {data.student(a)} and "
            f"{data.student(b)}, so their difference is not due to distillation alone"
        )
    return tuple(reasons)


def _shortfalls(data: StudyData, a: FinalistData | None, b: FinalistData | None) -> tuple[str, ...]:
    """Return every reason against a conclusion that more confirmation runs would remove."""
    reasons = [
        f"confirmation is not finished: {len(one.runs)} of {data.seeds} runs of the tuned "
        f"{one.finalist.arm} recipe have ended"
        for one in (a, b)
        if one and len(one.runs) < data.seeds
    ]
    pairs = len(set(a.scores) & set(b.scores)) if a and b else 0
    if a and b and pairs < MINIMUM_PAIRS:
        rule = f"a verdict requires at least {MINIMUM_PAIRS} pairs of runs on the same seeds"
        reasons.append(f"{rule}, and there {'is' if pairs == 1 else 'are'} {pairs or 'none'}")
    return tuple(reasons)


def _budget_reasons(data: StudyData, name: str) -> list[str]:
    arm, plain = data.arm(name), data.arm(PLAIN)
    if arm is None or plain is None or len(arm.counted) == len(plain.counted):
        return []
    return [
        f"the budgets differ: {counted(len(arm.counted), 'trial')} of {name}, "
        f"{len(plain.counted)} of plain"
    ]


def _lost_runs(one: FinalistData, planned: int) -> list[str]:
    """Return a reason where runs diverged: the mean of the others would be too high."""
    lost = sum(run.record.outcome != "complete" for run in one.runs)
    if lost:
        return [
            f"{lost} of {planned} runs of the tuned {one.finalist.arm} recipe did not finish, "
            "and the mean of the others would be too high"
        ]
    return []


def _text(data: StudyData, kind: str, difference: Difference) -> str:
    lead = {
        "better": f"Distillation helped: {_compared(data, difference)}",
        "worse": f"Distillation hurt: {_compared(data, difference)}",
        "equivalent": "Distillation made no relevant difference, within the margin of "
        f"±{figure(data.protocol.margin)}: {_compared(data, difference)}",
        "inconclusive": f"No detectable difference: {_compared(data, difference)}",
    }[kind]
    detectable = (
        f"the smallest difference that the study detects with 80 % power is "
        f"{data.measure.amount(difference.detectable)}"
    )
    return f"{lead} ({evidence(data, difference)}); {detectable}."


def _compared(data: StudyData, difference: Difference) -> str:
    more = "higher" if data.measure.scale * difference.mean >= 0 else "lower"
    by = data.measure.amount(difference.mean)
    return (
        f"tuned {data.primary_arm} scored {by} of test {data.measure.name} {more} than tuned plain"
    )


def evidence(data: StudyData, difference: Difference) -> str:
    """Return a difference's interval and its numbers of seeds and test images, in words."""
    return (
        f"95 % interval {data.measure.interval(difference.low, difference.high)}, "
        f"{counted(difference.seeds, 'seed')}, {counted(difference.images, 'test image')}"
    )


def _text_without(data: StudyData, reasons: tuple[str, ...], difference: Difference | None) -> str:
    text = f"No verdict: {'; '.join(reasons)}."
    if difference is None:
        return text
    return (
        f"{text} In the runs so far, {_compared(data, difference)} ({evidence(data, difference)})."
    )


def secondary(data: StudyData) -> tuple[Comparison, ...]:
    """Compare the other finalists, with Holm's correction over those of at least six pairs.

    Other tuned arms with tuned plain and with the arm of the verdict (on equal budgets), defaults
    that distil with the plain default, and every tuned recipe with the defaults of its own arm.
    """
    found = []
    for a, b, question in _secondary_pairs(data):
        difference = paired(a, b)
        if difference is not None and difference.seeds >= MINIMUM_PAIRS:
            found.append((a, b, question, difference))
    adjusted = holm([difference.p for *_, difference in found])
    return tuple(
        Comparison(a=a, b=b, question=question, difference=difference, p_holm=p)
        for (a, b, question, difference), p in zip(found, adjusted, strict=True)
    )


def _counted(data: StudyData, one: FinalistData) -> tuple[TrialData, ...]:
    arm = data.arm(one.finalist.arm)
    return arm.counted if arm else ()


def _secondary_pairs(data: StudyData) -> list[tuple[FinalistData, FinalistData, str]]:
    tuned, defaults = data.of_role("tuned"), data.of_role("default")
    plain, primary = data.tuned(PLAIN), data.tuned(data.primary_arm)
    return [
        *(
            (one, plain, "another tuned arm against tuned plain")
            for one in tuned
            if plain and one.distils and one is not primary
            if not _budget_reasons(data, one.finalist.arm)
        ),
        *(
            (primary, one, "two tuned arms that distil")
            for one in tuned
            if primary and primary.distils and one.distils and one is not primary
            if len(_counted(data, one)) == len(_counted(data, primary))
        ),
        *(
            (one, other, "distillation without tuning")
            for one in defaults
            for other in defaults
            if one.distils and not other.distils
        ),
        *(
            (one, other, "the gain from tuning")
            for one in tuned
            for other in defaults
            if one.finalist.arm == other.finalist.arm and one.key != other.key
        ),
    ]
