"""Find the layout of an output [B, N, C] or [B, C, L]: tokens of a square grid, or a sequence.

Its shape does not tell where the channels are. Some layers do, and the last one that has received
or returned a tensor of this shape decides; without any, the channels come last.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from kd.data.inputs import Inputs
from kd.models.taps import Tap

FIRST = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
)
LAST = (nn.Linear, nn.Embedding)
NORMS = (nn.LayerNorm, nn.RMSNorm)  # over the last dimension, or over several
MOST_PREFIX = 8  # tokens without a position, where neither model nor grid gives their number


def channels_first(layer: nn.Module) -> bool | None:
    """Return whether a layer takes and returns [B, C, L]; None if it does not tell."""
    if isinstance(layer, FIRST):
        return True
    if isinstance(layer, LAST) or (isinstance(layer, NORMS) and len(layer.normalized_shape) == 1):
        return False
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """What tells the layouts of a model's outputs.

    `named` is the number of tokens without a position that the model gives, in `num_prefix_tokens`
    as timm's do, or None. `orders` has, by the shape of a tensor of three dimensions, whether its
    channels come first; it is complete after a pass.
    """

    inputs: Inputs
    named: int | None
    orders: Mapping[torch.Size, bool]

    @classmethod
    def of(cls, body: nn.Module, inputs: Inputs, orders: Mapping[torch.Size, bool]) -> "Sequences":
        named = getattr(body, "num_prefix_tokens", None)
        return cls(inputs, named if isinstance(named, int) else None, orders)

    def tap(self, path: str, shape: torch.Size, first: bool | None, grid: int) -> Tap | None:
        """Return the tap at an output of this shape; None for a map with flat positions.

        `first` is whether its channels come first, None if no layer told; `grid` the number of
        positions in the output of the last convolution over maps.
        """
        _, count, depth = shape
        if self._is_flat(count, depth, first, grid):
            return None
        if first:
            return Tap(path, "sequence, channels first", self._prefix(shape, depth, first))
        before = self._before_grid(count, grid) if self._side else None
        if before is not None:
            return Tap(path, "tokens", before)
        return Tap(path, "sequence", self._prefix(shape, count, first))

    @property
    def _side(self) -> int:
        """The side of images, or of arrays (C, H, H); 0 for arrays of another shape."""
        sides = self.inputs.shape[1:]
        return sides[0] if len(sides) == 2 and sides[0] == sides[1] else 0

    def _is_flat(self, count: int, depth: int, first: bool | None, grid: int) -> bool:
        """Return whether an output is a map [B, C, h w] with flat positions."""
        if not grid:  # of the input itself
            return first is None and (count, depth) == (self.inputs.shape[0], self._side**2)
        if depth != grid or count - grid in (0, 1):
            return False
        return first is None or (self._side > 0 and not self._has_named_grid(count))

    def _has_named_grid(self, count: int) -> bool:
        return self._side > 0 and self.named is not None and _is_square(count - self.named)

    def _before_grid(self, count: int, grid: int) -> int | None:
        """Return how many of `count` tokens stand before a square grid; None if there is none.

        The model gives their number, or the grid of the last convolution; else the grid is the
        largest that there is room for, unless there are as many tokens before it as in its row, or
        the tokens are the rows of the input. Two tokens are one position and one before it.
        """
        if self.named is not None and self._has_named_grid(count):
            return self.named
        if 0 <= count - grid < grid and _is_square(grid):
            return count - grid
        across = math.isqrt(count)
        before = count - across**2
        are_rows = 0 <= count - self._side <= MOST_PREFIX and self._side % across > 0
        fits = before < max(2, min(across, MOST_PREFIX + 1))
        return before if fits and not are_rows else None

    def _prefix(self, shape: torch.Size, length: int, first: bool | None) -> int:
        """Return how many of the `length` tokens of a sequence belong to no position.

        The model gives their number, for all but the outputs that lack them: other outputs are
        longer by this number. Else it is the surplus over the length of the input.
        """
        if self.named is not None:
            longer = list(shape)
            longer[2 if first else 1] += self.named
            lacks = self.named > 0 and torch.Size(longer) in self.orders
            return 0 if lacks else max(0, min(self.named, length - 1))
        surplus = length - self._input_length(shape[0], length, first)
        return surplus if 0 <= surplus <= MOST_PREFIX else 0

    def _input_length(self, batch: int, length: int, first: bool | None) -> int:
        """Return the length of an input; `length`, which leaves no surplus, where it is unknown."""
        given = self.inputs.shape
        if len(given) > 2:
            return self._side or length
        told = self.orders.get(torch.Size((batch, *given)))
        if told is None and length in given:
            return length
        return given[-1] if (first if told is None else told) else given[0]


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
