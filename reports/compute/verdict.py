"""From confirmation runs to a verdict, or to the reason why there is none."""

from dataclasses import dataclass

from reports.compute.budget import amount, budget
from reports.compute.comparisons import paired
from reports.intervals import detectable_range
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import MINIMUM_PAIRS, Difference, verdict_kind
from reports.wording import counted, figure

NO_VERDICT = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`kind` is better, worse, equivalent, inconclusive or none; `reasons` say why it is none.

    `difference` is tuned recipe `a` minus tuned plain recipe `b`. It needs two pairs of runs, and
    can be there without a verdict.
    """

    kind: str
    text: str
    reasons: tuple[str, ...]
    difference: Difference | None
    a: FinalistData | None
    b: FinalistData | None


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
    return Verdict(kind=kind, text=text, reasons=reasons, difference=difference, a=a, b=b)


def _obstacles(data: StudyData, a: FinalistData | None, b: FinalistData | None) -> tuple[str, ...]:
    """Return every reason against a conclusion that more runs would not remove."""
    name = data.primary_arm
    if name is None:
        return ("no arm of this study distils",)
    reasons = []
    arm, plain = data.arm(name), data.arm(PLAIN)
    if plain is None:
        reasons.append("there is no plain arm, tuned with the same budget, to compare with")
    elif arm and not data.same_budget(arm, plain):
        reasons.append(
            f"the budgets differ: {budget(data, arm)} of {name}, {amount(data, plain)} of plain"
        )
    if not data.finalists:
        return (*reasons, "the finalists have not been confirmed on fresh seeds yet")
    if a is None:
        reasons.append(f"no tuned recipe of {name} was confirmed")
    if b is None and plain is not None:
        reasons.append("no tuned plain recipe was confirmed")
    if a is not None and not a.distils:
        why = "it has no soft loss" if a.recipe.soft_kind == "none" else "alpha is 0 throughout"
        reasons.append(
            f"the tuned recipe of {name} does not distil ({why}, and it has no feature loss)"
        )
    for finalist in filter(None, (a, b)):
        lost = sum(run.record.outcome != "complete" for run in finalist.runs)
        if lost:
            reasons.append(
                f"{lost} of {data.seeds} runs of the tuned {finalist.arm} recipe did not finish, "
                "and the mean of the others would be too good"
            )
    if a and b and data.student(a.recipe) != data.student(b.recipe):
        reasons.append(
            f"the tuned recipes train different students, {data.student(a.recipe)} and "
            f"{data.student(b.recipe)}, so their difference is not due to distillation alone"
        )
    return tuple(reasons)


def _shortfalls(data: StudyData, a: FinalistData | None, b: FinalistData | None) -> tuple[str, ...]:
    """Return every reason against a conclusion that more confirmation runs would remove."""
    reasons = [
        f"confirmation is not finished: {len(finalist.runs)} of {data.seeds} runs of the tuned "
        f"{finalist.arm} recipe have ended"
        for finalist in (a, b)
        if finalist and len(finalist.runs) < data.seeds
    ]
    pairs = len(set(a.scores) & set(b.scores)) if a and b else 0
    if a and b and pairs < MINIMUM_PAIRS:
        rule = f"a verdict requires at least {MINIMUM_PAIRS} pairs of runs on the same seeds"
        reasons.append(f"{rule}, and there {'is' if pairs == 1 else 'are'} {pairs or 'none'}")
    return tuple(reasons)


def _text(data: StudyData, kind: str, difference: Difference) -> str:
    lead = {
        "better": "Distillation helped",
        "worse": "Distillation hurt",
        "equivalent": "Distillation made no relevant difference, within the margin of "
        f"±{figure(data.protocol.margin)}",
        "inconclusive": "No detectable difference",
    }[kind]
    span = detectable_range(difference)
    return (
        f"{lead}: {_compared(data, difference)} ({evidence(data, difference)}); with 80 % "
        "power such a study shows a difference of about "
        f"{data.measure.amount(difference.detectable)} ({data.measure.amounts(*span)}, as far as "
        f"{counted(difference.seeds, 'seed')} tell)."
    )


def _compared(data: StudyData, difference: Difference) -> str:
    """Return a sentence about the difference of the tuned recipes, without its interval."""
    measure = data.measure
    more = "higher" if measure.scale * difference.mean >= 0 else "lower"
    if measure.lower:
        more += " (better)" if difference.mean >= 0 else " (worse)"
    by = f"{measure.amount(difference.mean)} {more}"
    return f"tuned {data.primary_arm} scored {by} in test {measure.name} than tuned plain"


def evidence(data: StudyData, difference: Difference) -> str:
    """Return a difference's interval and its numbers of seeds and test images, in words."""
    return (
        f"95 % interval {data.measure.interval(difference.low, difference.high)}, "
        f"{counted(difference.seeds, 'seed')}, "
        f"{counted(difference.images, f'test {data.example}')}"
    )


def _text_without(data: StudyData, reasons: tuple[str, ...], difference: Difference | None) -> str:
    text = f"No verdict: {'; '.join(reasons)}."
    if difference:
        found = f"{_compared(data, difference)} ({evidence(data, difference)})"
        text = f"{text} In the runs so far, {found}."
    return text
