"""Read image files: upright, square, and in RGB."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kd.data.sources import Progress
from kd.data.sources._images import BLOCK, allocate, one_line
from kd.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DECODERS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # no other: Pillow's EPS runs a program
NAMED = 5  # number of unreadable or skipped files that a message names


def is_image(name: str) -> bool:
    """Return whether a file's name ends as that of an image that is read."""
    return Path(name).suffix.lower() in EXTENSIONS


def listing_of(place: Path, paths: Iterable[Path]) -> str:
    """Return a digest of a path, and of the names, sizes and times of files at or below it."""
    digest = hashlib.sha256(os.fsencode(place.resolve()))
    for path in paths:
        status = path.stat()
        digest.update(b"\0" + os.fsencode(os.path.relpath(path, place)))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def read_images(paths: list[Path], image_size: int, progress: Progress) -> NDArray[np.uint8]:
    """Return the images [N, 3, image_size, image_size]; see `_read_image`.

    Raises DataError that names the files that cannot be read completely.
    """
    images = allocate(len(paths), 3, image_size)
    refused: dict[int, DataError] = {}  # by the image's row

    def read_block(start: int) -> int:
        block = paths[start : start + BLOCK]
        for row, path in enumerate(block, start):
            try:
                images[row] = _read_image(path, image_size)
            except DataError as error:
                refused[row] = error
        return start + len(block)

    Image.init()  # registers the decoders, which threads must not do at once
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # of metadata, and of alpha
        try:
            for done in pool.map(read_block, range(0, len(paths), BLOCK)):
                progress(done, len(paths))
        finally:
            pool.shutdown(cancel_futures=True)
    if len(refused) == 1:
        raise next(iter(refused.values()))
    if refused:
        rows = sorted(refused)
        named = ", ".join(repr(str(paths[row])) for row in rows[:NAMED])
        raise DataError(
            f"{len(rows)} images cannot be read: {named}{' and others' * (len(rows) > NAMED)}; "
            f"repair or remove them (the first: {refused[rows[0]]})"
        )
    return images


def _read_image(path: Path, image_size: int) -> NDArray[np.uint8]:
    """Return the image [3, image_size, image_size]: the centre square, resized."""
    try:
        with Image.open(path, formats=DECODERS) as file:
            return square_pixels(file, image_size)
    except Exception as error:  # on hostile files Pillow raises almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is none of {', '.join(DECODERS)}" if unknown else one_line(error)
        raise DataError(
            f"{str(path)!r} cannot be read as an image ({reason}); repair or remove it"
        ) from error


def square_pixels(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """Return an image [3, image_size, image_size]: upright, the centre square, resized.

    Raises ValueError for more than 8 bits a channel.
    """
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel: convert it to 8")
    image = ImageOps.exif_transpose(image)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    # cropped before resizing, so that a long thin image does not grow without bounds
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((image_size, image_size), Image.Resampling.BILINEAR))
    return pixels.transpose(2, 0, 1)
