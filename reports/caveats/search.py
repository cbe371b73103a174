"""Limitations of a search: how long it was, what it could rank, where it began."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from reports.compute.audit import Audit
from reports.compute.budget import amount
from reports.compute.classes import one_image
from reports.read.data import StudyData
from reports.read.learnt import STARTUP_RUNS
from reports.read.trials import ArmData
from reports.wording import Measure, counted, duration, listed, trainings

FEW_VALIDATION_IMAGES = 1000
STARTUP_TRIALS = 10  # of a sampler, before it learns from any (`conductor/search/methods.py`)
REPEAT_AFTER = 4  # recipes at the horizon before any is repeated (`conductor/search/promotion`)
MANY_DIVERGED = 0.2
MANY_WRONG = 0.2  # share of an auditor's cuts; one wrong cut alone may be chance


def of_tuning(data: StudyData) -> Iterator[str]:
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


def of_search(data: StudyData) -> Iterator[str]:
    validation = data.images.get("validation", 0)
    ranked = "recipes" if data.by_promotion else "trials"
    if 0 < validation < FEW_VALIDATION_IMAGES:
        yield (
            f"The search ranks {ranked} by {counted(validation, f'validation {data.example}')}"
            f"{one_image(data, validation)}, so similar {ranked} cannot be ranked."
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


def of_warm_start(data: StudyData) -> Iterator[str]:
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
