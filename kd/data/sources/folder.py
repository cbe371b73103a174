"""Images of your own in one folder per class.

torchvision's ImageFolder layout, read into one array:

    PATH/train/<class>/…, PATH/val/<class>/…, PATH/test/<class>/…    splits of the folder's own
    PATH/<class>/…                                                  all images, to be split

A missing val/ or test/ split is drawn. Splits may have the names in `kd.data.reading.parts`, such
as Train or dev.

As with ImageFolder, images become RGB without an alpha channel, classes and files are sorted by
name, and files of other kinds are skipped. Hidden files and folders, images outside of classes and
folders beside train/ are skipped too; `passed_over` counts all of these. Unlike ImageFolder, this
is an error: links that leave the folder, unless they are to be followed, classes that differ
between splits, classes named like splits, images so large that Pillow warns, and images of 16 bits
among others of 8, which Pillow would clip: where most have 16, all are grey. Images are rotated by
their EXIF tag. A name with an accent is one class, whichever way the file system stores it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd.data.reading.files import (
    EXTENSIONS,
    IMAGE_ENDINGS,
    by_ending,
    counted,
    is_image,
    left_out,
    listing_of,
    printable,
    read_images,
)
from kd.data.reading.parts import check_classes, class_name, is_split_name, part_of
from kd.data.reading.source import Progress, Reading, Source
from kd.errors import DataError

PATH = "photos"
FITTED = True
IMAGES = True

DEEPEST = 100  # levels of nested folders
SHOWN, LONGEST = 2, 40  # paths of a kind, and letters of a path, in the line on what is not read


def read(place: Path, how: Reading, progress: Progress) -> Source:
    """Return every image of a folder as [3, size, size].

    Raises DataError, naming the file or folder, for a layout that is not one of the above, a link
    that leaves the folder, and an image that cannot be read completely.
    """
    listing = _list_folder(place, how)
    sizes = [[len(paths) for paths in of_class] for of_class in listing.parts.values()]
    labels = np.tile(np.arange(len(listing.classes)), len(sizes))
    images, kept = read_images(listing.paths, how, progress)
    return Source(
        inputs=images,
        labels=np.repeat(labels, np.concatenate(sizes))[kept],
        classes=listing.classes,
        part=np.repeat(list(listing.parts), list(map(sum, sizes)))[kept],
        deep=images.dtype == np.float32,
        left_out=left_out(listing.paths, kept, place),
    )


def listing(place: Path, how: Reading) -> str:
    """Return a digest of the folder's path and of its images' names, sizes and times."""
    return listing_of(place, _list_folder(place, how).paths)


def origins(place: Path, how: Reading) -> dict[str, str]:
    """Return the folder that each part comes from, by the part: {"validation": "dev/"}."""
    return {part: f"{name}/" for part, name in _list_folder(place, how).folders.items()}


def passed_over(place: Path, how: Reading) -> str:
    """Return one line on what `read` skips, short also for large folders; empty if it is nothing.

    Folders have their number of images, files are counted. Paths are relative to `place`. Folders
    inside a class folder are read as part of the class; those that are named like a split are
    mentioned as well.
    """
    listing = _list_folder(place, how)
    read = set(listing.paths)
    within = {folder for path in read for folder in path.parents if folder.is_relative_to(place)}
    unread = dict(_unread(place, place, read, within))
    parts = []
    if unread:
        splits = any(is_split_name(path.name) and unread[path] is not None for path in unread)
        hint = "; splits are read if named train, val, valid, validation, dev or test" * splits
        parts.append(f"passed over in {printable(str(place))}: {_counts(unread, place)}{hint}")
    own = {place, *(place / name for name in listing.folders.values())}
    nested = sorted(path for path in within if is_split_name(path.name) and path not in own)
    if nested:
        parts.append(f"read as parts of their class: {_first(nested, place)}")
    return "; ".join(parts)


def _unread(
    folder: Path, place: Path, read: set[Path], within: set[Path]
) -> Iterator[tuple[Path, int | None]]:
    """Yield what is not read: files, and with their number of images folders that are hidden or
    beside train/, as a whole.
    """
    for path in folder.iterdir():
        if path in read:
            continue
        if not path.is_dir():
            yield path, None
        elif path in within or (folder != place and not path.name.startswith(".")):
            yield from _unread(path, place, read, within)
        else:
            walked = [] if path.is_symlink() else os.walk(path)
            within_it = (name for _, _, names in walked for name in names)
            visible = (name for name in within_it if not name.startswith("."))
            yield path, sum(is_image(name, IMAGE_ENDINGS) for name in visible)


def _counts(unread: dict[Path, int | None], place: Path) -> str:
    """Return the words on what is not read: files, and folders with their number of images."""
    folders, outside, others = dict[Path, int](), list[Path](), list[str]()
    hidden = {"hidden file": 0, "hidden folder": 0}
    for path, images in unread.items():
        if images or (images == 0 and not path.name.startswith(".")):
            folders[path] = images
        elif path.name.startswith("."):
            hidden["hidden file" if images is None else "hidden folder"] += 1
        elif is_image(path.name):
            outside.append(path)
        else:
            others.append(path.name)
    files = {**by_ending(others), **hidden}
    words = _of_folders(folders, place)
    words += [counted(count, kind) for kind, count in files.items() if count]
    if outside:
        names = _first(sorted(outside), place)
        words.append(f"{counted(len(outside), 'image')} outside of classes ({names})")
    return ", ".join(words)


def _of_folders(folders: dict[Path, int], place: Path) -> list[str]:
    """Return names and numbers of images of folders, those with most first."""
    order = sorted(folders, key=lambda path: (-folders[path], path))
    words = [f"{_name(path, place)} ({counted(folders[path], 'image')})" for path in order[:SHOWN]]
    more, images = len(order) - SHOWN, sum(folders[path] for path in order[SHOWN:])
    if more > 0:
        words.append(f"{counted(more, 'more folder')} ({counted(images, 'image')})")
    return words


def _first(paths: list[Path], place: Path) -> str:
    names = ", ".join(_name(path, place) for path in paths[:SHOWN])
    return names + f" and {len(paths) - SHOWN:,} more" * (len(paths) > SHOWN)


def _name(path: Path, place: Path) -> str:
    """Return a path below `place` for a message: its last letters, and of a folder a slash."""
    text = printable(f"{path.relative_to(place)}{'/' * path.is_dir()}")
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


@dataclass(frozen=True, slots=True)
class _Listing:
    """Image files by part, as in `Source`, and by class; and the names of the parts' folders."""

    classes: tuple[str, ...]
    parts: dict[str, list[list[Path]]]
    folders: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        return [path for of_class in self.parts.values() for paths in of_class for path in paths]


