"""Shared by several losses on logits: KL divergence, centred rows, lengths of rows."""

import torch
from torch import Tensor
from torch.nn import functional

# Subtracting the mean of C equal float32 numbers left at most 4 units of rounding (C up to 1000).
ROUNDING_UNITS = 8


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of logits [B, C]: mean over B, nats."""
    student_log, teacher_log = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)


def length(rows: Tensor) -> Tensor:
    """Return the length [B, 1] of each row."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return lengths


def centred(rows: Tensor) -> Tensor:
    """Return rows minus their means; a row that is constant up to rounding becomes exactly 0.

    Such a row has no gradient, because dividing by its length would amplify rounding errors.
    """
    less = rows - rows.mean(dim=1, keepdim=True)
    rounding = ROUNDING_UNITS * torch.finfo(rows.dtype).eps * rows.abs().amax(dim=1, keepdim=True)
    constant = less.abs().amax(dim=1, keepdim=True) <= rounding
    return less.masked_fill(constant, 0.0)
