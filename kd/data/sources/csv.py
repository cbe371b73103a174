"""Image files that a CSV file lists, with their labels and perhaps their splits.

    path,label,split
    scans/0001.png,cat,train

The first row names the columns, in any order; others are passed over. Paths are relative to the
file's folder. Without a split, or where it is empty, an image is one for training, from which
missing splits are drawn. Images are read as those of a folder.
"""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd.data.reading.arrays import numbered
from kd.data.reading.files import NAMED, left_out, listing_of, printable, read_images
from kd.data.reading.images import one_line
from kd.data.reading.parts import part_of
from kd.data.reading.source import Progress, Reading, Source
from kd.errors import DataError

PATH = "labels.csv"
FITTED = True
IMAGES = True

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "target", "category"),
    "split": ("split", "part", "set", "subset"),
}


def read(place: Path, how: Reading, progress: Progress) -> Source:
    """Return every listed image as [3, size, size].

    Raises DataError for a file that is no such list, and for images that are missing, listed twice
    or cannot be read completely.
    """
    rows = _rows(place)
    labels, classes = numbered([np.array([row.label for row in rows])], ())
    paths = [row.path for row in rows]
    images, kept = read_images(paths, how, progress)
    return Source(
        inputs=images,
        labels=labels[kept],
        classes=classes,
        part=np.array([row.part for row in rows])[kept],
        deep=images.dtype == np.float32,
        left_out=left_out(paths, kept, place.parent),
    )


def listing(place: Path, how: Reading) -> str:
    """Return a digest of paths, sizes and times of the file and of the images."""
    return listing_of(place, [place, *(row.path for row in _rows(place))])


def origins(place: Path, how: Reading) -> dict[str, str]:
    """Return what the file calls each part, by the part: {"validation": "split dev"}."""
    found = {row.part: row.split for row in _rows(place) if row.split}
    return {part: f"split {split}" for part, split in found.items()}


def passed_over(place: Path, how: Reading) -> str:
    """Return one sentence on the columns that are not read; empty if there are none."""
    names, _ = _table(place)
    read = _columns(place, names).values()
    others = [name for name in names if name not in read]
    return f"passed over in {place}: {', '.join(map(printable, others))}" if others else ""


@dataclass(frozen=True, slots=True)
class _Row:
    """An image with its label, its part as in `Source`, and how the file calls that."""

    path: Path
    label: str
    part: str
    split: str


def _table(place: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and each row with the number of its line."""
    if not place.is_file():
        raise DataError(f"csv:PATH must name an existing CSV file, got {str(place)!r}")
    try:
        with place.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        remedy = "; save it as UTF-8" * isinstance(error, UnicodeDecodeError)
        message = f"{str(place)!r} cannot be read as CSV ({one_line(error)}){remedy}"
        raise DataError(message) from error
    return names, rows


def _columns(place: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the names of the columns path, label and split, the last only if there is one."""
    chosen = {}
    for what, known in COLUMNS.items():
        fitting = [name for name in names if name.lower() in known]
        if len(fitting) > 1:
            raise DataError(f"{str(place)!r} must have one column {what}, got {fitting}")
        if fitting:
            chosen[what] = fitting[0]
    if "path" not in chosen or "label" not in chosen:
        raise DataError(
            f"the first row of {str(place)!r} must name the columns path and label, and split if "
            f"there is one, got {', '.join(map(printable, names))[:200] or 'nothing'}"
        )
    return chosen


def _rows(place: Path) -> list[_Row]:
    names, lines = _table(place)
    columns = {what: names.index(name) for what, name in _columns(place, names).items()}
    rows = []
    for number, line in lines:
        if len(line) != len(names):
            raise DataError(
                f"{place}, line {number}: there must be {len(names)} values, got {len(line)}"
            )
        path, label, split = (
            line[columns[what]].strip() if what in columns else "" for what in COLUMNS
        )
        if not path or not label:
            raise DataError(f"{place}, line {number}: path and label must not be empty")
        part = part_of(split) if split else ""
        if part is None:
            raise DataError(
                f"{place}, line {number}: split must be train, validation, test or empty, got "
                f"{split!r}"
            )
        whole = Path(path).expanduser() if path.startswith("~/") else Path(path)
        rows.append(_Row(place.parent / whole, label, part, split))
    if not rows:
        raise DataError(f"{str(place)!r} lists no image")
    _check_files(place, [row.path for row in rows])
    return rows


def _check_files(place: Path, paths: Sequence[Path]) -> None:
    """Raise DataError for images that do not exist, or are listed more than once."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        named = ", ".join(repr(str(path)) for path in missing[:NAMED])
        more = " and others" * (len(missing) > NAMED)
        raise DataError(
            f"{len(missing)} of {len(paths)} images that {str(place)!r} lists do not exist: "
            f"{named}{more}; paths are relative to the file's folder"
        )
    [(path, times)] = Counter(map(os.path.realpath, paths)).most_common(1)
    if times > 1:  # perhaps in two splits
        raise DataError(f"{str(place)!r} must list an image once, got {path!r} {times} times")
