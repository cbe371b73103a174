"""Taps: outputs of modules, read by hooks as maps, and made comparable for feature losses.

A student's map is compared with the teacher's reading as stored in the teacher cache: reduced to
few channels and positions, so that shards stay small. Maps of different size are average-pooled to
the smaller of the two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.errors import ProtocolError

SHORTEST = 1e-12  # a vector of at most this length has no direction


Layout = Literal["map", "channels last", "tokens", "sequence", "sequence, channels first", "vector"]


@dataclass(frozen=True, slots=True)
class Tap:
    """The module at `path` of a model, whose output is read, and the layout of that output.

    `map` [B, C, h, w]; `channels last` [B, h, w, C]; `tokens` [B, prefix + h w, C] of a square
    grid; `sequence` [B, prefix + L, C]; `sequence, channels first` [B, C, prefix + L]; `vector`
    [B, C]. The first `prefix` tokens belong to no position (a class token, registers).
    """

    path: str
    layout: Layout = "map"
    prefix: int = 0

    @property
    def is_sequence(self) -> bool:
        """Whether the positions have an order but no rows; the map is then [B, C, 1, L]."""
        return self.layout.startswith("sequence")

    def as_map(self, output: Tensor) -> Tensor:
        """Return an output in this layout as a map [B, C, h, w]."""
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)
        if self.layout == "vector":
            return output[:, :, None, None]
        if self.layout == "tokens":
            grid = output[:, self.prefix :].transpose(1, 2)
            side = math.isqrt(grid.shape[2])
            return grid.reshape(*grid.shape[:2], side, side)
        if self.layout == "sequence":
            return output[:, self.prefix :].transpose(1, 2)[:, :, None]
        if self.layout == "sequence, channels first":
            return output[:, :, None, self.prefix :]
        return output


def tap_hook(
    kept: dict[str, Tensor], tap: str, place: Tap, module: str
) -> Callable[[nn.Module, object, Tensor], None]:
    """Return a forward hook that stores the map of a tap in `kept`; `module` is for errors.

    The hook raises ProtocolError if the module runs a second time.
    """

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        if tap in kept:
            raise ProtocolError(
                f"{module}, the module of tap {tap}, runs twice in one forward pass; use "
                "a separate module for each call"
            )
        kept[tap] = place.as_map(output)

    return keep


def masked(features: Tensor, mask: Tensor, prefix: int) -> Tensor:
    """Return the map [B, C, 1, L] of a sequence with zeros at its padding.

    `mask` [B, N] bool is True at real tokens. If it has the `prefix` tokens that the map lacks, it
    loses them too. If L is still not N, it is average-pooled to L, and a position that covers some
    padding is multiplied by its share of real tokens.
    """
    if mask.shape[1] == features.shape[3] + prefix:
        mask = mask[:, prefix:]
    share = functional.adaptive_avg_pool1d(mask.float()[:, None], features.shape[3])
    share = share[:, :, None].to(features.dtype)
    return (features * share).masked_fill(share == 0, 0.0)  # padding may be infinite or NaN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TapReading:
    """The teacher's output at one tap for a batch, without gradient.

    `features` [B, k, h, w] float, projected and scaled; `attention` [B, H, W] float, of length 1
    per image; `variance`, the teacher's total variance of `features` (summed over the k channels)
    on the images that the projection was fitted on. Raises ProtocolError unless it is above 0.
    """

    features: Tensor
    attention: Tensor
    variance: float

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ProtocolError(
                f"the variance of a tap must be above 0, got {self.variance}: the teacher's output "
                "there is the same for all images; remove the tap from --taps"
            )


def attention_map(features: Tensor) -> Tensor:
    """Return the attention map [B, H, W] of features [B, C, H, W], of length 1 per image.

    The mean over the channels of the squares (Zagoruyko and Komodakis 2017, with power 2), in
    float32 at least, since squares exceed the range of float16. A map of zeros stays zero.
    """
    precise = features.to(torch.promote_types(features.dtype, torch.float32))
    return unit_map(precise.square().mean(dim=1))


def matched(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps [B, C, H, W] pooled to the smaller height and width, in student's dtype."""
    height, width = map(min, student.shape[2:], teacher.shape[2:])
    return _pooled(student, height, width), _pooled(teacher.to(student.dtype), height, width)


def _pooled(features: Tensor, height: int, width: int) -> Tensor:
    if features.shape[2:] == (height, width):
        return features
    return functional.adaptive_avg_pool2d(features, (height, width))


def unit_map(maps: Tensor) -> Tensor:
    """Return maps [B, H, W], each scaled to length 1 as by `unit`."""
    return unit(maps.flatten(start_dim=1)).view_as(maps)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors along dimension 1 scaled to length 1; one without a direction becomes 0.

    Such a vector has no gradient, which would be of the order of 1 / SHORTEST: a map may be 0 at a
    position, or for an image, when all ReLUs of a narrow student are off there.
    """
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    directed = vectors.masked_fill(length <= SHORTEST, 0.0)
    return directed / length.clamp(min=SHORTEST)
