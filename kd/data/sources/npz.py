"""Arrays in an .npz file, with their labels and perhaps their splits.

`kd.data.reading.named` has the names of the arrays, `kd.data.reading.arrays` their shapes.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd.data.reading.files import listing_of
from kd.data.reading.images import one_line
from kd.data.reading.named import Names
from kd.data.reading.source import Progress, Reading, Source
from kd.errors import DataError

PATH = "arrays.npz"
FITTED = True


def read(place: Path, how: Reading, progress: Progress) -> Source:
    """Return all examples of a file. Raises DataError for one that is damaged, holds objects, or
    lacks inputs or labels.
    """
    with _opened(place) as (file, names):
        return names.source(file, how)


def listing(place: Path, how: Reading) -> str:
    """Return a digest of the file's path, size and time."""
    return listing_of(place, [_existing(place)])


def origins(place: Path, how: Reading) -> dict[str, str]:
    """Return the array that each part comes from, by the part: {"test": "test_images"}."""
    with _opened(place) as (file, names):
        return names.origins(file)


def passed_over(place: Path, how: Reading) -> str:
    """Return one sentence on the arrays that are not read; empty if there are none."""
    with _opened(place) as (_, names):
        return f"passed over in {place}: {', '.join(names.others)}" if names.others else ""


def _existing(place: Path) -> Path:
    if not place.is_file():
        raise DataError(f"npz:PATH must name an existing .npz file, got {str(place)!r}")
    return place


DAMAGED = (
    *(ValueError, TypeError, IndexError, KeyError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


class _Arrays(Mapping[str, NDArray[Any]]):
    """The arrays of an open file. Raises ValueError for a member that is none."""

    def __init__(self, file: Mapping[str, Any]) -> None:
        self._file = file

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._file[name]
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is no array")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


@contextmanager
def _opened(place: Path) -> Iterator[tuple[Mapping[str, NDArray[Any]], Names]]:
    """Open a file whose arrays are read when they are asked for. Raises DataError."""
    try:
        with _existing(place).open("rb") as raw:  # which numpy leaves open for a damaged file
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{str(place)!r} holds one array: write an .npz with np.savez")
            with file:
                yield _Arrays(file), Names.of(list(file), repr(str(place)))
    except DAMAGED as error:
        raise DataError(f"{str(place)!r} cannot be read as .npz ({one_line(error)})") from error
    except MemoryError as error:
        raise DataError(f"the arrays of {str(place)!r} do not fit in memory") from error
