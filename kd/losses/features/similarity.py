"""Similarity-preserving: distance of the Gram matrices of a batch."""

from torch import Tensor

from kd.models.taps import TapReading, matched, unit

ADAPTED = False

# Brings this loss to where the other losses start. As the mean over three taps it was 0.05-0.16
# between untrained students (resnet8-w0.125 to resnet18) and trained teachers (resnet20 and
# resnet8-w0.5 on digits, resnet20 on CIFAR-10; batches of 64 and 128), and below 0.01 between
# random single layers. mdistiller's weight, 3000 over B² at a batch of 64, is then one of 4.7.
SCALE = 10.0


def loss(student: Tensor, reading: TapReading) -> Tensor:
    """Squared Frobenius distance of the row-normalised Gram matrices [B, B], over B, times 10.

    Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019 (arXiv 1907.09682), who
    divide by B²; each row has length 1, so that B makes it a mean over rows, whatever the batch.
    At most 40, and 20 for maps of one sign.
    """
    student, teacher = matched(student, reading.features)
    difference = unit(_gram(student)) - unit(_gram(teacher))
    return SCALE * difference.square().sum() / len(student)


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(start_dim=1)
    return flat @ flat.T
