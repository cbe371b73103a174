"""Hinton's distillation: T² KL(teacher || student)."""

from torch import Tensor

from kd.losses.logits._shared import divergence


def loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Knowledge distillation: T² KL(softmax(teacher / T) || softmax(student / T)).

    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015 (arXiv 1503.02531).
    """
    return temperature**2 * divergence(student_logits / temperature, teacher_logits / temperature)
