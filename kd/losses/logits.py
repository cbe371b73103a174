"""Losses on logits: hard, and soft against a teacher; pure functions of tensors.

Every soft loss has the same arguments,

    student_logits  [B, C] float
    teacher_logits  [B, C] float, raw: never standardised or divided by a temperature before
    labels          [B] int64, class numbers in 0 … C - 1 (only `dkd` reads them)
    temperature     above 0

and returns a scalar: summed over the classes, averaged over the batch, and multiplied by the
temperature squared, so that the size of its gradient does not fall as the temperature rises (Hinton
et al. 2015, section 2). For finite logits the value and the gradient are finite. Nothing is
detached: a caller who wants no gradient in the teacher gives logits that carry none.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# Zhao et al. 2022, and DKD.ALPHA and DKD.BETA of the authors' mdistiller: their settings for
# resnet32x4 to resnet8x4 on CIFAR-100.
DKD_TARGET_WEIGHT = 1.0
DKD_NON_TARGET_WEIGHT = 8.0

# As in the authors' code (sunshangquan/logit-standardization-KD, hunto/DIST_KD).
ZSCORE_EPSILON = 1e-7
DIST_EPSILON = 1e-8

# Subtracting the mean of C equal float32 numbers left at most 4 units of rounding (C up to 1000).
ROUNDING_UNITS = 8


def hard(student_logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of logits [B, C] with labels [B], averaged over the batch, in nats.

    `label_smoothing` in [0, 1) is the share of the target that is spread evenly over all classes.
    """
    return functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)


def kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Knowledge distillation: T² KL(softmax(teacher / T) || softmax(student / T)).

    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015 (arXiv 1503.02531).
    """
    return temperature**2 * _divergence(student_logits / temperature, teacher_logits / temperature)


def zscore(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`kl` of standardised logits: each row less its mean, divided by its standard deviation.

    Sun et al., "Logit standardization in knowledge distillation", CVPR 2024 (arXiv 2403.01427). As
    in the authors' code the deviation is the unbiased one (C - 1), and 1e-7 is added to it. The
    student is free in shift and scale of its logits. A row of equal logits has no direction: it
    becomes 0, the uniform distribution, and gets no gradient (theirs would be of the order of 1e7).
    """
    student, teacher = _standardised(student_logits), _standardised(teacher_logits)
    return kl(student, teacher, labels, temperature)


def dkd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Decoupled knowledge distillation: T² (TCKD + 8 NCKD).

    TCKD is the KL of the two-way distribution (label, all else), NCKD that of the distribution over
    the classes other than the label; KL = TCKD + (1 - p_teacher(label)) NCKD. Zhao et al.,
    "Decoupled knowledge distillation", CVPR 2022 (arXiv 2203.08679). The authors drop the label by
    subtracting 1000 from its logit and take the logarithm of a softmax; here the other logits are
    gathered and all stays in log space, which gives the same value and cannot underflow. Their
    warm-up of the loss over the first epochs is left to the schedule of alpha.
    """
    student_label, student_rest = _split(student_logits / temperature, labels)
    teacher_label, teacher_rest = _split(teacher_logits / temperature, labels)
    target = _divergence(
        _two_way(student_label, student_rest), _two_way(teacher_label, teacher_rest)
    )
    non_target = _divergence(student_rest, teacher_rest)
    weighted = DKD_TARGET_WEIGHT * target + DKD_NON_TARGET_WEIGHT * non_target
    return temperature**2 * weighted


def dist(
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


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of logits [B, C]: sum over C, mean over B, nats."""
    student_log, teacher_log = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


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


def _standardised(logits: Tensor) -> Tensor:
    centred = _centred(logits)
    deviation = _length(centred) / math.sqrt(logits.shape[1] - 1)
    return centred / (deviation + ZSCORE_EPSILON)


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Pearson's correlation of each row of `left` [N, M] with the same row of `right`: [N, 1]."""
    left, right = _centred(left), _centred(right)
    covariance = (left * right).sum(dim=1, keepdim=True)
    return covariance / (_length(left) * _length(right) + DIST_EPSILON)


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return length


def _centred(rows: Tensor) -> Tensor:
    """Subtract each row's mean; a row that is constant but for rounding becomes exactly 0.

    Such a row passes no gradient back: what is divided by its length would blow rounding up.
    """
    centred = rows - rows.mean(dim=1, keepdim=True)
    rounding = ROUNDING_UNITS * torch.finfo(rows.dtype).eps * rows.abs().amax(dim=1, keepdim=True)
    constant = centred.abs().amax(dim=1, keepdim=True) <= rounding
    return centred.masked_fill(constant, 0.0)


SoftLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]

SOFT_LOSSES: dict[str, SoftLoss] = {"kl": kl, "zscore": zscore, "dkd": dkd, "dist": dist}
