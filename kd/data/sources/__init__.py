"""Sources: where a study's data come from, one file each.

`--dataset digits` selects a member, `--dataset folder:photos` one that takes a path. The first line
of a member's docstring is its help. A member may define these constants, which are read without
importing the file and so must be literals: PATH, an example of the path that it requires,
DOWNLOADED, True if its path may be omitted and is the folder of its download, FITTED, True if its
images may not be square, and IMAGES, True if it always returns images: then models of the user's
own are tried on images before the data are read.
"""

import typing
from pathlib import Path

from kd.data.reading.source import Progress, Reading, Source


class DataSource(typing.Protocol):
    """What a member's module offers."""

    def read(self, place: Path, how: Reading, progress: Progress) -> Source:
        """Return all images, square, in the size wanted or another: the caller resizes them.

        `place` is the path after the name, or else the root's folder for downloads. `progress` is
        called as images are read, if that takes long. Raises DataError, one line with the remedy.
        """


class ChangingSource(DataSource, typing.Protocol):
    """Optional functions of a member whose path may change its content."""

    def listing(self, place: Path, how: Reading) -> str:
        """Return a digest that changes whenever the result of `read` may change; read no image.

        Without this function, a data set is read only once, and its copy is never updated.
        """

    def passed_over(self, place: Path, how: Reading) -> str:
        """Return one sentence on what is skipped at the path; empty if nothing is."""

    def origins(self, place: Path, how: Reading) -> dict[str, str]:
        """Return what the parts that are not drawn are called at the path, by the part.

        Training is the empty part, as in `Source`: {"": "train/", "validation": "dev/"}.
        """
