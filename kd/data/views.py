"""Views: the augmentation of the whole training set for one epoch, a pure function of (seed, k).

The teacher cache and the students render the same view, pixel for pixel, so that what was cached
is the teacher's output for the very pixels that the student sees (Beyer et al. 2021, 2106.05237).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Generator, Tensor

from kd.augmentations import Augmentation, Mixing
from kd.errors import WorkerError
from kd.names import AUGMENTATIONS, mixes, parse_augment
from kd.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Part:
    """One augmentation of a view: its module, its value, and what was drawn, one row per image."""

    member: Augmentation | Mixing
    value: float
    drawn: dict[str, Tensor]

    def change(self, function: Callable[[Tensor], Tensor]) -> "Part":
        drawn = {name: function(tensor) for name, tensor in self.drawn.items()}
        return replace(self, drawn=drawn)


@dataclass(frozen=True, slots=True)
class Mixture:
    """How images are mixed with others, one row per image.

    `partner` int64 is the row of the whole training split, and `share` float32 the share of its own
    label that an image keeps. `partners` is what was drawn for the partner, which is augmented by
    its own row of the view. `members` are the kinds of mixing, and `chosen` int64 that of an image.
    """

    partner: Tensor
    share: Tensor
    chosen: Tensor
    members: tuple[Part, ...]
    partners: tuple[Part, ...]

    def change(self, function: Callable[[Tensor], Tensor]) -> "Mixture":
        return Mixture(
            function(self.partner),
            function(self.share),
            function(self.chosen),
            tuple(part.change(function) for part in self.members),
            tuple(part.change(function) for part in self.partners),
        )

    def mix(self, images: Tensor, partners: Tensor) -> Tensor:
        """Mix augmented images [B, C, H, W] with their partners, each as its kind of mixing."""
        kinds = []
        for part in self.members:
            member = cast(Mixing, part.member)
            mixed = member.mix(images, partners, part.drawn, part.value)
            kinds.append(_checked(part, images, mixed))
        if len(kinds) == 1:
            return kinds[0]
        own = torch.arange(len(images), device=images.device)
        return torch.cat(kinds).index_select(0, own + len(images) * self.chosen)


@dataclass(frozen=True, slots=True)
class View:
    """What was drawn for each image, for every augmentation in the order of application."""

    parts: tuple[Part, ...]
    mixture: Mixture | None = None

    def at(self, index: Tensor) -> "View":
        """Return the rows of the images that `index` [B] names, with those of their partners."""
        return self._change(lambda drawn: drawn[index])

    def to(self, device: torch.device) -> "View":
        return self._change(lambda drawn: drawn.to(device))

    def _change(self, function: Callable[[Tensor], Tensor]) -> "View":
        parts = tuple(part.change(function) for part in self.parts)
        return View(parts, self.mixture and self.mixture.change(function))


def view(seed: int, k: int, images: Tensor, augment: str) -> View:
    """Return view `k` of `images` [N, C, H, W]: the same for the same arguments, on every machine.

    Only the shape of the images matters. `augment` is the protocol's. All augmentations draw from
    one generator, in the order of their names there. Each image takes one of several kinds of
    mixing, all with the same probability.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "view", k))
    count, *shape = images.shape
    parts: list[Part] = []
    mixing: list[Part] = []
    for name, value in parse_augment(augment, shape[-1]):
        member = cast(Augmentation, AUGMENTATIONS.load(name))
        number = 0 if value is None else value
        drawn = member.draw(generator, count, (shape[0], shape[1], shape[2]), number)
        (mixing if mixes(name) else parts).append(Part(member, number, drawn))
    if not mixing:
        return View(tuple(parts))
    return View(tuple(parts), _mixture(generator, count, tuple(parts), tuple(mixing)))


def _mixture(
    generator: Generator, count: int, parts: tuple[Part, ...], members: tuple[Part, ...]
) -> Mixture:
    """Draw which kind of mixing each image takes, and look up its partner and share there."""
    chosen = torch.randint(0, len(members), (count,), generator=generator)
    partner, share = (
        torch.stack([part.drawn[name] for part in members]).gather(0, chosen[None])[0]
        for name in ("partner", "share")
    )
    partners = tuple(part.change(lambda drawn: drawn[partner]) for part in parts)
    return Mixture(partner, share, chosen, members, partners)


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
    rows = view(0, 0, images, augment)
    digest = hashlib.sha256(render(images, rows).numpy().tobytes())
    if rows.mixture:
        digest.update(rows.mixture.share.numpy().tobytes())  # which the labels follow
    return digest.hexdigest()


def render(images: Tensor, rows: View, partners: Tensor | None = None) -> Tensor:
    """Augment stored `images` [B, C, H, W] as `rows`, one row per image. Returns the same shape.

    `partners` [B, C, H, W] are the stored images that a view mixes them with; by default they are
    taken from `images`, which then must be all of the training split.
    Raises WorkerError for an augmentation that returns another type or shape.
    """
    augmented = _augmented(images, rows.parts)
    if rows.mixture is None:
        return augmented
    if partners is None:
        partners = images.index_select(0, rows.mixture.partner)
    return rows.mixture.mix(augmented, _augmented(partners, rows.mixture.partners))


def _augmented(images: Tensor, parts: tuple[Part, ...]) -> Tensor:
    for part in parts:
        member = cast(Augmentation, part.member)
        images = _checked(part, images, member.apply(images, part.drawn, part.value))
    return images


def _checked(part: Part, images: Tensor, changed: Tensor) -> Tensor:
    """Return what a part made of images. Raises WorkerError unless type and shape are theirs."""
    if changed.dtype != images.dtype or changed.shape != images.shape:
        raise WorkerError(
            f"{part.member} must return {str(images.dtype)[6:]} {list(images.shape)}, "
            f"got {changed.dtype} {list(changed.shape)}"
        )
    return changed
