"""Decode and resize images on several threads, into a file that a later process continues.

A data set may be larger than memory: its images lie in a file, which is mapped at the end.
"""

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from kd.data.reading.images import BLOCK, one_line
from kd.data.reading.source import Progress, Reading, Source
from kd.errors import ArtifactError, DataError

RECORDED = 32  # blocks, after which the record of finished ones is written

Decode = Callable[[int], NDArray[Any]]  # an image [C, H, W] by its row


@dataclass(slots=True)
class _Record:
    """How far decoding has come: images `done` from the first on, and the rows of bad ones.

    `moved` tells whether the images behind a bad one have moved up to its row.
    """

    path: Path | None
    done: int = 0
    refused: list[int] = field(default_factory=list)
    moved: bool = False

    def read(self) -> None:
        """Take up what an earlier process has recorded, if anything; begin anew if damaged."""
        if self.path and self.path.exists():
            with suppress(ValueError, TypeError):
                self.done, self.refused, self.moved = json.loads(self.path.read_text())

    def write(self, done: int, refused: list[int], *, moved: bool = False) -> None:
        """Record what is on disk by now."""
        self.done, self.refused, self.moved = done, refused, moved
        if self.path:
            temporary = self.path.with_suffix(".tmp")
            with temporary.open("w") as file:
                json.dump([done, refused, moved], file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)

    def forget(self) -> None:
        """Let the next process begin anew."""
        if self.path:
            self.path.unlink(missing_ok=True)


def decoded(
    shape: tuple[int, ...], kind: DTypeLike, decode: Decode, how: Reading, progress: Progress
) -> tuple[NDArray[Any], list[int]]:
    """Return images [N, C, H, W], mapped from a file, and the rows that `decode` refuses.

    If bad images are skipped, the images are without these rows. `decode` is called on several
    threads; for a bad image it raises DataError. The file lies in the `scratch` folder of `how`,
    where an interrupted call is continued, or else is a temporary one. Raises ArtifactError when it
    cannot be written.
    """
    count, size = shape[0], prod(shape[1:]) * np.dtype(kind).itemsize
    with ExitStack() as files:
        file, record = _opened(how.scratch, files)
        refused = set(record.refused)

        def write_block(start: int) -> int:
            end = min(start + BLOCK, count)
            for row in range(start, end):
                try:
                    image = np.ascontiguousarray(decode(row)).tobytes()
                except DataError:
                    refused.add(row)
                    image = bytes(size)  # a hole would need room when other images move there
                _write_whole(file, image, row * size)
            return end

        pool = ThreadPoolExecutor(how.threads)
        try:
            file.truncate(count * size)
            ends = pool.map(write_block, range(record.done, count, BLOCK))
            for number, end in enumerate(ends, start=1):
                progress(end, count)
                if number % RECORDED == 0:
                    os.fsync(file.fileno())
                    so_far = sorted(refused.copy())  # threads add to it
                    record.write(end, [row for row in so_far if row < end])
            if not record.moved:
                os.fsync(file.fileno())
                record.write(count, sorted(refused))
        except OSError as error:
            place = how.scratch or tempfile.gettempdir()
            raise ArtifactError(
                f"decoded images cannot be written to {place}: {one_line(error)}; they take "
                f"{count * size / 1e9:.1f} GB: make room, and run the same command again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        images = np.memmap(file, np.dtype(kind), "r+", shape=shape)
        moved_up = refused and how.skip_bad
        kept = _moved_up(images, record) if moved_up else np.asarray(images)
    return kept, record.refused


def resized(source: Source, how: Reading, progress: Progress) -> Source:
    """Return the source with every image in the size of `how`, bilinear and antialiased.

    Arrays that are not images are unchanged. Pillow resizes rather than torch, because its integer
    arithmetic gives the same bytes on every machine.
    """
    if not source.are_images or source.inputs.shape[-1] == how.size:
        return source
    inputs, size = source.inputs, (how.size, how.size)

    def resize(row: int) -> NDArray[Any]:
        planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in inputs[row])
        resized = (plane.resize(size, Image.Resampling.BILINEAR) for plane in planes)
        return np.stack([np.asarray(plane) for plane in resized])

    images, _ = decoded((*inputs.shape[:2], *size), inputs.dtype, resize, how, progress)
    return replace(source, inputs=images)


def _write_whole(file: IO[bytes], data: bytes, offset: int) -> None:
    """Write all of `data`: near the end of a disk, one call may write a part and succeed."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file.fileno(), rest, offset)
        rest, offset = rest[written:], offset + written


def _moved_up(images: np.memmap[Any, Any], record: _Record) -> NDArray[Any]:
    """Return images without the bad ones, in place of which the others move up, once."""
    kept = np.delete(np.arange(len(images)), record.refused)
    if not record.moved:
        record.forget()  # what is half moved is decoded again
        for start in range(record.refused[0], len(kept), BLOCK):
            rows = kept[start : start + BLOCK]
            images[start : start + len(rows)] = images[rows]
        images.flush()
        record.write(len(images), record.refused, moved=True)
    return np.asarray(images[: len(kept)])


def _opened(scratch: Path | None, files: ExitStack) -> tuple[IO[bytes], _Record]:
    """Return the file of decoded images, and the record of how far it goes."""
    if scratch is None:
        return files.enter_context(tempfile.TemporaryFile()), _Record(None)
    scratch.mkdir(parents=True, exist_ok=True)
    place, record = scratch / "images", _Record(scratch / "record.json")
    if place.exists():
        record.read()
    return files.enter_context(place.open("r+b" if place.exists() else "w+b")), record
