"""Erased rectangle, black, with this probability.

torchvision's RandomErasing with its defaults: 2-33 % of the area, ratio of the sides 0.3-3.3,
filled with 0. Zhong et al. 2017, 1708.04896.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from kd.augmentations._shared import draw_rectangles, inside

DEFAULT = 0.25
RANGE = (0.01, 1)
DEEP = True
AREAS = (0.02, 0.33)
RATIOS = (0.3, 3.3)


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw `top`, `left`, `height`, `width`, int64 [count]; height 0 where nothing is erased."""
    chosen = torch.rand(count, generator=generator, dtype=torch.float64) < value
    fitted, drawn = draw_rectangles(
        generator, count, shape[1:], areas=AREAS, ratios=RATIOS, smaller=True
    )
    return drawn | {"height": drawn["height"] * (chosen & fitted)}


def apply(batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    return batch * ~inside(drawn, (batch.shape[2], batch.shape[3]))
