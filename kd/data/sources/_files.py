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

from kd.data.sources import Progress, Square
from kd.data.sources._images import BLOCK, allocate, fitted, one_line
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


def read_images(paths: list[Path], square: Square, progress: Progress) -> NDArray[np.uint8]:
    """Return the images [N, 3, size, size]; see `square_pixels`.

    Raises DataError that names the files that cannot be read completely.
    """
    images = allocate(len(paths), 3, square.size)
    refused: dict[int, DataError] = {}  # by the image's row

    def read_block(start: int) -> int:
        block = paths[start : start + BLOCK]
        for row, path in enumerate(block, start):
            try:
                images[row] = _read_image(path, square)
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


def _read_image(path: Path, square: Square) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=DECODERS) as file:
            return square_pixels(file, square)
    except Exception as error:  # on hostile files Pillow raises almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is none of {', '.join(DECODERS)}" if unknown else one_line(error)
        raise DataError(
            f"{str(path)!r} cannot be read as an image ({reason}); repair or remove it"
        ) from error


def square_pixels(image: Image.Image, square: Square) -> NDArray[np.uint8]:
    """Return an image [3, size, size]: upright, in RGB and square.

    Raises ValueError for more than 8 bits a channel.
    """
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel: convert it to 8")
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(fitted(upright, square)).transpose(2, 0, 1)
