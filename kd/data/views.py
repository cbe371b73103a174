"""Views: the augmentation of the whole training set for one epoch, a pure function of (seed, k).

The teacher cache and the students render the same view, pixel for pixel, so that what was cached
is what the teacher says of the very crop that the student sees (Beyer et al. 2021, 2106.05237).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from kd.protocol import Protocol
from kd.seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random crop after `padding` pixels of black on each side, flip, and an erased square."""

    padding: int
    flip: bool
    cutout: int

    @classmethod
    def of(cls, protocol: Protocol) -> Self:
        return cls(padding=protocol.crop_padding, flip=protocol.flip, cutout=protocol.cutout)


@dataclass(frozen=True, slots=True)
class View:
    """Augmentation parameters, one row an image: int64 [N], but for `flipped`, bool [N].

    `top` and `left` are the crop's corner in the padded image; `erased_top` and `erased_left` the
    corner of the erased square, which may lie partly outside the image.
    """

    top: Tensor
    left: Tensor
    flipped: Tensor
    erased_top: Tensor
    erased_left: Tensor

    def at(self, index: Tensor) -> "View":
        """Return the parameters of the images that `index` [B] names."""
        return View(*(getattr(self, name)[index] for name in self.__slots__))

    def to(self, device: torch.device) -> "View":
        return View(*(getattr(self, name).to(device) for name in self.__slots__))


def view(seed: int, k: int, count: int, image_size: int, augmentation: Augmentation) -> View:
    """Return view `k` of `count` images: the same for the same arguments, on every machine."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "view", k))

    def uniform(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    offsets = 2 * augmentation.padding + 1
    half = augmentation.cutout // 2
    return View(
        top=uniform(0, offsets),
        left=uniform(0, offsets),
        flipped=uniform(0, 2).bool() & augmentation.flip,
        erased_top=uniform(0, image_size) - half,
        erased_left=uniform(0, image_size) - half,
    )


def render(images: Tensor, rows: View, augmentation: Augmentation) -> Tensor:
    """Augment `images` [B, C, H, W] uint8 as `rows`, one row an image, say; the same shape back."""
    height, width = images.shape[-2:]
    if augmentation.padding:
        padded = functional.pad(images, [augmentation.padding] * 4)
        cut = _cut_on_cpu if padded.device.type == "cpu" else _cut
        images = cut(padded, rows.top, rows.left, height, width)
    if augmentation.flip:
        # Both ways behind each other, then whole images chosen: on a CPU a third of torch.where.
        both = torch.cat([images, images.flip(-1)])
        own = torch.arange(len(images), device=images.device)
        images = both.index_select(0, own + len(images) * rows.flipped)
    if augmentation.cutout:
        images = images * ~_erased(rows, augmentation.cutout, height, width)
    return images


def _cut(padded: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut the window at `top`, `left` [B] out of each image [B, C, H, W]."""
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(padded), device=padded.device), :, top, left]


def _cut_on_cpu(padded: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Do as `_cut`, in a third of its time: whole lines of a window are copied, not pixels.

    The windows at all places in memory, overlapping, are the rows of one tensor; those that begin
    at the corners are chosen. Other devices may have to write out such a tensor.
    """
    image, channel, line, pixel = padded.stride()
    channels = padded.shape[1]
    span = 1 + (channels - 1) * channel + (height - 1) * line + (width - 1) * pixel
    strides = (1, channel, line, pixel)
    windows = padded.as_strided((padded.numel() - span + 1, channels, height, width), strides)
    return windows.index_select(0, torch.arange(len(padded)) * image + top * line + left * pixel)


def _erased(rows: View, side: int, height: int, width: int) -> Tensor:
    """Return the mask [B, 1, H, W] of the erased squares."""
    device = rows.erased_top.device
    down = torch.arange(height, device=device) - rows.erased_top[:, None]
    across = torch.arange(width, device=device) - rows.erased_left[:, None]
    inside = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None]
    return inside[:, None]


def normalise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Turn uint8 [B, C, H, W] into float32; `mean`, `deviation` [C] are in units of 0-1 pixels."""
    scale = 1 / (255 * deviation)
    # In place, which saves the memory of a second batch and gives the same bits.
    return (images * scale[:, None, None]).sub_((mean / deviation)[:, None, None])
