"""Decoupled distillation: label against all else, and among all else."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kd.errors import require
from kd.losses.logits._shared import divergence

ONE_LABEL = True  # it is not defined for images that are mixed of two


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The weights of TCKD and NCKD, in 0-1000 and not both 0.

    The defaults are DKD.ALPHA and DKD.BETA of the authors' mdistiller: Zhao et al.'s settings for
    resnet32x4 to resnet8x4 on CIFAR-100.
    """

    target_weight: float = 1.0
    non_target_weight: float = 8.0

    def __post_init__(self) -> None:
        weights = self.target_weight, self.non_target_weight
        fits = all(0 <= weight <= 1000 for weight in weights) and any(weights)
        require("the weights of dkd must lie in 0-1000, one above 0", fits, weights)


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    parameters: Parameters,
) -> Tensor:
    """Decoupled knowledge distillation: T² (weight TCKD + weight NCKD).

    TCKD is the KL of the two-way distribution (label, all else), NCKD that of the distribution over
    the classes other than the label; KL = TCKD + (1 - p_teacher(label)) NCKD. Zhao et al.,
    "Decoupled knowledge distillation", CVPR 2022 (arXiv 2203.08679). The authors drop the label by
    subtracting 1000 from its logit and take the logarithm of a softmax; here the other logits are
    gathered and all stays in log space, which gives the same value and cannot underflow. Their
    warm-up of the loss over the first epochs is left to the schedule of alpha.
    """
    student_label, student_rest = _split(student_logits / temperature, labels)
    teacher_label, teacher_rest = _split(teacher_logits / temperature, labels)
    target = divergence(
        _two_way(student_label, student_rest), _two_way(teacher_label, teacher_rest)
    )
    non_target = divergence(student_rest, teacher_rest)
    weighted = parameters.target_weight * target + parameters.non_target_weight * non_target
    return temperature**2 * weighted


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split logits [B, C] into those of the labels [B, 1] and those of all other classes [B, C-1].

    By index and not by mask, since the size of what a mask selects has to come from the device.
    """
    column = labels[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, column), logits.gather(1, others + (others >= column))


def _two_way(label: Tensor, rest: Tensor) -> Tensor:
    """Return logits [B, 2] of the distribution (label, all other classes)."""
    return torch.cat([label, rest.logsumexp(dim=1, keepdim=True)], dim=1)