def _list_folder(root: Path, how: Reading) -> _Listing:
    if not root.is_dir():
        raise DataError(f"folder:PATH must name an existing folder, got {str(root)!r}")
    tree = _Tree(root, how.follow_links)
    splits = tree.splits()
    if not splits:
        classes, images = tree.by_class(root)
        _check_apart([images])
        return _Listing(classes, {"": images})
    classes, train = tree.by_class(root / splits[""])
    parts = {"": train}
    for part, name in splits.items():
        if not part:
            continue
        theirs, parts[part] = tree.by_class(root / name)
        if classes != theirs:
            ours = splits[""]
            raise DataError(
                f"{ours}/ and {name}/ of {str(root)!r} must hold the same classes, got only in "
                f"{ours}/: {sorted({*classes} - {*theirs})}, only in {name}/: "
                f"{sorted({*theirs} - {*classes})}"
            )
    _check_apart([*parts.values()])
    return _Listing(classes, parts, splits)


@dataclass(frozen=True, slots=True)
class _Tree:
    """What is below `root`; with `links`, links may lead anywhere."""

    root: Path
    links: bool

    def splits(self) -> dict[str, str]:
        """Return the folder of each part; empty if the folder has no splits.

        Raises DataError for two folders of one part, and for splits without one for training.
        """
        found: dict[str, list[str]] = {}
        filled = dict[str, str]()  # with a folder for each class
        for name in self.folders(self.root):
            part = part_of(name)
            if part is not None:
                found.setdefault(part, []).append(name)
                if self.folders(self.root / name):
                    filled[part] = name
        if not filled:
            return {}
        for part, names in found.items():
            if len(names) > 1:
                listed = " and ".join(f"{name}/" for name in names)
                raise DataError(
                    f"{str(self.root)!r} must hold one folder for {part or 'training'}, got "
                    f"{listed}: merge them, or move one elsewhere"
                )
        if "" not in filled:
            name = next(iter(filled.values()))
            raise DataError(
                f"{str(self.root)!r} holds {name}/ but no train/ with a folder for each class"
            )
        return {part: found[part][0] for part in ("", "validation", "test") if part in found}

    def by_class(self, folder: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
        """Return the names of the classes, and the images of each."""
        classes = sorted(self.folders(folder), key=class_name)
        if len(classes) < 2:
            loose = [path for path in self.entries(folder) if is_image(path.name)]
            which = f"{str(loose[0])!r} is not in a class folder: " if loose and not classes else ""
            raise DataError(
                f"{which}{str(folder)!r} must hold a folder of images for each of at least 2 "
                f"classes, got {classes}{self.remedy(folder, classes, loose)}"
            )
        check_classes(classes, folder)
        images = [self.images_under(folder / name) for name in classes]
        for name, paths in zip(classes, images, strict=True):
            if not paths:
                raise DataError(
                    f"class folder {str(folder / name)!r} holds no image "
                    f"({', '.join(EXTENSIONS)}); add images, or remove it"
                )
        return tuple(map(class_name, classes)), images

    def remedy(self, folder: Path, classes: list[str], loose: list[Path]) -> str:
        """Return the words on what else can be done about a folder of fewer than 2 classes."""
        if folder != self.root:
            part = part_of(folder.name)
            return f"; or move {folder.name}/ elsewhere: {part} images are drawn then" * bool(part)
        if classes and len(self.folders(folder / classes[0])) > 1:
            return f"; did you mean folder:{folder / classes[0]}?"
        instead = "; or list images and labels in a CSV file: --dataset csv:labels.csv"
        return instead * bool(loose and not classes)

    def folders(self, folder: Path) -> list[str]:
        return [path.name for path in self.entries(folder) if path.is_dir()]

    def images_under(self, folder: Path, above: tuple[str, ...] = ()) -> list[Path]:
        """Return the image files in a folder and its subfolders; other files are skipped.

        `above` are the real paths of the folders that it is in: links may lead back to one.
        """
        if (real := os.path.realpath(folder)) in above:
            raise DataError(
                f"{str(folder)!r} leads back by a link to a folder that it is in; remove the link"
            )
        if len(folder.relative_to(self.root).parts) > DEEPEST:
            raise DataError(
                f"{str(self.root)!r} holds folders in folders, more than {DEEPEST} deep"
            )
        images = []
        for path in self.entries(folder):
            if path.is_dir():
                images += self.images_under(path, (*above, real))
            elif is_image(path.name):
                if not path.is_file():
                    raise DataError(f"{str(path)!r} is not a file; remove it")
                images.append(path)
        return images

    def entries(self, folder: Path) -> list[Path]:
        """Return the entries of a folder, sorted by name, without hidden ones."""
        visible = (path for path in folder.iterdir() if not path.name.startswith("."))
        paths = sorted(visible, key=lambda path: path.name)
        for path in paths:
            if path.is_symlink() and not self.links:
                self.check_link(path)
        return paths

    def check_link(self, path: Path) -> None:
        """Raise DataError for a link that leaves the folder, or leads to a folder."""
        instead = "replace it with a copy, or pass --follow-links"
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise DataError(
                f"{str(path)!r} is a symbolic link that leaves {str(self.root)!r}; {instead}"
            )
        if path.is_dir():  # could lead back up, or make test images of training images
            raise DataError(f"{str(path)!r} is a symbolic link to a folder; {instead}")


def _check_apart(parts: list[list[list[Path]]]) -> None:
    """Raise DataError for a file that links make two images: one could test the other."""
    seen: dict[str, Path] = {}
    for path in (path for part in parts for paths in part for path in paths):
        first = seen.setdefault(os.path.realpath(path), path)
        if first != path:
            raise DataError(f"{str(first)!r} and {str(path)!r} are one file: remove a link")
