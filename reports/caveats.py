"""Caveats: what a careful reader would hold against a study, as far as the tool can know it."""

import math
from collections.abc import Iterator

from optuna.distributions import FloatDistribution, IntDistribution

from reports.audit import Audit
from reports.data import PLAIN, ArmData, StudyData, TrialData
from reports.statistics import MINIMUM_PAIRS, mean_and_deviation
from reports.verdict import Verdict
from reports.wording import counted, figure, listed, percent, points

EDGE = 0.05  # share of a range, on its own scale, that counts as its edge
FEW_TEST_IMAGES = 2000  # below, the images alone leave more than about half a point open
FEW_VALIDATION_IMAGES = 1000
FEW_SEEDS = 10
MANY_DIVERGED = 0.2
MANY_WRONG = 0.2  # share of an auditor's cuts; one wrong cut alone may be chance


def find_caveats(data: StudyData, verdict: Verdict, audits: tuple[Audit, ...]) -> tuple[str, ...]:
    """Return one or two sentences for each, the gravest first."""
    return (
        *_of_teacher(data),
        *_of_evidence(data, verdict),
        *_of_search(data),
        *_of_pruning(data.settings.pruner, data.protocol.margin, audits),
        *_of_protocol(data),
        *_of_seal(data),
    )


def _of_teacher(data: StudyData) -> Iterator[str]:
    plain = data.tuned(PLAIN)
    teacher = data.teacher_test.get("accuracy")
    if teacher is None or plain is None or not plain.accuracies:
        return
    student, _ = mean_and_deviation(plain.accuracies)
    if teacher <= student:
        yield (
            f"The teacher ({percent(teacher)}) is no better on the test split than the plain "
            f"student ({percent(student)}): there was little to learn from it."
        )


def _of_evidence(data: StudyData, verdict: Verdict) -> Iterator[str]:
    if data.finalists:
        yield (
            "The intervals hold for this split of the data and this set of views: another split "
            "could give another difference."
        )
    if 0 < data.test_images < FEW_TEST_IMAGES:
        yield _few_images(data, verdict)
    if MINIMUM_PAIRS <= data.seeds < FEW_SEEDS:
        yield (
            f"With {data.seeds} seeds the deviation between seeds is itself known only roughly, "
            f"which the interval allows for; {FEW_SEEDS} or more would narrow it."
        )


def _few_images(data: StudyData, verdict: Verdict) -> str:
    text = (
        f"The test split has {counted(data.test_images, 'image')}, one of which is "
        f"{points(1 / data.test_images)} points."
    )
    if verdict.difference is None or verdict.difference.se_image == 0:
        return text
    floor = points(1.96 * verdict.difference.se_image)
    return f"{text} They alone leave ±{floor} points open, whatever the number of seeds."


def _of_search(data: StudyData) -> Iterator[str]:
    validation = data.images.get("validation", 0)
    if 0 < validation < FEW_VALIDATION_IMAGES:
        yield (
            f"The search ranks trials by {counted(validation, 'validation image')}: one image is "
            f"{points(1 / validation)} points, so neighbours in its ranking are not told apart."
        )
    for arm in data.arms:
        yield from _nothing_better(data, arm)
        chosen = _chosen(data, arm)
        if chosen is not None:
            yield from _edges(arm.name, chosen)
        lost = sum(trial.diverged for trial in arm.trials)
        if arm.counted and lost > MANY_DIVERGED * len(arm.counted):
            yield (
                f"{lost} of {len(arm.counted)} trials of {arm.name} diverged: its search space "
                "reaches where training fails."
            )
        failed = arm.count("FAIL")
        if failed:
            yield f"{counted(failed, 'trial')} of {arm.name} failed and counted for nothing."


def _nothing_better(data: StudyData, arm: ArmData) -> Iterator[str]:
    tuned = data.tuned(arm.name)
    for default in data.of_role("default"):
        if tuned and default.key == tuned.key:
            yield (
                f"The search of {arm.name} found nothing better than where it began, "
                f"{default.finalist.title}: both are the same recipe and the same runs."
            )


def _chosen(data: StudyData, arm: ArmData) -> TrialData | None:
    """The trial of the arm's tuned finalist, or its best so far."""
    tuned = data.tuned(arm.name)
    if tuned is None:
        return arm.best
    number = tuned.finalist.trial
    return next((trial for trial in arm.trials if trial.number == number), None)


def _edges(arm: str, trial: TrialData) -> Iterator[str]:
    found = [
        f"{name} = {figure(trial.parameters[name])} (range {figure(low)} to {figure(high)})"
        for name, (low, high) in edge_parameters(trial).items()
    ]
    if found:
        yield (
            f"The best recipe of {arm} lies at the edge of its search space: {listed(found)}. "
            "A wider range could hold a better one."
        )


def edge_parameters(trial: TrialData) -> dict[str, tuple[float, float]]:
    """Return the ranges of parameters within 5 % of an end that could have been wider.

    An end that is a limit of the quantity itself (0, or 1 of a share) is no edge.
    """
    found = {}
    for name, distribution in sorted(trial.distributions.items()):
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        low, high = distribution.low, distribution.high
        if low == high:
            continue
        place = _place(float(trial.parameters[name]), low, high, distribution.log)
        at_low = place <= EDGE and low != 0
        at_high = place >= 1 - EDGE and (low, high) != (0, 1)
        if at_low or at_high:
            found[name] = (float(low), float(high))
    return found


def _place(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _of_pruning(pruner: str, margin: float, audits: tuple[Audit, ...]) -> Iterator[str]:
    """Many wrong cuts, or one of the best auditor that costs more than the margin."""
    for audit in audits:
        many = audit.wrong > 1 and audit.wrong > MANY_WRONG * audit.cut
        if many or (audit.cut and _is_costly(audit.regret, margin)):
            lost = "all" if audit.regret is None else f"{points(audit.regret)} points of the best"
            yield (
                f"Of {counted(len(audit.auditors), 'auditor')} of {audit.arm}, trials exempt from "
                f"pruning, the {pruner} pruner would have cut {audit.cut}, "
                f"{audit.wrong} of them wrongly, and so lost {lost}: it may have cut good recipes "
                "too. --pruner none cuts nothing."
            )


def _is_costly(regret: float | None, margin: float) -> bool:
    """`regret` in shares of 1, None where none would have been kept; `margin` in points."""
    return regret is None or 100 * regret > margin


def _of_protocol(data: StudyData) -> Iterator[str]:
    protocol = data.protocol
    if protocol.confirm_horizon != protocol.epochs:
        yield (
            f"Recipes were searched at {protocol.epochs} epochs and confirmed at "
            f"{protocol.confirm_horizon}: what is best at one need not be at the other."
        )
    if protocol.view_count < max(protocol.epochs, protocol.confirm_horizon):
        yield (
            f"Runs cycle through {counted(protocol.view_count, 'view')} of the training set and "
            f"see each more than once."
        )
    if data.settings.cache == "none":
        yield "Nothing of the teacher was cached: it ran beside every distilled run."


def _of_seal(data: StudyData) -> Iterator[str]:
    confirmed = len(data.confirmations)
    openings = len(data.seal)
    tested = sum(run.test is not None for run in data.confirmations) + bool(data.teacher_test)
    if openings < tested:
        yield (
            f"{counted(tested, 'run')} saw the test split, and its seal records "
            f"{counted(openings, 'opening')}: the record is not whole, and there may have been "
            "others."
        )
    if openings > confirmed + 1 and confirmed:
        yield (
            f"The test split was opened {openings} times, and {confirmed} confirmation runs and "
            "the teacher explain fewer: see the openings of the seal."
        )
