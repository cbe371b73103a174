"""Views: the augmentation of the whole training set for one epoch, a pure function of (seed, k).

The teacher cache and the students render the same view, pixel for pixel, so that what was cached
is the teacher's output for the very pixels that the student sees (Beyer et al. 2021, 2106.05237).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from kd.augmentations import Augmentation
from kd.errors import WorkerError
from kd.names import AUGMENTATIONS, parse_augment
from kd.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Part:
    """One augmentation of a view: its module, its value, and what was drawn, one row per image."""

    member: Augmentation
    value: float
    drawn: dict[str, Tensor]

    def change(self, function: Callable[[Tensor], Tensor]) -> "Part":
        drawn = {name: function(tensor) for name, tensor in self.drawn.items()}
        return replace(self, drawn=drawn)


@dataclass(frozen=True, slots=True)
class View:
    """What was drawn for each image, for every augmentation in the order of application."""

    parts: tuple[Part, ...]

    def at(self, index: Tensor) -> "View":
        """Return the rows of the images that `index` [B] names."""
        return View(tuple(part.change(lambda drawn: drawn[index]) for part in self.parts))

    def to(self, device: torch.device) -> "View":
        return View(tuple(part.change(lambda drawn: drawn.to(device)) for part in self.parts))


def view(seed: int, k: int, images: Tensor, augment: str) -> View:
    """Return view `k` of `images` [N, C, H, W]: the same for the same arguments, on every machine.

    Only the shape of the images matters. `augment` is the protocol's. All augmentations draw from
    one generator, in the order of their names there.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "view", k))
    count, *shape = images.shape
    parts = []
    for name, value in parse_augment(augment, shape[-1]):
        member = cast(Augmentation, AUGMENTATIONS.load(name))
        number = 0 if value is None else value
        drawn = member.draw(generator, count, (shape[0], shape[1], shape[2]), number)
        parts.append(Part(member, number, drawn))
    return View(tuple(parts))


def augment_digest(augment: str, image_size: int) -> str:
    """Return the SHA-256 of what an augmentation makes of images of noise; empty for `none`.

    It covers what its members do, and not how they are written, as a search space's digest does: a
    comment leaves a cache as it is.
    """
    if augment == "none":
        return ""
    count = min(64, max(4, 2**18 // image_size**2))  # many, since a choice may be rare; but not GB
    images = torch.randint(
        256,
        (count, 3, image_size, image_size),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    changed = render(images, view(0, 0, images, augment))
    return hashlib.sha256(changed.numpy().tobytes()).hexdigest()


def render(images: Tensor, rows: View) -> Tensor:
    """Augment `images` [B, C, H, W] uint8 as `rows`, one row per image. Returns the same shape.

    Raises WorkerError for an augmentation that returns another type or shape.
    """
    for part in rows.parts:
        changed = part.member.apply(images, part.drawn, part.value)
        if changed.dtype != torch.uint8 or changed.shape != images.shape:
            raise WorkerError(
                f"{part.member} must return uint8 {list(images.shape)}, "
                f"got {changed.dtype} {list(changed.shape)}"
            )
        images = changed
    return images
