"""Random part of the image, at least this share of its area, enlarged to the image's size.

torchvision's RandomResizedCrop, with sides in a ratio of 3/4 to 4/3 and bilinear resizing. A part
is never larger than its image, so that antialiasing, which only reduces, has no effect.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from kd.augmentations._shared import draw_rectangles

DEFAULT = 0.35
RANGE = (0.01, 1)
RATIOS = (3 / 4, 4 / 3)
BITS = 11  # of a weight: products with two weights and a pixel fit in 31 bits
UNIT = 1 << BITS


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw the part: `top`, `left`, `height`, `width`, int64 [count]."""
    _, drawn = draw_rectangles(
        generator, count, shape[1:], areas=(value, 1), ratios=RATIOS, smaller=False
    )
    return drawn


def apply(batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    height, width = batch.shape[-2:]
    across = _sampled(batch, 3, *_places(drawn["left"], drawn["width"], width))
    both = _sampled(across, 2, *_places(drawn["top"], drawn["height"], height))
    return ((both + UNIT * UNIT // 2) >> 2 * BITS).byte()


def _places(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each of `side` pixels is read, along one axis.

    A pixel lies between `before` and `after`, int64 [B, side]; `weight`, int32 [B, side] in
    UNITths, is that of `after`. Pixel p has its centre at (p + 1/2) length / side - 1/2 in the
    part, and beyond the part's first and last centres these are repeated.
    """
    pixels = 2 * torch.arange(side, device=start.device) + 1
    place = ((pixels * length[:, None] - side) * UNIT + side) // (2 * side)  # in UNITths, rounded
    place = place.clamp_(min=0).minimum((length[:, None] - 1) * UNIT)
    before = place >> BITS
    after = (before + 1).minimum(length[:, None] - 1)
    weight = (place - (before << BITS)).int()
    return start[:, None] + before, start[:, None] + after, weight


def _sampled(batch: Tensor, axis: int, before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """Interpolate [B, C, H, W] linearly along one axis. Returns int32, multiplied by UNIT."""
    shape = [len(batch), 1, 1, 1]
    shape[axis] = batch.shape[axis]
    first, second = (
        batch.gather(axis, places.view(shape).expand(batch.shape)).int()
        for places in (before, after)
    )
    return (second.sub_(first)).mul_(weight.view(shape)).add_(first.mul_(UNIT))
