"""Describe the inputs of a prepared data set: images or arrays, their shape and normalisation.

The description is stored in the data set's manifest. Networks normalise a batch with it; all other
code asks it, and does not assume that inputs are images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kd.data.reading.source import Source
from kd.errors import DataError
from kd.json_data import JsonData, from_wire

CHUNK = 2**22  # pixels, of all channels, that are counted at a time
LEVELS = {"uint8": 2**8, "float32": 2**16}  # values that a pixel may have, by the stored type


@dataclass(frozen=True, slots=True, kw_only=True)
class Images(JsonData):
    """Square images [N, C, H, W], stored as uint8, or as float32 in the same range of 0-255 if they
    have more than 8 bits; networks normalise them to float32.

    `shape` is (C, H, W). `mean` and `deviation` have one number per channel, computed on the
    training images, in units of 0-1 pixels. `kept` is the type of the stored values.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    kept: str = "uint8"

    are_images: ClassVar[bool] = True  # can be augmented, and shown in the report

    @classmethod
    def measured(
        cls, values: NDArray[np.uint8] | NDArray[np.float32], train: NDArray[np.int64]
    ) -> Self:
        """Describe `values` [N, C, H, W], of which the rows `train` are the training images."""
        mean, deviation = channel_statistics(values, train)
        return cls(
            shape=values.shape[1:],
            mean=tuple(mean),
            deviation=tuple(deviation),
            kept=values.dtype.name,
        )

    def __str__(self) -> str:
        deep = "" if self.kept == "uint8" else " of 16 bits"
        return f"images of {'x'.join(map(str, self.shape))}{deep}"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the stored values."""
        return torch.uint8 if self.kept == "uint8" else torch.float32

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def places(self) -> int:
        """Number of pixels of an image, to which a network's work is proportional."""
        return self.shape[1] * self.shape[2]

    def fitted(self, values: Tensor) -> Tensor:
        """Return a stored batch [B, C, H, W] in this size: bilinear, antialiased.

        Of uint8 images it has whole numbers. Values that have the size already are returned as
        they are.
        """
        if values.shape[2:] == self.shape[1:]:
            return values
        size = self.shape[1:]
        sized = functional.interpolate(values.float(), size, mode="bilinear", antialias=True)
        return sized.round() if self.kept == "uint8" else sized

    def normalise(self, values: Tensor) -> Tensor:
        """Return a stored batch in this size, as float32 with mean 0 and deviation 1.

        Raises RuntimeError, as a convolution does, for another number of channels: the constants
        would turn one channel into several.
        """
        if values.shape[-3] != self.channels:
            raise RuntimeError(f"expected {self}, got a batch of shape {list(values.shape)}")
        scale, shift = _constants(self, values.device)
        # In place, which saves the memory of a second batch and gives the same bits.
        return (self.fitted(values) * scale).sub_(shift)

    def exported(self, values: Tensor) -> Tensor:
        """Return a stored batch as the input of an exported student: bytes as pixels in 0-1."""
        fitted = self.fitted(values)
        return fitted / 255 if self.kept == "uint8" else fitted

    @property
    def exported_kind(self) -> str:
        """Type and range of what an exported student takes, in words."""
        deep = "255: those of 16 bits divided by 257"
        return f"float32, pixels in 0-{'1' if self.kept == 'uint8' else deep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays(JsonData):
    """Arrays [N, ...] of any shape, which reach a model's layers unchanged.

    `shape` is that of one example; `kept` is float32 or int64.
    """

    shape: tuple[int, ...]
    kept: str

    are_images: ClassVar[bool] = False

    @classmethod
    def measured(cls, values: NDArray[np.float32] | NDArray[np.int64]) -> Self:
        """Describe `values` [N, ...]. Raises DataError for none, or one that is not finite."""
        if not values.size:
            raise DataError(f"inputs of a data set must not be empty, got {list(values.shape)}")
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(high - low):
            raise DataError("inputs of a data set must be finite: replace NaN and infinity")
        return cls(shape=values.shape[1:], kept=values.dtype.name)

    def __str__(self) -> str:
        return f"arrays of {'x'.join(map(str, self.shape))} {self.kept}"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.kept == "float32" else torch.int64

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def places(self) -> int:
        """Number of values in a channel, or in an example without channels."""
        return math.prod(self.shape[1:] or self.shape)

    def fitted(self, values: Tensor) -> Tensor:
        """Return a stored batch as it is: arrays are not resized."""
        return values

    def normalise(self, values: Tensor) -> Tensor:
        """Return a copy, because a network may change its input."""
        return values.clone()

    def exported(self, values: Tensor) -> Tensor:
        """Return the input of an exported student: the stored values."""
        return values

    @property
    def exported_kind(self) -> str:
        """Type of what an exported student takes."""
        return self.kept


Inputs = Images | Arrays


def describe(source: Source, train: NDArray[np.int64]) -> Inputs:
    """Return the description of a source's inputs; the rows `train` are the training split."""
    if source.are_images:
        return Images.measured(cast(NDArray[np.uint8], source.inputs), train)
    return Arrays.measured(cast(NDArray[np.float32] | NDArray[np.int64], source.inputs))


def read_inputs(info: Mapping[str, Any]) -> Inputs:
    """Return the inputs of a prepared data set, from the `info` of its manifest."""
    inputs: Inputs = from_wire(info["inputs"], {"Images": Images, "Arrays": Arrays})
    return inputs


@cache
def _constants(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return factor and subtrahend [C, 1, 1]; cached, because copying to a device blocks.

    They are ordinary tensors even if the first call is in inference mode.
    """
    with torch.inference_mode(False):
        mean, deviation = (
            torch.tensor(numbers, device=device)[:, None, None]
            for numbers in (images.mean, images.deviation)
        )
        return 1 / (255 * deviation), mean / deviation


def channel_statistics(
    images: NDArray[np.uint8] | NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel of `images[rows]`, in units of 0-1 pixels.

    They are computed from counts of pixel values, and so to the same bit on every machine; those
    of float32 images are counted in 65,536 levels. A deviation is at least one level, since images
    are divided by it.
    """
    channels, levels = range(images.shape[1]), LEVELS[images.dtype.name]
    counts = np.zeros((len(channels), levels), np.int64)
    size = max(1, CHUNK // math.prod(images.shape[1:]))
    for start in range(0, len(rows), size):
        chunk: NDArray[Any] = images[rows[start : start + size]]
        if chunk.dtype != np.uint8:
            chunk = np.rint(chunk * ((levels - 1) // 255)).astype(np.int64)
        for channel in channels:
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=levels)
    shares = counts / counts.sum(1, keepdims=True)
    values = np.arange(levels) / (levels - 1)
    mean = (shares * values).sum(1)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.maximum(np.sqrt(variance), 1 / (levels - 1)).tolist()
