"""Variational: likelihood of the teacher's features, with a learned variance per channel."""

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor
from torch.nn import functional

from kd.models.taps import TapReading, matched

ADAPTED = True

INITIAL = 5.0  # variance of every channel, as in the authors' code
EPSILON = 1e-5  # the least variance, as there


def start(channels: int, generator: Generator) -> Mapping[str, Tensor]:
    """Return the first `raw_variance` [k]: the variance is EPSILON + log(1 + exp(raw))."""
    raw = math.log(math.expm1(INITIAL - EPSILON))
    return {"raw_variance": torch.full((channels,), raw)}


def loss(student: Tensor, reading: TapReading, raw_variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's features, less log(2π) / 2, in nats per number.

    Ahn et al., "Variational information distillation for knowledge transfer", CVPR 2019 (arXiv
    1904.05835), equation 4: a normal distribution whose mean is the adapted student [B, k, h, w]
    and whose variance is one trained number per channel; mean over batch, channels and positions,
    as in the authors' code. Their mean has three 1x1 convolutions, here it is one, as for `hint`.
    It is negative once the student predicts the teacher to within a variance of 1.
    """
    student, teacher = matched(student, reading.features)
    variance = (functional.softplus(raw_variance) + EPSILON).to(student.dtype)[:, None, None]
    return ((student - teacher).square() / variance + variance.log()).mean() / 2
