"""Rectangle of another image, its area by the distribution Beta(value, value); labels alike.

Yun et al. 2019, 1905.04899. torchvision's CutMix with a rectangle for each image: labels follow
the area that is left of it after it is cut at the image's edge.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from kd.augmentations._shared import SHARES, draw_shares, inside

DEFAULT = 1.0
RANGE = (0.01, 10)
MIXES = True
DEEP = True


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw `partner`, `share`, and the rectangle: `top`, `left`, `height`, `width`, int64."""
    partner = torch.randperm(count, generator=generator)
    half = (1 - draw_shares(generator, count, value).double() / SHARES).sqrt() / 2
    drawn = {"partner": partner}
    area = torch.ones(count)
    for side, corner, length in ((shape[1], "top", "height"), (shape[2], "left", "width")):
        centre = torch.randint(0, side, (count,), generator=generator)
        reach = (half * side).long()
        drawn[corner] = (centre - reach).clamp(min=0)
        drawn[length] = (centre + reach).clamp(max=side) - drawn[corner]
        area = area * drawn[length]
    return drawn | {"share": 1 - area / (shape[1] * shape[2])}


def mix(batch: Tensor, partners: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    return torch.where(inside(drawn, (batch.shape[2], batch.shape[3])), partners, batch)
