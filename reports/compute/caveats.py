"""The limitations of a study that Retort can detect, one sentence each."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from kd.training.history import FEW_OF_A_CLASS
from kd.training.scoring import objective
from reports.compute.audit import Audit
from reports.compute.budget import amount
from reports.compute.classes import class_name
from reports.compute.edges import of_edges
from reports.compute.leaks import of_weights
from reports.compute.rungs import ArmRungs, of_signal
from reports.compute.verdict import Verdict
from reports.read.data import PLAIN, StudyData
from reports.read.learnt import STARTUP_RUNS
from reports.read.trials import ArmData
from reports.statistics import MINIMUM_PAIRS, mean_and_deviation
from reports.wording import Measure, counted, duration, listed, percent, points, trainings

FEW_TEST_IMAGES = 2000  # below, the images alone leave more than about half a point open
FEW_VALIDATION_IMAGES = 1000
FEW_SEEDS = 10
STARTUP_TRIALS = 10  # of a sampler, before it learns from any (`conductor/search/methods.py`)
REPEAT_AFTER = 4  # recipes at the horizon before any is repeated (`conductor/search/promotion`)
MANY_DIVERGED = 0.2
MANY_WRONG = 0.2  # share of an auditor's cuts; one wrong cut alone may be chance


def find_caveats(
    data: StudyData, verdict: Verdict, audits: tuple[Audit, ...], rungs: tuple[ArmRungs, ...]
) -> tuple[str, ...]:
    """Return one or two sentences for each limitation, the most serious first."""
    return (
        *_of_learning(data),
        *_of_teacher(data),
        *of_weights(data),
        *_of_tuning(data),
        *_of_evidence(data, verdict),
        *_of_classes(data),
        *_of_search(data),
        *of_edges(data),
        *_of_warm_start(data),
        *of_pruning(data.settings.pruner, data.protocol.margin, audits, data.measure),
        *of_signal(rungs),
        *_of_protocol(data),
        *_of_seal(data),
    )


def _of_learning(data: StudyData) -> Iterator[str]:
    """Compare teacher and winners with one prediction for all images: the class frequencies."""
    if data.labels is None:
        return
    counts = np.bincount(data.labels)
    constant = np.log(np.maximum(counts, 1e-9)).astype(np.float32)
    predicted = np.tile(constant, (len(data.labels), 1))
    baseline = objective(data.protocol.metric, predicted, data.labels)
    scored = [
        (f"the {data.named_teacher(one)}", one.value, data.teacher_interval(one))
        for one in data.teachers
    ]
    scored += [
        (one.label, mean_and_deviation(one.values)[0], data.interval(one))
        for one in data.of_role("tuned")
        if one.values
    ]
    poor = [
        f"{name} ({data.measure.value(value)})"
        for name, value, interval in scored
        if interval and interval[0] <= baseline
    ]
    if poor:
        largest = class_name(data, int(counts.argmax()))
        yield (
            f"Predicting the largest class ({largest}) for every test {data.example}, with the "
            f"shares of the classes as probabilities, gives {data.measure.value(baseline)}: "
            f"{listed(poor)} {'is' if len(poor) == 1 else 'are'} not significantly better."
        )


def _of_tuning(data: StudyData) -> Iterator[str]:
    """Find searches that were confirmed before they ended, or before the sampler could learn."""
    if not data.finalists:
        return
    timeout = data.settings.timeout
    requested = data.settings.planned or _requested(data.settings.command)
    short = [one for one in data.arms if data.spent(one) < requested * data.unit]
    if short:
        whole = trainings(requested) if data.by_promotion else counted(requested, "trial")
        ended = [f"{amount(data, one)} of {whole} of {one.name}" for one in short]
        why = f"ended by time, after {duration(timeout)}" if timeout else "is not finished"
        yield f"The search {why}: {listed(ended)}."
    yield from _few_promoted(data) if data.by_promotion else _few_sampled(data)


def _few_promoted(data: StudyData) -> Iterator[str]:
    """Find arms whose proposals were not learnt, or whose best recipes had one run alone."""
    few = [
        f"{one.name} has {counted(len(one.runs), 'run')} and "
        f"{counted(len(one.ranking), 'recipe')} at the horizon"
        for one in data.arms
        if len(one.runs) < STARTUP_RUNS or len(one.ranking) < REPEAT_AFTER
    ]
    if few:
        yield (
            f"Little tuning: {'; '.join(few)}. The first {STARTUP_RUNS} runs have recipes that are "
            f"preset or drawn at random, and only from {REPEAT_AFTER} recipes at the horizon on "
            "are the best repeated on further seeds."
        )


def _few_sampled(data: StudyData) -> Iterator[str]:
    few = [one for one in data.arms if len(one.counted) < STARTUP_TRIALS]
    if few:
        searched = [f"{one.name} has {counted(len(one.counted), 'trial')}" for one in few]
        yield (
            f"Little tuning: {listed(searched)}. A sampler begins to learn after "
            f"{STARTUP_TRIALS} trials; before, recipes are preset or drawn at random."
        )


def _requested(command: Sequence[str]) -> int:
    """The trials per arm that the study's command requests; 0 if it gives no number."""
    words = [part for word in command for part in word.split("=", 1)]
    named = [value for flag, value in pairwise(words) if flag == "--trials" and value.isdecimal()]
    return int(named[-1]) if named else 0


