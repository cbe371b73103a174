"""Images of your own in one folder per class.

torchvision's ImageFolder layout, read into one uint8 array:

    PATH/train/<class>/…, PATH/val/<class>/…, PATH/test/<class>/…    splits of the folder's own
    PATH/<class>/…                                                  all images, to be split

What is not there, val/ or test/, is drawn. The folder for validation may be named val, valid or
validation.

Read as ImageFolder reads them: RGB, an alpha channel dropped, classes and files in the order of
their names, files of other kinds passed over, and so are hidden ones and folders beside train/;
`passed_over` names them. What ImageFolder lets pass is refused: links that leave the folder,
classes that differ between the splits, classes that are named as splits are, images so large
that Pillow warns of them, and more than 8 bits a channel, which Pillow would clip. Images are
turned as their EXIF says.
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

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DECODERS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # no other: Pillow's EPS runs a program
PART_OF = {
    "train": "",  # validation and test may be drawn from it
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
DEEPEST = 100  # folders within one another
NAMED = 5  # files that cannot be read, or are passed over, of which a message gives the names
# Words of which the name of a split is made: at least one of the second kind.
FILLING = re.compile(r"data(set)?|dir|folder|images?|imgs?|part|private|public|sets?|split|.")
SPLIT = re.compile(
    r"train(s|ing|set|data|val)?|trn|test(s|ing|set|data)?|tst|val(s|set|id|idset|idate|idation)?|"
    r"dev(set|el|elopment)?|eval(s|set|uate|uation)?|(hold|held)out|folds?"
)


def read(place: Path, image_size: int, progress: Progress) -> Source:
    """Read every image of a folder as [3, image_size, image_size]: the centre square, resized.

    Raises DataError, naming the file or folder, for a layout that is not one of the above, a link
    that leaves the folder, and an image that cannot be read whole.
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
    """Say in one sentence what a folder holds that `read` does not read, if anything.

    Folders and files are named from `place`, those with most images first. A folder within the
    folder of a class is read, as a part of the class: that is said of one named as a split is.
    """
    read = set(_list_folder(place).paths)
    within = {folder for path in read for folder in path.parents if folder.is_relative_to(place)}
    found = sorted(_unread(place, read, within), key=lambda one: (-one[1], one[0]))
    parts = []
    if found:
        splits = any(is_split_name(path.name) and path.is_dir() for path, _ in found)
        hint = "; of splits only train/, val/ and test/ are read" * splits
        named = [_counted(_plain(path, place), images) for path, images in found]
        parts.append(f"passed over in {_plain(place)}: {_first(named)}{hint}")
    places = (place, *(place / name for name in PART_OF))
    nested = sorted(one for one in within if is_split_name(one.name) and one not in places)
    if nested:
        parts.append(f"read as parts of their class: {_first([_plain(n, place) for n in nested])}")
    return "; ".join(parts)


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)


def _unread(folder: Path, read: set[Path], within: set[Path]) -> Iterator[tuple[Path, int]]:
    """Yield every file and folder that is not read, whole folders as one, with its images."""
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
    """Write a path for a line, from `root` if given; with a slash behind a folder in it."""
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
    found = [name for name in PART_OF if name in folders]
    filled = [name for name in found if _folders(root / name, root)]
    if "train" not in filled:
        if filled:
            raise DataError(
                f"{str(root)!r} holds {filled[0]}/ but no train/ with a folder for each class"
            )
        classes, images = _by_class(root, root)
        return _Listing(classes, {"": images})
    for name in folders:
        if name not in found and name.lower() in PART_OF:
            raise DataError(
                f"{str(root)!r} holds {name}/ beside train/: name it {name.lower()}/ to have it "
                "read, or put it elsewhere"
            )
    classes, train = _by_class(root / "train", root)
    parts = {"": train}
    for name in found[1:]:
        if PART_OF[name] in parts:
            raise DataError(f"{str(root)!r} must hold one folder for validation, got {found}")
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
    found = [_images_under(folder / name, root) for name in classes]
    for name, paths in zip(classes, found, strict=True):
        if not paths:
            raise DataError(
                f"class folder {str(folder / name)!r} holds no image ({', '.join(EXTENSIONS)}); "
                "add images, or remove it"
            )
    return tuple(classes), found


def _check_classes(classes: list[str], folder: Path) -> None:
    """Raise DataError for classes that are named as splits are: they would be learned apart."""
    splits = [name for name in classes if is_split_name(name)]
    if splits:
        raise DataError(
            f"a class must not be named as a split is, got {splits} in {str(folder)!r}: write "
            "PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/ in lower case for "
            "splits (without val/ or test/ one is drawn), or rename what is a class, as in "
            f"{splits[0]}-class"
        )


def is_split_name(name: str) -> bool:
    """Whether a folder is named as a split of the data is: Train, test_set, val2017, hold-out."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    joined = re.sub(r"(?<![a-z])(hold|held)[\W_]+out", r"\1out", apart)
    words = [word for word in re.findall(r"[^\W\d_]+", joined) if not FILLING.fullmatch(word)]
    return bool(words) and all(map(SPLIT.fullmatch, words))


def _folders(folder: Path, root: Path) -> list[str]:
    return [path.name for path in _entries(folder, root) if path.is_dir()]


def _images_under(folder: Path, root: Path) -> list[Path]:
    """Return the image files of a folder and those within it; other files are passed over."""
    if len(folder.relative_to(root).parts) > DEEPEST:
        raise DataError(f"{str(root)!r} holds folders in folders, more than {DEEPEST} deep")
    found = []
    for path in _entries(folder, root):
        if path.is_dir():
            found += _images_under(path, root)
        elif path.suffix.lower() in EXTENSIONS:
            if not path.is_file():
                raise DataError(f"{str(path)!r} is not a file; remove it")
            found.append(path)
    return found


def _entries(folder: Path, root: Path) -> list[Path]:
    """Return what a folder holds in the order of names, but for what is hidden."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(visible, key=lambda path: path.name)
    for path in paths:
        if path.is_symlink():
            _check_link(path, root)
    return paths


def _check_link(path: Path, root: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{str(path)!r} is a symbolic link that leaves {str(root)!r}; put a copy in its place"
        )
    if path.is_dir():  # could lead back up, or make test images of training images
        raise DataError(f"{str(path)!r} is a symbolic link to a folder; put a copy in its place")


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
