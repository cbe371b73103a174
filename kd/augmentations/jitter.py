"""Brightness, then contrast, changed at random by up to this share.

Both are computed in whole numbers, the factors in 256ths: every device gives the same pixels.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

DEFAULT = 0.4
RANGE = (0.01, 1)
UNIT = 256  # the factor 1


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw the factors `brightness` and `contrast`, in 256ths: int32 [count]."""
    most = round(value * UNIT)
    return {
        factor: torch.randint(
            UNIT - most, UNIT + most + 1, (count,), generator=generator, dtype=torch.int32
        )
        for factor in ("brightness", "contrast")
    }


def apply(batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    brightness, contrast = (
        drawn[factor][:, None, None, None] for factor in ("brightness", "contrast")
    )
    bright = _scaled(batch.int(), brightness).clamp_(max=255)
    mean = (bright.flatten(1).sum(1) // bright[0].numel()).int()[:, None, None, None]
    return (_scaled(bright - mean, contrast) + mean).clamp_(0, 255).byte()


def _scaled(pixels: Tensor, factor: Tensor) -> Tensor:
    """Multiply int32 pixels by a factor in 256ths, rounded to the nearest whole number."""
    return (pixels * factor + UNIT // 2) // UNIT