def _of_teacher(data: StudyData) -> Iterator[str]:
    plain = data.tuned(PLAIN)
    teacher = data.teacher.value
    if teacher is None or plain is None or not plain.values:
        return
    student, _ = mean_and_deviation(plain.values)
    if teacher <= student:
        yield (
            f"The {data.named_teacher(data.teacher)} ({data.measure.value(teacher)}) is no better "
            "on the test split than the "
            f"tuned plain student ({data.measure.value(student)}): it has little to teach."
        )


def _of_evidence(data: StudyData, verdict: Verdict) -> Iterator[str]:
    if data.finalists:
        yield (
            "The intervals hold for this split of the data and these augmented views: another "
            "split could give another difference."
        )
    if 0 < data.test_images < FEW_TEST_IMAGES:
        yield _few_images(data, verdict)
    if MINIMUM_PAIRS <= data.seeds < FEW_SEEDS:
        yield (
            f"With {data.seeds} seeds the standard deviation between seeds is known only roughly, "
            f"which widens the interval; {FEW_SEEDS} seeds or more would narrow it."
        )


def _few_images(data: StudyData, verdict: Verdict) -> str:
    text = (
        f"The test split has only {counted(data.test_images, data.example)}"
        f"{_one_image(data, data.test_images)}."
    )
    if verdict.difference is None or verdict.difference.se_image == 0:
        return text
    floor = data.measure.amount(1.96 * verdict.difference.se_image)
    return (
        f"{text} The {data.example}s alone leave an uncertainty of ±{floor}, whatever the number "
        "of seeds."
    )


def _one_image(data: StudyData, images: int) -> str:
    """Return what one image is worth, in a study of accuracy."""
    worth = f": one {data.example} is {points(1 / images)} points of accuracy"
    return worth if data.protocol.metric == "accuracy" else ""


def _of_classes(data: StudyData) -> Iterator[str]:
    """Count the classes with too few images for a statement about them."""
    for part in ("validation", "test"):
        counts = data.class_images.get(part, ())
        few = [count for count in counts if count < FEW_OF_A_CLASS]
        if few:
            least = min(counts)
            label = counts.index(least)
            yield (
                f"{len(few)} of {counted(len(counts), 'class', 'classes')} "
                f"{'has' if len(few) == 1 else 'have'} fewer than {FEW_OF_A_CLASS} {part} "
                f"{data.example}s. The smallest is “{class_name(data, label)}” with {least} of "
                f"{sum(counts)} ({percent(least / sum(counts))}): one {data.example} is "
                f"{points(1 / max(least, 1))} points of its accuracy."
            )


def _of_search(data: StudyData) -> Iterator[str]:
    validation = data.images.get("validation", 0)
    ranked = "recipes" if data.by_promotion else "trials"
    if 0 < validation < FEW_VALIDATION_IMAGES:
        yield (
            f"The search ranks {ranked} by {counted(validation, f'validation {data.example}')}"
            f"{_one_image(data, validation)}, so similar {ranked} cannot be ranked."
        )
    for arm in data.arms:
        yield from _nothing_better(data, arm)
        lost = sum(trial.diverged for trial in arm.trials)
        if arm.counted and lost > MANY_DIVERGED * len(arm.runs):
            what = "runs" if data.by_promotion else "trials"
            yield (
                f"{lost} of {len(arm.runs)} {what} of {arm.name} diverged: the ranges of "
                "its search space are too wide."
            )
        failed = arm.count("FAIL")
        if failed:
            yield f"{counted(failed, 'trial')} of {arm.name} failed and did not count."


