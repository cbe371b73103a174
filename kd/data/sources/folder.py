"""Images of your own in one folder per class.

torchvision's ImageFolder layout, read into one uint8 array:

    PATH/train/<class>/…, PATH/val/<class>/…, PATH/test/<class>/…    splits of the folder's own
    PATH/<class>/…                                                  all images, to be split

A missing val/ or test/ split is drawn. The validation folder may be named val, valid or validation.

As with ImageFolder, images become RGB without an alpha channel, classes and files are sorted by
name, and files of other kinds are skipped. Hidden files and folders beside train/ are skipped too;
`passed_over` reports them. Unlike ImageFolder, this is an error: links that leave the folder,
classes that differ between splits, classes named like splits, images so large that Pillow warns,
and more than 8 bits per channel, which Pillow would clip. Images are rotated by their EXIF tag.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kd.data.sources import Progress, Source
from kd.data.sources._images import BLOCK, allocate, one_line
from kd.errors import DataError

PATH = "photos"
TAKES = "the centre square of each image"
IMAGES = True

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DECODERS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # no other: Pillow's EPS runs a program
PART_OF = {
    "train": "",  # validation and test may be drawn from it
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
DEEPEST = 100  # levels of nested folders
NAMED = 5  # number of unreadable or skipped files that a message names
# Words in the names of splits; such a name has at least one of the second pattern.
FILLING = re.compile(r"data(set)?|dir|folder|images?|imgs?|part|private|public|sets?|split|.")
SPLIT = re.compile(
    r"train(s|ing|set|data|val)?|trn|test(s|ing|set|data)?|tst|val(s|set|id|idset|idate|idation)?|"
    r"dev(set|el|elopment)?|eval(s|set|uate|uation)?|(hold|held)out|folds?"
)


def read(place: Path, image_size: int, progress: Progress) -> Source:
    """Return every image of a folder as [3, image_size, image_size]: the centre square, resized.

    Raises DataError, naming the file or folder, for a layout that is not one of the above, a link
    that leaves the folder, and an image that cannot be read completely.
    """
    listing = _list_folder(place)
    sizes = [[len(paths) for paths in of_class] for of_class in listing.parts.values()]
    labels = np.tile(np.arange(len(listing.classes)), len(sizes))
    return Source(
        inputs=_read_images(listing.paths, image_size, progress),
        labels=np.repeat(labels, np.concatenate(sizes)),
        classes=listing.classes,
        part=np.repeat(list(listing.parts), list(map(sum, sizes))),
    )


def listing(place: Path) -> str:
    """Return a digest of the folder's path and of its images' names, sizes and times."""
    digest = hashlib.sha256(os.fsencode(place.resolve()))
    for path in _list_folder(place).paths:
        status = path.stat()
        digest.update(b"\0" + os.fsencode(path.relative_to(place)))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def passed_over(place: Path) -> str:
    """Return one sentence on the files and folders that `read` skips; empty if there are none.

    Paths are relative to `place`, those with most images first. Folders inside a class folder are
    read as part of the class; those that are named like a split are mentioned as well.
    """
    read = set(_list_folder(place).paths)
    within = {folder for path in read for folder in path.parents if folder.is_relative_to(place)}
    skipped = sorted(_unread(place, read, within), key=lambda entry: (-entry[1], entry[0]))
    parts = []
    if skipped:
        splits = any(is_split_name(path.name) and path.is_dir() for path, _ in skipped)
        hint = "; of splits only train/, val/ and test/ are read" * splits
        named = [_counted(_plain(path, place), images) for path, images in skipped]
        parts.append(f"passed over in {_plain(place)}: {_first(named)}{hint}")
    places = (place, *(place / name for name in PART_OF))
    nested = sorted(path for path in within if is_split_name(path.name) and path not in places)
    if nested:
        parts.append(f"read as parts of their class: {_first([_plain(n, place) for n in nested])}")
    return "; ".join(parts)


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)


def _unread(folder: Path, read: set[Path], within: set[Path]) -> Iterator[tuple[Path, int]]:
    """Yield the files and top-most folders that are not read, with their number of images."""
    for path in folder.iterdir():
        if path in within:
            yield from _unread(path, read, within)
        elif path not in read and path.is_dir() and not path.is_symlink():
            names = (name for _, _, names in os.walk(path) for name in names)
            yield path, sum(map(_is_image, names))
        elif path not in read:
            yield path, int(_is_image(path.name))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS


def _plain(path: Path, root: Path | None = None) -> str:
    """Return a path for a message, relative to `root` if given; folders then end in a slash."""
    text = str(path if root is None else path.relative_to(root))
    text += "/" if root is not None and path.is_dir() else ""
    return text if text.isprintable() else repr(text)


def _counted(name: str, images: int) -> str:
    return f"{name} ({images} image{'s' * (images != 1)})" if name.endswith("/") else name


@dataclass(frozen=True, slots=True)
class _Listing:
    """Image files by part, as in `Source`, and by class."""

    classes: tuple[str, ...]
    parts: dict[str, list[list[Path]]]

    @property
    def paths(self) -> list[Path]:
        return [path for of_class in self.parts.values() for paths in of_class for path in paths]


def _list_folder(root: Path) -> _Listing:
    if not root.is_dir():
        raise DataError(f"folder:PATH must name an existing folder, got {str(root)!r}")
    folders = _folders(root, root)
    splits = [name for name in PART_OF if name in folders]
    filled = [name for name in splits if _folders(root / name, root)]
    if "train" not in filled:
        if filled:
            raise DataError(
                f"{str(root)!r} holds {filled[0]}/ but no train/ with a folder for each class"
            )
        classes, images = _by_class(root, root)
        return _Listing(classes, {"": images})
    for name in folders:
        if name not in splits and name.lower() in PART_OF:
            raise DataError(
                f"{str(root)!r} holds {name}/ beside train/: rename it to {name.lower()}/ to have "
                "it read, or move it elsewhere"
            )
    classes, train = _by_class(root / "train", root)
    parts = {"": train}
    for name in splits[1:]:
        if PART_OF[name] in parts:
            raise DataError(f"{str(root)!r} must hold one folder for validation, got {splits}")
        theirs, parts[PART_OF[name]] = _by_class(root / name, root)
        if classes != theirs:
            raise DataError(
                f"train/ and {name}/ of {str(root)!r} must hold the same classes, got only in "
                f"train/: {sorted({*classes} - {*theirs})}, only in {name}/: "
                f"{sorted({*theirs} - {*classes})}"
            )
    return _Listing(classes, parts)


def _by_class(folder: Path, root: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
    classes = _folders(folder, root)
    if len(classes) < 2:
        loose = [path for path in _entries(folder, root) if path.suffix.lower() in EXTENSIONS]
        which = f"{str(loose[0])!r} is not in a class folder: " if loose and not classes else ""
        raise DataError(
            f"{which}{str(folder)!r} must hold a folder of images for each of at least 2 classes, "
            f"got {classes}"
        )
    _check_classes(classes, folder)
    images = [_images_under(folder / name, root) for name in classes]
    for name, paths in zip(classes, images, strict=True):
        if not paths:
            raise DataError(
                f"class folder {str(folder / name)!r} holds no image ({', '.join(EXTENSIONS)}); "
                "add images, or remove it"
            )
    return tuple(classes), images


def _check_classes(classes: list[str], folder: Path) -> None:
    """Raise DataError for classes named like splits, which are more likely to be splits."""
    splits = [name for name in classes if is_split_name(name)]
    if splits:
        raise DataError(
            f"a class must not be named like a split, got {splits} in {str(folder)!r}: name "
            "splits PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/ in lower case "
            "(a missing val/ or test/ is drawn), or rename the class, for example to "
            f"{splits[0]}-class"
        )


def is_split_name(name: str) -> bool:
    """Return whether a folder's name is that of a split: Train, test_set, val2017, hold-out."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    joined = re.sub(r"(?<![a-z])(hold|held)[\W_]+out", r"\1out", apart)
    words = [word for word in re.findall(r"[^\W\d_]+", joined) if not FILLING.fullmatch(word)]
    return bool(words) and all(map(SPLIT.fullmatch, words))


