"""Read image files: upright, square, and in RGB."""

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kd.data.reading.blocks import decoded
from kd.data.reading.images import Pixels, fitted, from_16_bits, one_line
from kd.data.reading.source import Progress, Reading
from kd.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DECODERS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # no other: Pillow's EPS runs a program
OTHER_IMAGES = (".gif", ".svg", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif")  # not read
IMAGE_ENDINGS = (*EXTENSIONS, *OTHER_IMAGES)
KINDS = 3  # number of endings that a message on skipped files has
NAMED = 5  # number of unreadable or skipped files that a message names
WIDE_OR_JOINING = re.compile("[\u00a0\u2000-\u200a\u200c\u200d\u202f\u3000]")


def is_image(name: str, endings: tuple[str, ...] = EXTENSIONS) -> bool:
    """Return whether a file's name ends as that of an image, by default of one that is read."""
    return Path(name).suffix.lower() in endings


def by_ending(names: Iterable[str]) -> dict[str, int]:
    """Return how many files there are of each kind: of images first, then those with most."""
    found = Counter(Path(name).suffix.lower() for name in names)
    plain = [ending for ending in found if re.fullmatch(r"\.[a-z0-9]{1,8}", ending)]
    order = sorted(plain, key=lambda ending: (ending not in OTHER_IMAGES, -found[ending], ending))
    kinds = {f"{ending} file": found[ending] for ending in order[:KINDS]}
    return {**kinds, "other file": found.total() - sum(kinds.values())}


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def printable(name: str) -> str:
    """Return a name as it stands on one line: quoted if it has letters that are not printed.

    Spaces of other scripts, and what joins letters or emoji, are printed.
    """
    return name if WIDE_OR_JOINING.sub("", name).isprintable() else repr(name)


def listing_of(place: Path, paths: Iterable[Path]) -> str:
    """Return a digest of a path, and of the names, sizes and times of files at or below it."""
    digest = hashlib.sha256(os.fsencode(place.resolve()))
    for path in paths:
        status = path.stat()
        digest.update(b"\0" + os.fsencode(os.path.relpath(path, place)))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def read_images(
    paths: list[Path], how: Reading, progress: Progress
) -> tuple[Pixels, NDArray[np.intp]]:
    """Return the images [N, 3, size, size] (see `square_pixels`), and the places of their paths.

    If two of the first, the middle and the last have 16 bits, all are grey, float32
    [N, 1, size, size] in 0-255.

    Raises DataError that names the files that cannot be read completely, unless these are left out.
    """
    some = (paths[0], paths[len(paths) // 2], paths[-1])
    deep = sum(map(_is_deep, some)) >= 2
    form = (len(paths), 1 if deep else 3, how.size, how.size)

    def decode(row: int) -> Pixels:
        return _read_image(paths[row], how, deep)

    Image.init()  # registers the decoders, which threads must not do at once
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # of metadata, and of alpha
        images, refused = decoded(form, np.float32 if deep else np.uint8, decode, how, progress)
        kept = np.delete(np.arange(len(paths)), refused)
        if refused and not (how.skip_bad and len(kept)):
            _refuse([paths[row] for row in refused], partial(decode, refused[0]))
    return images, kept


def _refuse(paths: list[Path], decode_first: Callable[[], object]) -> NoReturn:
    """Raise DataError for images that cannot be read."""
    try:
        decode_first()
    except DataError as error:
        if len(paths) == 1:
            raise
        named = ", ".join(repr(str(path)) for path in paths[:NAMED])
        more = " and others" * (len(paths) > NAMED)
        raise DataError(
            f"{len(paths)} images cannot be read: {named}{more}; repair or remove them, or pass "
            f"--skip-bad-images (the first: {error})"
        ) from error
    raise DataError(
        f"{str(paths[0])!r} could be read only the second time; run the same command again"
    )


def left_out(paths: list[Path], kept: NDArray[np.intp], place: Path) -> tuple[str, ...]:
    """Return the names, below `place`, of the images that could not be read."""
    names = [os.path.relpath(path, place) for path in np.delete(np.array(paths, object), kept)]
    return tuple(map(printable, names))


def _is_deep(path: Path) -> bool:
    """Whether a file has more than 8 bits a pixel; False for one that cannot be read."""
    try:
        with Image.open(path, formats=DECODERS) as file:
            return file.mode[0] == "I"
    except Exception:  # on hostile files Pillow raises almost anything; it is read again
        return False


def _read_image(path: Path, how: Reading, deep: bool) -> Pixels:
    try:
        with Image.open(path, formats=DECODERS) as file:
            return _deep_pixels(file, how) if deep else square_pixels(file, how)
    except Exception as error:  # on hostile files Pillow raises almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is none of {', '.join(DECODERS)}" if unknown else one_line(error)
        raise DataError(
            f"{str(path)!r} cannot be read as an image ({reason}); repair or remove it, or pass "
            "--skip-bad-images"
        ) from error


def _deep_pixels(image: Image.Image, how: Reading) -> NDArray[np.float32]:
    """Return a grey image of 16 or 8 bits [1, size, size], in 0-255."""
    values = np.asarray(ImageOps.exif_transpose(image))
    if (
        image.mode[0] not in "LI"
        or values.ndim != 2
        or values.dtype.kind not in "iu"
        or not values.min() >= 0
    ):
        raise ValueError(f"mode {image.mode} is not grey of 16 bits, as most images are")
    if values.max() > 65535:
        raise ValueError("more than 16 bits a pixel: convert it to 16")
    grey = values.astype(np.float32) if values.dtype == np.uint8 else from_16_bits(values)
    return np.asarray(fitted(Image.fromarray(grey), how))[None]


def square_pixels(image: Image.Image, how: Reading) -> NDArray[np.uint8]:
    """Return an image [3, size, size]: upright, in RGB and square.

    Raises ValueError for more than 8 bits a channel.
    """
    if image.mode == "F":
        raise ValueError(
            "mode F has floating-point numbers: convert it to 16 bits, or use npz:PATH"
        )
    if image.mode[0] == "I":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, which most have not")
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(fitted(upright, how)).transpose(2, 0, 1)
