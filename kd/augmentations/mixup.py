"""Blended with another image, by shares of the distribution Beta(value, value); labels alike.

Zhang et al. 2017, 1710.09412. torchvision's MixUp with a share for each image, in 256ths.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from kd.augmentations._shared import SHARES, draw_shares

DEFAULT = 0.2
RANGE = (0.01, 10)
MIXES = True


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw `partner` and `share`; each image is the partner of one."""
    partner = torch.randperm(count, generator=generator)
    return {"partner": partner, "share": draw_shares(generator, count, value).float() / SHARES}


def mix(batch: Tensor, partners: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    share = (drawn["share"] * SHARES).int()[:, None, None, None]
    other = partners.int()
    weighted = (batch.int().sub_(other)).mul_(share).add_(SHARES // 2)
    return (weighted >> 8).add_(other).byte()  # rounded to the nearest of 255
