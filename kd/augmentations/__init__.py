"""Augmentations: random changes of training images, one file each.

`--augment crop=4,flip` applies members in the order given, each at most once. A member's first
docstring line is its help, and says what its value means. It may define these constants, which are
read without importing the file and so must be literals:

    DEFAULT = 4                the value where none is given; a whole number takes whole numbers
                               alone. Without DEFAULT the member takes no value.
    RANGE = (1, "image_size")  the least and the greatest value; "image_size" is the side in pixels
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


class Augmentation(typing.Protocol):
    """What a member's module offers: two pure functions.

    `value` is the number behind the name, as in `crop=4`; 0 for a member that takes none.
    """

    def draw(
        self, generator: Generator, count: int, shape: tuple[int, int, int], value: float
    ) -> dict[str, Tensor]:
        """Draw the random choices for `count` images of `shape` (C, H, W).

        Returns tensors on the CPU whose first dimension is `count`. All randomness comes from
        `generator`, so that the teacher and the students see the same images.
        """

    def apply(self, batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
        """Change `batch` [B, C, H, W] uint8 as drawn; the same shape and type back.

        `drawn` has one row per image of the batch and lies on its device. The batch itself must
        not change. Every device must compute the same pixels: integer arithmetic does.
        """
