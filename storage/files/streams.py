"""Write safetensors files that need not fit into memory: arrays are appended chunk by chunk."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from storage.files.artifacts import replacing

TYPES = {
    "uint8": "U8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
}

Forms = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape of each array


@dataclass(slots=True)
class ArrayStream:
    """An open file, and where the next rows of each array belong in it."""

    _file: IO[bytes]
    _forms: Forms
    _next: dict[str, int]
    _ends: dict[str, int]

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write the next rows of an array.

        Raises ValueError for rows of another dtype or shape, and for more than the array has.
        """
        dtype, (_, *shape) = self._forms[name]
        end = self._next[name] + rows.nbytes
        if rows.dtype.name != dtype or list(rows.shape[1:]) != shape or end > self._ends[name]:
            received = f"{rows.dtype} {list(rows.shape)}"
            raise ValueError(f"{name} is {dtype} {list(self._forms[name][1])}, got rows {received}")
        self._file.seek(self._next[name])
        self._file.write(np.ascontiguousarray(rows).data)
        self._next[name] = end

    def check_whole(self) -> None:
        """Raise ValueError if an array lacks rows."""
        missing = [name for name, end in self._ends.items() if self._next[name] != end]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be written whole, and lack rows")


@contextmanager
def streaming(path: Path, forms: Forms) -> Iterator[ArrayStream]:
    """Yield the stream of a file that replaces `path` if the block succeeds.

    The block appends all rows of all arrays, which `forms` lists. The format is that of safetensors
    (a JSON header behind its length, then the arrays one behind another, those with the largest
    numbers first), without a note. Raises ArtifactError when the file cannot be written, and
    ValueError when rows are missing.
    """
    bytes_of = {name: np.dtype(dtype).itemsize for name, (dtype, _) in forms.items()}
    entries, starts, ends, offset = {}, {}, {}, 0
    for name in sorted(forms, key=lambda name: (-bytes_of[name], name)):
        dtype, shape = forms[name]
        starts[name] = offset
        offset = ends[name] = offset + bytes_of[name] * math.prod(shape)
        offsets = [starts[name], ends[name]]
        entries[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": offsets}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    first = 8 + len(header)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        stream = ArrayStream(
            file,
            forms,
            {name: first + start for name, start in starts.items()},
            {name: first + end for name, end in ends.items()},
        )
        yield stream
        stream.check_whole()
