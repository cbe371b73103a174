"""Sources: where a study's images come from, one file each.

`--dataset digits` names a member, `--dataset folder:photos` one that takes a path. A member's first
docstring line is its help. One that takes a path has the constant PATH, an example of such a path;
it is read without importing the file and so must be a literal. So is TAKES of a member that crops:
the part of an image that is resized, in words for the model card.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass

from kd.errors import DataError

if typing.TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]  # images read, images in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All images of a data set: `images` [N, C, H, W] uint8 with H = W, `labels` [N] int64.

    Labels count from 0 in the order of `classes`, their names. `test` [N] bool says which images
    are the test split that the data set comes with, if it has one. Raises DataError for other
    arrays.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    test: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count, *shape = self.images.shape
        self._check("images", len(shape) == 3 and shape[1] == shape[2], "uint8 [N, C, H, H]")
        self._check("labels", self.labels.shape == (count,), f"int64 [{count}]")
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels must lie in 0-{len(self.classes) - 1}, one per class, "
                f"got {self.labels.min()}-{self.labels.max()}"
            )
        if self.test is not None:
            self._check("test", self.test.shape == (count,), f"bool [{count}]")

    def _check(self, name: str, fits: bool, wanted: str) -> None:
        array = getattr(self, name)
        if not fits or array.dtype != wanted.partition(" ")[0]:
            received = f"{array.dtype} {list(array.shape)}"
            raise DataError(f"{name} of a data set must be {wanted}, got {received}")


class DataSource(typing.Protocol):
    """What a member's module offers."""

    def read(self, place: Path, image_size: int, progress: Progress) -> Source:
        """Read all images, in `image_size` or in a size of their own, from which they are resized.

        `place` is the path behind the name, or else the folder for downloads. `progress` is called
        as images are read, if that takes long. Raises DataError, one line that says what to do.
        """


class ChangingSource(DataSource, typing.Protocol):
    """What a member may offer beside `read`, since what lies at its path may change."""

    def listing(self, place: Path) -> str:
        """Return a digest that stays the same while `read` would return the same; read no image.

        Without it, what was read once is kept for good.
        """

    def passed_over(self, place: Path) -> str:
        """Describe in one sentence what at the path is not read; empty if there is nothing."""