def _nothing_better(data: StudyData, arm: ArmData) -> Iterator[str]:
    tuned = data.tuned(arm.name)
    for default in data.of_role("default"):
        if tuned and default.key == tuned.key:
            yield (
                f"The search of {arm.name} found nothing better than “{default.title}”, one of the "
                "recipes that it began with: both are the same recipe and the same runs."
            )


def _of_warm_start(data: StudyData) -> Iterator[str]:
    """Name the study that a search began from, and whether its test split was read before."""
    settings = data.settings
    warm, other = settings.warm, settings.warm_start
    if warm is None:
        return
    begun = [arm.name for arm in data.arms if arm.name in warm.trials]
    cold = [arm.name for arm in data.arms if arm.name not in warm.trials]
    if begun and cold:
        yield (
            f"{listed(begun).capitalize()} began with tuned recipes of {other}, and {listed(cold)} "
            "without one: the arms did not have the same start."
        )
    if warm.tested and warm.dataset == settings.dataset:
        yield (
            f"Study {other}, whose tuned recipes this search began with, was confirmed on this "
            "test split. Its recipes were chosen by validation images alone, so none was chosen by "
            "the test split; but who continues because of its test results has used them."
        )


def of_pruning(
    pruner: str, margin: float, audits: tuple[Audit, ...], measure: Measure
) -> Iterator[str]:
    """Find pruners that cut wrongly often, or whose cuts cost more than the margin."""
    for audit in audits:
        many = audit.wrong > 1 and audit.wrong > MANY_WRONG * audit.cut
        costly = audit.regret is None or abs(measure.scale) * audit.regret > margin
        if many or (audit.cut and costly):
            regret = audit.regret
            lost = "all" if regret is None else f"{measure.amount(regret)} of the best"
            yield (
                f"Of {counted(len(audit.auditors), 'auditor')} of {audit.arm}, trials exempt from "
                f"pruning, the {pruner} pruner would have cut {audit.cut}, "
                f"{audit.wrong} of them wrongly, and would have lost {lost}: it may have cut good "
                "recipes in this search. --pruner none cuts nothing."
            )


def _of_protocol(data: StudyData) -> Iterator[str]:
    protocol = data.protocol
    train = data.images.get("train", 0)
    if 0 < train < 2 * protocol.batch_size:  # the last incomplete batch of an epoch is left out
        held = "all" if train <= protocol.batch_size else f"{protocol.batch_size} of"
        examples = counted(train, f"training {data.example}")
        yield f"A batch contains {held} {examples}: 1 step per epoch."
    if protocol.confirm_horizon != protocol.epochs:
        yield (
            f"Recipes were searched at {counted(protocol.epochs, 'epoch')} and confirmed at "
            f"{protocol.confirm_horizon}: the best recipe at one need not be the best at the other."
        )
    if protocol.view_count < max(protocol.epochs, protocol.confirm_horizon):
        yield (
            f"Runs cycle through {counted(protocol.view_count, 'view')} of the training set and "
            f"see each more than once."
        )
    if protocol.cache_logits != "float32":
        yield _of_logits(data)
    if data.settings.cache == "none":
        what = (
            "teacher was not cached: it" if len(data.teachers) == 1 else "teachers were not: they"
        )
        yield f"The {what} ran during every distilled run."


def _of_logits(data: StudyData) -> str:
    """Return what students learned from where logits are not cached as they are."""
    whose = "teacher's" if len(data.teachers) == 1 else "teachers'"
    kept = data.protocol.cache_logits
    error = "" if data.settings.cache == "none" else " python study.py verify shows the error."
    if kept == "float16":
        return f"Students learned from the {whose} logits in float16, about 3 digits.{error}"
    return (
        f"Of the {whose} logits for an image, students learned from the {kept.removeprefix('top')} "
        "largest, in float16, and one number for all other classes: their probability together is "
        f"exact at temperature 1 and too large above.{error}"
    )


def _of_seal(data: StudyData) -> Iterator[str]:
    confirmed = len(data.confirmations)
    openings = len(data.seal)
    tested = sum(run.test is not None for run in data.confirmations)
    tested += sum(bool(teacher.test) for teacher in data.teachers)
    tests = "teacher's test" if len(data.teachers) == 1 else "teachers' tests"
    if openings < tested:
        yield (
            f"{counted(tested, 'run')} read the test split, but its seal records "
            f"{counted(openings, 'opening')}: its record is incomplete, and others may have read "
            "it too."
        )
    if openings > confirmed + len(data.teachers) and confirmed:
        yield (
            f"The test split was opened {openings} times, more often than the {confirmed} "
            f"confirmation runs and the {tests} explain: see the openings of the seal."
        )
