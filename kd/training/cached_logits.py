"""Logits as the teacher cache keeps them: all in float32 or float16, or of each row the largest.

`topK` keeps the K largest of a row's logits z as y, in float16, with their classes, and in float32
one number r for the n classes that remain:

    r = log(sum of exp(z) over the n classes / n) + log(sum of exp(y)) - log(sum of exp(z) over K)

The row is read as y in the K classes and r in all others; the last two terms move r as rounding has
moved the K. So the probability of the n classes together is exact at temperature 1, to float32. The
K logits are rounded by at most 2^-11 of their size, and how the n classes differ is lost. At a
temperature T above 1 they have together more probability than the teacher gives them, because
n·exp(r/T) is at least the sum of exp(z/T): the power 1/T of a mean is at least the mean of powers.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kd.names import parse_cache_logits

LOGITS = "logits"
CLASSES = "logits.classes"
REST = "logits.rest"
HALF_STEP = 2**-11  # by which rounding to float16 changes a number at most, relative to it
SMALLEST_HALF_STEP = 2**-25  # the same for numbers below the normal ones of float16
TEMPERATURES = (1.0, 4.0, 10.0)  # of errors: the ends of the built-in spaces, and vanilla KD


def columns(cache_logits: str, classes: int) -> dict[str, tuple[torch.dtype, int]]:
    """Return the dtype and the columns of each tensor that keeps logits, by name."""
    count = parse_cache_logits(cache_logits)
    if not count:
        return {LOGITS: (getattr(torch, cache_logits), classes)}
    index = torch.int16 if classes <= 2**15 else torch.int32
    return {LOGITS: (torch.float16, count), CLASSES: (index, count), REST: (torch.float32, 1)}


def encode(logits: Tensor, cache_logits: str) -> dict[str, Tensor]:
    """Return the tensors that keep logits [B, classes] float32, by name.

    What float16 cannot hold, above 65,504, becomes infinite. Of equal logits the first are kept.
    """
    kept = columns(cache_logits, logits.shape[1])
    if CLASSES not in kept:
        return {LOGITS: logits.to(kept[LOGITS][0])}
    index, count = kept[CLASSES]
    order = logits.sort(dim=1, descending=True, stable=True)
    classes, largest = order.indices[:, :count], order.values[:, :count].half()
    return {LOGITS: largest, CLASSES: classes.to(index), REST: _rest(logits, classes, largest)}


def decode(tensors: Mapping[str, Tensor], classes: int) -> Tensor:
    """Return the logits [B, classes] float32 that tensors of `encode` stand for."""
    logits = tensors[LOGITS].float()
    if CLASSES not in tensors:
        return logits
    return tensors[REST].expand(-1, classes).scatter(1, tensors[CLASSES].long(), logits)


def as_cached(logits: Tensor, cache_logits: str) -> Tensor:
    """Return logits [B, classes] float32 as they are read from the cache."""
    return decode(encode(logits, cache_logits), logits.shape[1])


def _rest(logits: Tensor, classes: Tensor, largest: Tensor) -> Tensor:
    """Return r [B, 1] of the module's docstring; `largest` [B, K] are the rounded logits y."""
    others = logits.scatter(1, classes, -math.inf).logsumexp(dim=1, keepdim=True)
    moved = largest.float().logsumexp(1, True) - logits.gather(1, classes).logsumexp(1, True)
    return others - math.log(logits.shape[1] - classes.shape[1]) + moved


def distance(logits: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return how far logits [B, classes] float32 are at most from some that `tensors` keep.

    A scalar, 0 if `encode` gives just these tensors. Logits that differ by little may be rounded to
    neighbours in float16, or exchange their places as K-th and next; this counts for as little.
    """
    kept, classes = tensors[LOGITS], tensors.get(CLASSES)
    own = logits if classes is None else logits.gather(1, classes.long())
    gap = (own - kept.float()).abs()
    if kept.dtype == torch.float16:
        gap = (gap - HALF_STEP * own.abs() - SMALLEST_HALF_STEP).clamp(min=0)
    if classes is None:
        return gap.max()
    others = logits.scatter(1, classes.long(), -math.inf)
    smaller = (others.amax(1) - own.amin(1)).clamp(min=0)
    rest = (_rest(logits, classes.long(), kept) - tensors[REST]).abs()
    return torch.stack([gap.max(), smaller.max(), rest.max()]).max()


def errors(exact: Tensor, cached: Tensor) -> dict[str, Any]:
    """Return how logits [B, classes] that were read from a cache differ from exact ones.

    `logit` is the largest difference of a logit; `kl` has for each of `TEMPERATURES` the mean and
    the largest KL(exact || cached) of the softened distributions, in nats.
    """
    exact, cached = exact.cpu().double(), cached.cpu().double()
    found = {one: _divergence(exact / one, cached / one) for one in TEMPERATURES}
    return {
        "logit": float((exact - cached).abs().max()),
        "kl": {f"{one:g}": [float(kl.mean()), float(kl.max())] for one, kl in found.items()},
    }


def _divergence(exact: Tensor, cached: Tensor) -> Tensor:
    """Return KL(softmax(exact) || softmax(cached)) of each row: [B], nats, at least 0."""
    log = exact.log_softmax(1)
    return (log.exp() * (log - cached.log_softmax(1))).sum(1).clamp(min=0)
