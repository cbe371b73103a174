"""1 - cosine of adapted student and teacher at each position."""

from torch import Tensor

from kd.models.taps import TapReading, matched, unit

ADAPTED = True


def loss(student: Tensor, reading: TapReading) -> Tensor:
    """1 - cosine of student [B, k, h, w] and teacher at each position, averaged: 0 to 2.

    A vector of zeros has cosine 0 with everything, and gets no gradient.
    """
    student, teacher = matched(student, reading.features)
    return 1 - (unit(student) * unit(teacher)).sum(dim=1).mean()
