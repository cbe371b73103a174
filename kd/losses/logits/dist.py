"""1 - Pearson's correlation of the probabilities, between classes and within them."""

from torch import Tensor
from torch.nn import functional

from kd.losses.logits._shared import centred, length

EPSILON = 1e-8  # as in the authors' code (hunto/DIST_KD)


def loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """T² (1 - mean correlation over samples + 1 - mean correlation over classes).

    Pearson's correlation of student and teacher probabilities: per sample across the classes, and
    per class across the batch. Huang et al., "Knowledge distillation from a stronger teacher",
    NeurIPS 2022 (arXiv 2205.10536), with their weights of 1 and 1. As in the authors' code 1e-8 is
    added to the denominator. What is constant (every column, for a batch of 1) correlates with
    nothing: it counts as correlation 0 and gets no gradient.
    """
    student = functional.softmax(student_logits / temperature, dim=1)
    teacher = functional.softmax(teacher_logits / temperature, dim=1)
    inter = 1 - _correlation(student, teacher).mean()
    intra = 1 - _correlation(student.T, teacher.T).mean()
    return temperature**2 * (inter + intra)


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Pearson's correlation of each row of `left` [N, M] with the same row of `right`: [N, 1]."""
    left, right = centred(left), centred(right)
    covariance = (left * right).sum(dim=1, keepdim=True)
    return covariance / (length(left) * length(right) + EPSILON)
