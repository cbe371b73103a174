"""Erased square of this many pixels a side.

Its centre lies anywhere in the image. DeVries and Taylor 2017, 1708.04552.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

DEFAULT = 8
RANGE = (1, "image_size")
DEEP = True


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw the square's corner, which may lie outside the image: `top` and `left`, int64 [count]"""
    half = int(value) // 2
    _, height, width = shape
    return {
        corner: torch.randint(0, side, (count,), generator=generator) - half
        for corner, side in (("top", height), ("left", width))
    }


def apply(batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    height, width = batch.shape[-2:]
    down = torch.arange(height, device=batch.device) - drawn["top"][:, None]
    across = torch.arange(width, device=batch.device) - drawn["left"][:, None]
    lines, pixels = ((steps >= 0) & (steps < value) for steps in (down, across))
    return batch * ~(lines[:, None, :, None] & pixels[:, None, None, :])
