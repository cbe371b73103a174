"""Limitations of what the test split shows."""

from collections.abc import Iterator

import numpy as np

from kd.training.history import FEW_OF_A_CLASS
from kd.training.scoring import objective
from reports.compute.classes import class_name, one_image
from reports.compute.collapse import carrier, far_below
from reports.compute.verdict import Verdict
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import MINIMUM_PAIRS, mean_and_deviation
from reports.wording import counted, listed, percent, points

FEW_TEST_IMAGES = 2000  # below, the images alone leave more than about half a point open
FEW_SEEDS = 10


def of_learning(data: StudyData) -> Iterator[str]:
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


def of_teacher(data: StudyData) -> Iterator[str]:
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


def of_evidence(data: StudyData, verdict: Verdict) -> Iterator[str]:
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


def of_collapse(data: StudyData, verdict: Verdict) -> Iterator[str]:
    """Name the seeds of the verdict that are unlike all others."""
    a, b, difference, measure = verdict.a, verdict.b, verdict.difference, data.measure
    if a is None or b is None or difference is None:
        return
    least = max(data.protocol.margin / abs(measure.scale), *map(_image_noise, (a, b)))
    seeds = sorted(set(a.scores) & set(b.scores))
    if found := carrier(difference.per_seed, least):
        place, share = found
        yield (
            f"Seed {seeds[place] + 1} alone has {percent(share, 0)} of the variance of the "
            f"differences between seeds ({measure.change(difference.per_seed[place])}; the median "
            f"is {measure.change(difference.median)}, the mean {measure.change(difference.mean)}). "
            "An interval over few seeds does not hold for a mean that depends on rare ones."
        )
    for finalist in (a, b):
        values = [float(scores.mean()) for _, scores in sorted(finalist.scores.items())]
        places = [sorted(finalist.scores)[place] + 1 for place in far_below(values, least)]
        if places:
            yield (
                f"{'Seed' if len(places) == 1 else 'Seeds'} {listed([str(one) for one in places])} "
                f"of {finalist.label} ended far worse than its median of "
                f"{measure.value(float(np.median(values)))}, at worst with "
                f"{measure.value(min(values))}. The verdict is about the mean over seeds, so it "
                f"depends on how often this happens, which {counted(len(values), 'seed')} cannot "
                "tell."
            )


def _image_noise(finalist: FinalistData) -> float:
    """Two standard errors of one run over the test images: seeds alike can lie so far apart."""
    scores = np.stack(list(finalist.scores.values()))
    return 2 * float(scores.std() / np.sqrt(scores.shape[1]))


def _few_images(data: StudyData, verdict: Verdict) -> str:
    text = (
        f"The test split has only {counted(data.test_images, data.example)}"
        f"{one_image(data, data.test_images)}."
    )
    if verdict.difference is None or verdict.difference.se_image == 0:
        return text
    floor = data.measure.amount(1.96 * verdict.difference.se_image)
    return (
        f"{text} The {data.example}s alone leave an uncertainty of ±{floor}, whatever the number "
        "of seeds."
    )


def of_classes(data: StudyData) -> Iterator[str]:
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


def of_seal(data: StudyData) -> Iterator[str]:
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
