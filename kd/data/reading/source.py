"""A data set that was read, and how it is to be read."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from kd.errors import DataError

if typing.TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]  # images read, images in all
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a data set is read: images become squares of `size` pixels a side.

    `fit` is what happens to one that is not square: `crop` takes its centre square, `pad` puts it
    whole on a black square, `stretch` changes its proportions. With `follow_links`, symbolic links
    may lead out of a folder; with `skip_bad`, images that cannot be read are left out.

    Image files are decoded on several `threads`, into a file in the folder `scratch`, where an
    interrupted reading is continued; without it, into a temporary file.
    """

    size: int
    fit: str = "crop"
    follow_links: bool = False
    skip_bad: bool = False
    scratch: Path | None = field(default=None, compare=False)
    threads: int = field(default=1, compare=False)

    @property
    def identity(self) -> tuple[Any, ...]:
        """The values that decide what is read."""
        return tuple(getattr(self, one.name) for one in fields(self) if one.compare)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A complete data set: `inputs` [N, ...] and `labels` [N] int64.

    Inputs of uint8 are images [N, C, H, W] with H = W; so are those of float32 if `deep`, which
    have more than 8 bits, in the same range of 0-255. Arrays of other kinds, such as spectrograms
    or tokens, are float32 or int64, of any shape. Labels count from 0 in the order of `classes`,
    their names. `part` [N] str is the split of each example, if the data set defines one: train,
    validation, test, or empty if it may be drawn (see `kd.data.splits`); None means that all are
    empty. Raises DataError for other arrays.
    """

    inputs: NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    part: NDArray[np.str_] | None = None
    deep: bool = False
    left_out: tuple[str, ...] = ()  # files that cannot be read, where these are to be left out

    def __post_init__(self) -> None:
        count, *shape = self.inputs.shape
        if self.deep:
            fits = len(shape) == 3 and shape[1] == shape[2]
            self._check("inputs", fits, "float32 [N, C, H, H]")
        elif self.inputs.dtype.name in ("float32", "int64"):
            self._check("inputs", bool(shape), f"{self.inputs.dtype} [N, ...]")
        else:
            wanted = "uint8 [N, C, H, H], or float32 or int64 [N, ...]"
            self._check("inputs", len(shape) == 3 and shape[1] == shape[2], wanted)
        self._check("labels", self.labels.shape == (count,), f"int64 [{count}]")
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels must lie in 0-{len(self.classes) - 1}, one per class, "
                f"got {self.labels.min()}-{self.labels.max()}"
            )
        if self.part is not None:
            self._check("part", self.part.shape == (count,), f"str [{count}]")
            unknown = set(self.part.tolist()) - {*PARTS, ""}
            if unknown:
                raise DataError(f"part must be {', '.join(PARTS)} or empty, got {min(unknown)!r}")

    @property
    def are_images(self) -> bool:
        return self.deep or self.inputs.dtype.name == "uint8"

    @property
    def official(self) -> list[str]:
        """The parts that the data set defines itself."""
        return [] if self.part is None else [name for name in PARTS if (self.part == name).any()]

    def _check(self, name: str, fits: bool, wanted: str) -> None:
        array = getattr(self, name)
        kind = "str" if array.dtype.kind == "U" else array.dtype.name
        if not fits or kind != wanted.partition(" ")[0]:
            received = f"{kind} {list(array.shape)}"
            raise DataError(f"{name} of a data set must be {wanted}, got {received}")
