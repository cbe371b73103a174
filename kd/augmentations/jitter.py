"""Brightness, contrast and saturation, changed at random by up to this share, in random order.

torchvision's ColorJitter without hue. Computed in whole numbers, the factors in 4096ths: every
device gives the same pixels, within 1 of torchvision's.
"""

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Generator, Tensor

from kd.augmentations import _shared
from kd.augmentations._shared import UNIT, Drawn, change_groups, mean_grey

DEFAULT = 0.4
RANGE = (0.01, 1)
FACTORS = ("brightness", "contrast", "saturation")
ORDERS = tuple(permutations(range(len(FACTORS))))


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw the three factors, in UNITths, int32 [count], and `order`, int64 [count, 3]."""
    most = round(value * UNIT)
    drawn = {
        factor: torch.randint(
            UNIT - most, UNIT + most + 1, (count,), generator=generator, dtype=torch.int32
        )
        for factor in FACTORS
    }
    chosen = torch.randint(0, len(ORDERS), (count,), generator=generator)
    return drawn | {"order": torch.tensor(ORDERS)[chosen]}


def apply(batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    for place in range(len(FACTORS)):
        batch = change_groups(batch, drawn["order"][:, place], drawn, enumerate(CHANGES))
    return batch


def _brightness(batch: Tensor, drawn: Drawn) -> Tensor:
    return _shared.brightness(batch.int(), drawn["brightness"])


def _contrast(batch: Tensor, drawn: Drawn) -> Tensor:
    mean = mean_grey(batch)[..., None]
    return _shared.contrast(batch.int(), mean, drawn["contrast"])


def _saturation(batch: Tensor, drawn: Drawn) -> Tensor:
    return _shared.saturation(batch, drawn["saturation"])


CHANGES = (_brightness, _contrast, _saturation)
