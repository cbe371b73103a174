"""`kl` of logits standardised row by row."""

import math

from torch import Tensor

from kd.losses.logits import kl
from kd.losses.logits._shared import centred, length

EPSILON = 1e-7  # as in the authors' code (sunshangquan/logit-standardization-KD)


def loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`kl` of standardised logits: each row less its mean, divided by its standard deviation.

    Sun et al., "Logit standardization in knowledge distillation", CVPR 2024 (arXiv 2403.01427). As
    in the authors' code the deviation is the unbiased one (C - 1), and 1e-7 is added to it. The
    student is free in shift and scale of its logits. A row of equal logits has no direction: it
    becomes 0, the uniform distribution, and gets no gradient (theirs would be of the order of 1e7).
    """
    student, teacher = _standardised(student_logits), _standardised(teacher_logits)
    return kl.loss(student, teacher, labels, temperature)


def _standardised(logits: Tensor) -> Tensor:
    rows = centred(logits)
    deviation = length(rows) / math.sqrt(logits.shape[1] - 1)
    return rows / (deviation + EPSILON)
