"""Taps: outputs of modules, read by hooks, and made comparable for feature losses.

What a student's map meets is the teacher's reading of a tap as the teacher cache keeps it: reduced
to few channels and positions, so that shards stay small. Maps of different size are pooled, by
averages, to the smaller of the two.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.errors import ProtocolError

SHORTEST = 1e-12  # a vector of at most this length has no direction


def tap_hook(kept: dict[str, Tensor], tap: str, module: str) -> Callable[..., None]:
    """Return a forward hook of the module of a tap, which puts its output into `kept`.

    It raises ProtocolError if the module, which errors call `module`, runs again.
    """

    def keep(layer: nn.Module, given: object, output: Tensor) -> None:
        if tap in kept:
            raise ProtocolError(
                f"{module}, the module of tap {tap}, runs twice in one forward pass; use a module "
                "for each place"
            )
        kept[tap] = output

    return keep


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TapReading:
    """What the teacher says at one tap of a batch; it carries no gradient.

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
                f"the variance of a tap must be above 0, got {self.variance}: the teacher says the "
                "same of every image there; leave the tap out"
            )

    def to(self, device: torch.device) -> "TapReading":
        return replace(self, features=self.features.to(device), attention=self.attention.to(device))


def attention_map(features: Tensor) -> Tensor:
    """Return the attention map [B, H, W] of features [B, C, H, W], of length 1 per image.

    The mean over the channels of the squares (Zagoruyko and Komodakis 2017, with power 2), in
    float32 at least, since squares leave the range of float16. A map of zeros stays one.
    """
    precise = features.to(torch.promote_types(features.dtype, torch.float32))
    return unit_map(precise.square().mean(dim=1))


def matched(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Pool two maps [B, C, H, W] to the smaller of their heights and widths, in student's dtype."""
    height, width = map(min, student.shape[2:], teacher.shape[2:])
    return _pooled(student, height, width), _pooled(teacher.to(student.dtype), height, width)


def _pooled(features: Tensor, height: int, width: int) -> Tensor:
    if features.shape[2:] == (height, width):
        return features
    return functional.adaptive_avg_pool2d(features, (height, width))


def unit_map(maps: Tensor) -> Tensor:
    """Bring each map of [B, H, W] to length 1, as `unit` does."""
    return unit(maps.flatten(start_dim=1)).view_as(maps)


def unit(vectors: Tensor) -> Tensor:
    """Bring vectors along dimension 1 to length 1; one without a direction becomes 0.

    It passes no gradient back, which would be of the order of 1 / SHORTEST: a map may be 0 at a
    position, or for an image, as soon as all of a narrow student's ReLUs are off there.
    """
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    directed = vectors.masked_fill(length <= SHORTEST, 0.0)
    return directed / length.clamp(min=SHORTEST)
