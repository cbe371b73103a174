"""Allocate and resize arrays of images."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from kd.data.reading.source import Reading
from kd.errors import DataError

Pixels = NDArray[np.uint8] | NDArray[np.float32]
BLOCK = 64  # images between two reports of progress


def fitted(image: Image.Image, how: Reading) -> Image.Image:
    """Return an image as a square, bilinear and antialiased.

    No step makes more than the image or the square has: a long thin image does not grow.
    """
    size, (width, height) = how.size, image.size
    if how.fit == "pad" and width != height:
        scale = size / max(width, height)
        inner = image.resize(
            (max(1, round(width * scale)), max(1, round(height * scale))),
            Image.Resampling.BILINEAR,
        )
        whole = Image.new(image.mode, (size, size))
        whole.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return whole
    if how.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def squared(images: Pixels, how: Reading) -> Pixels:
    """Return images [N, C, H, W] as [N, C, size, size]; each channel as `fitted`."""
    count, channels = images.shape[:2]
    found = allocate(count, channels, how.size, images.dtype)
    for row in range(count):
        for channel in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(images[row, channel]))
            found[row, channel] = np.asarray(fitted(plane, how))
    return found


def allocate(
    count: int, channels: int, image_size: int, kind: DTypeLike = np.uint8
) -> NDArray[Any]:
    """Return an uninitialised array [count, channels, size, size] or raise DataError."""
    shape = (count, channels, image_size, image_size)
    try:
        return np.empty(shape, kind)
    except MemoryError:
        raise DataError(
            f"{count} images of {channels}x{image_size}x{image_size} "
            f"{'bytes' if kind == np.uint8 else 'numbers'} do not fit in memory; "
            "use a smaller --image-size, or fewer images"
        ) from None


def from_16_bits(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return whole numbers of 0-65535 in the range of 8 bits: 65535 / 257 = 255."""
    return values.astype(np.float32) / np.float32(257)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
