"""Limitations of a study whose networks start from weights that may have seen its images."""

import math
from collections.abc import Iterator
from pathlib import Path

from kd.names import parse_weights
from reports.read.data import StudyData
from reports.read.teachers import TeacherData
from reports.wording import counted, percent, points

MANY_ERRORS = 4  # standard errors of a difference that is no chance


def of_weights(data: StudyData) -> Iterator[str]:
    """Name weights that may come from these images: a file, or a teacher that is not trained here.

    A library's own weights are of other data; fine-tuned, they are not named.
    """
    protocol = data.protocol
    for teacher, weights in zip(data.teachers, protocol.each_weights, strict=True):
        file, untrained = parse_weights(weights), protocol.teacher_epochs == 0
        if file or untrained:
            what = f"starts from {Path(file.path).name}" if file else "was not trained here"
            how = ", without training here" if file and untrained else ""
            yield (
                f"The {data.named_teacher(teacher)} {what}{how}: Retort does not know what its "
                "weights were trained on, and they may have seen these validation and test images."
            )
    if student := parse_weights(protocol.student_weights):
        yield (
            f"The students of every arm start from {Path(student.path).name}: Retort does not know "
            "what it was trained on, and it may have seen these validation and test images."
        )
    for teacher in data.teachers:
        yield from _surprise(data, teacher)


def _surprise(data: StudyData, teacher: TeacherData) -> Iterator[str]:
    """Find a teacher that is far better on the test split than on the validation split.

    The difference of the two shares is compared with its standard error if both were one share.
    """
    expected, tested = teacher.info.get("accuracy"), teacher.test.get("accuracy")
    sizes = data.images.get("validation", 0), data.test_images
    if expected is None or tested is None or not all(sizes):
        return
    pooled = (expected * sizes[0] + tested * sizes[1]) / sum(sizes)
    error = math.sqrt(pooled * (1 - pooled) * (1 / sizes[0] + 1 / sizes[1]))
    if tested - expected > MANY_ERRORS * error:
        yield (
            f"The {data.named_teacher(teacher)}'s accuracy is {percent(tested)} on "
            f"{counted(sizes[1], 'test image')}, "
            f"but {percent(expected)} on {counted(sizes[0], 'validation image')}: "
            f"{points(tested - expected)} points, or {(tested - expected) / error:.1f} standard "
            "errors. It may have seen the test images, or the two splits differ."
        )
