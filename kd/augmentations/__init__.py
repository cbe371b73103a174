"""Augmentations: random changes of training images, one file each.

`--augment crop=4,flip` applies members in the order given, each at most once. The first line of a
member's docstring is its help and explains its value. It may define these constants, which are read
without importing the file and so must be literals:

    DEFAULT = 4                the default value; if it is a whole number, every value must be
                               one. Without DEFAULT the member takes no value.
    RANGE = (1, "image_size")  smallest and largest value; "image_size" is the side in pixels
    MIXES = True               it mixes an image with a partner (`Mixing`), and so comes last
    DEEP = True                it also takes images of float32, in the same range of 0-255
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


class Augmentation(typing.Protocol):
    """What a member's module offers: two pure functions.

    `value` is the number after the name, as in `crop=4`; 0 for a member that takes no value.
    """

    def draw(
        self, generator: Generator, count: int, shape: tuple[int, int, int], value: float
    ) -> dict[str, Tensor]:
        """Draw the random choices for `count` images of `shape` (C, H, W).

        Returns tensors on the CPU whose first dimension is `count`. All randomness comes from
        `generator`, so that the teacher and the students see the same images.
        """

    def apply(self, batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
        """Return `batch` [B, C, H, W] uint8 augmented as drawn, in the same shape and type.

        `drawn` has one row per image of the batch and is on its device. The batch itself must
        not change. Use integer arithmetic, so that every device computes the same pixels, whatever
        the division into batches.
        """


class Mixing(typing.Protocol):
    """What a member's module offers that mixes each image with another one, its partner."""

    def draw(
        self, generator: Generator, count: int, shape: tuple[int, int, int], value: float
    ) -> dict[str, Tensor]:
        """As `Augmentation.draw`, among others `partner` and `share`.

        `partner` [count] int64 is another row of the training split; `share` [count] float32, in
        0-1, is the share of its own label that an image keeps, and 1 - share that of its partner's.
        """

    def mix(
        self, batch: Tensor, partners: Tensor, drawn: Mapping[str, Tensor], value: float
    ) -> Tensor:
        """Return `batch` mixed with `partners`, both [B, C, H, W] uint8, in that shape and type.

        Both are augmented already, each as its own row. Otherwise as `Augmentation.apply`.
        """
