"""FitNets: squared error of the adapted student, over the teacher's variance."""

from torch import Tensor
from torch.nn import functional

from kd.models.taps import TapReading, matched

ADAPTED = True


def loss(student: Tensor, reading: TapReading) -> Tensor:
    """The share of the teacher's variance that the student leaves unexplained (1 for its mean).

    Squared error of `student` [B, k, h, w], summed over the channels, averaged over batch and
    positions, divided by the total variance. Romero et al., "FitNets", 2015 (arXiv 1412.6550).
    """
    student, teacher = matched(student, reading.features)
    squares = functional.mse_loss(student, teacher, reduction="sum")
    return squares / (student.numel() // student.shape[1]) / reading.variance