def _folders(folder: Path, root: Path) -> list[str]:
    return [path.name for path in _entries(folder, root) if path.is_dir()]


def _images_under(folder: Path, root: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders; other files are skipped."""
    if len(folder.relative_to(root).parts) > DEEPEST:
        raise DataError(f"{str(root)!r} holds folders in folders, more than {DEEPEST} deep")
    images = []
    for path in _entries(folder, root):
        if path.is_dir():
            images += _images_under(path, root)
        elif path.suffix.lower() in EXTENSIONS:
            if not path.is_file():
                raise DataError(f"{str(path)!r} is not a file; remove it")
            images.append(path)
    return images


def _entries(folder: Path, root: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without hidden ones. Raises DataError."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(visible, key=lambda path: path.name)
    for path in paths:
        if path.is_symlink():
            _check_link(path, root)
    return paths


def _check_link(path: Path, root: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{str(path)!r} is a symbolic link that leaves {str(root)!r}; replace it with a copy"
        )
    if path.is_dir():  # could lead back up, or make test images of training images
        raise DataError(f"{str(path)!r} is a symbolic link to a folder; replace it with a copy")


def _read_images(paths: list[Path], image_size: int, progress: Progress) -> NDArray[np.uint8]:
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
            pixels: NDArray[np.uint8] = np.asarray(_square(file, image_size))
            return pixels.transpose(2, 0, 1)
    except Exception as error:  # on hostile files Pillow raises almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"it is none of {', '.join(DECODERS)}" if unknown else one_line(error)
        raise DataError(
            f"{str(path)!r} cannot be read as an image ({reason}); repair or remove it"
        ) from error


def _square(image: Image.Image, image_size: int) -> Image.Image:
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel: convert it to 8")
    image = ImageOps.exif_transpose(image)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    # cropped before resizing, so that a long thin image does not grow without bounds
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((image_size, image_size), Image.Resampling.BILINEAR)
