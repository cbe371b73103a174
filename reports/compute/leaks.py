"""Limitations of a study whose networks start from weights that may have seen its images."""

import math
from collections.abc import Iterator
from pathlib import Path

from kd.names import parse_weights
from reports.read.data import StudyData
from reports.wording import counted, percent, points

MANY_ERRORS = 4  # standard errors of a difference that is no chance


def of_weights(data: StudyData) -> Iterator[str]:
    """Name weights that may come from these images: a file, or a teacher that is not trained here.

    A library's own weights are of other data; fine-tuned, they are not named.
    """
    protocol = data.protocol
    teacher, student = map(parse_weights, (protocol.teacher_weights, protocol.student_weights))
    if teacher or protocol.teacher_epochs == 0:
        what = f"starts from {Path(teacher.path).name}" if teacher else "was not trained here"
        untrained = ", without training here" if teacher and protocol.teacher_epochs == 0 else ""
        yield (
            f"The teacher {what}{untrained}: Retort does not know what its weights were trained "
            "on, and they may have seen these validation and test images."
        )
    if student:
        yield (
            f"The students of every arm start from {Path(student.path).name}: Retort does not know "
            "what it was trained on, and it may have seen these validation and test images."
        )
    yield from _surprise(data)


def _surprise(data: StudyData) -> Iterator[str]:
    """Find a teacher that is far better on the test split than on the validation split.

    The difference of the two shares is compared with its standard error if both were one share.
    """
    expected, tested = data.teacher.get("accuracy"), data.teacher_test.get("accuracy")
    sizes = data.images.get("validation", 0), data.test_images
    if expected is None or tested is None or not all(sizes):
        return
    pooled = (expected * sizes[0] + tested * sizes[1]) / sum(sizes)
    error = math.sqrt(pooled * (1 - pooled) * (1 / sizes[0] + 1 / sizes[1]))
    if tested - expected > MANY_ERRORS * error:
        yield (
            f"The teacher's accuracy is {percent(tested)} on {counted(sizes[1], 'test image')}, "
            f"but {percent(expected)} on {counted(sizes[0], 'validation image')}: "
            f"{points(tested - expected)} points, or {(tested - expected) / error:.1f} standard "
            "errors. It may have seen the test images, or the two splits differ."
        )
