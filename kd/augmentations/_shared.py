"""What several augmentations use: rectangles, groups of images, and arithmetic of pixels."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from scipy import special
from torch import Generator, Tensor

ATTEMPTS = 10  # at a rectangle that fits, as in torchvision
BITS = 12
UNIT = 1 << BITS  # the factor 1: factors are whole numbers
FRACTION = 256  # parts of a grey level in which the mean of an image is kept
LUMA = (2989, 5870, 1140)  # of 10,000: red, green and blue in the grey of torchvision
SHARES = 256  # the share 1 of an image in a mixture
GROUPED = ("cpu",)  # devices that can be asked for the number of images of a kind

Drawn = Mapping[str, Tensor]
Change = Callable[[Tensor, Drawn], Tensor]


def draw_rectangles(
    generator: Generator,
    count: int,
    sides: tuple[int, int],
    *,
    areas: tuple[float, float],
    ratios: tuple[float, float],
    smaller: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw a rectangle in each of `count` images of `sides` (H, W).

    Its area, as a share of the image's, is uniform within `areas`, the logarithm of height / width
    within `ratios`; then its corner. As torchvision does, the first of ten that fits is taken.
    Returns whether one fitted, bool [count], and `top`, `left`, `height`, `width`, int64 [count]:
    the whole image where none did. `smaller`: it must be smaller than the image on both sides.
    """
    height, width = sides

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(count, ATTEMPTS, generator=generator, dtype=torch.float64)
        return low + (high - low) * drawn

    area = height * width * uniform(*areas)
    ratio = uniform(*map(math.log, ratios)).exp()
    tall, wide = ((area * part).sqrt().round().long() for part in (ratio, 1 / ratio))
    fits = (tall >= 1) & (wide >= 1)
    fits &= (tall <= height - smaller) & (wide <= width - smaller)
    first = fits.byte().argmax(1, keepdim=True)
    fitted = fits.any(1)
    tall, wide = (
        torch.where(fitted, sizes.gather(1, first)[:, 0], side)
        for sizes, side in ((tall, height), (wide, width))
    )
    corners = torch.rand(2, count, generator=generator, dtype=torch.float64)
    top, left = (corners * torch.stack([height - tall + 1, width - wide + 1])).long()
    return fitted, {"top": top, "left": left, "height": tall, "width": wide}


def inside(drawn: Drawn, sides: tuple[int, int]) -> Tensor:
    """Return which pixels of images of `sides` (H, W) lie in the rectangles: bool [B, 1, H, W]."""
    device = drawn["top"].device
    down, across = (
        torch.arange(side, device=device) - drawn[corner][:, None]
        for side, corner in zip(sides, ("top", "left"), strict=True)
    )
    lines = (down >= 0) & (down < drawn["height"][:, None])
    pixels = (across >= 0) & (across < drawn["width"][:, None])
    return lines[:, None, :, None] & pixels[:, None, None, :]


def draw_shares(generator: Generator, count: int, alpha: float) -> Tensor:
    """Draw `count` numbers of the distribution Beta(alpha, alpha) in 256ths: int64 in 0-256.

    Each takes one uniform number, whose quantile it is: sampling by rejection would depend on how
    a machine rounds.
    """
    ends = (torch.arange(SHARES, dtype=torch.float64) + 0.5) / SHARES
    cumulated = torch.from_numpy(special.betainc(alpha, alpha, ends.numpy()))
    return torch.searchsorted(
        cumulated, torch.rand(count, generator=generator, dtype=torch.float64)
    )


def change_groups(
    batch: Tensor, kinds: Tensor, drawn: Drawn, changes: Iterable[tuple[int, Change]]
) -> Tensor:
    """Return the batch with each kind of change made to the images that it is for.

    `kinds` [B] is the kind of each image. On a CPU each change computes its own images alone;
    elsewhere it computes all, since a step would wait for a device that is asked for their number.
    """
    if batch.device.type not in GROUPED:
        for kind, change in changes:
            chosen = (kinds == kind)[:, None, None, None]
            batch = torch.where(chosen, change(batch, drawn), batch)
        return batch
    result = batch.clone()
    for kind, change in changes:
        rows = (kinds == kind).nonzero()[:, 0]
        if len(rows):
            own = {name: tensor[rows] for name, tensor in drawn.items()}
            result[rows] = change(batch[rows], own)
    return result


def grey(batch: Tensor) -> Tensor:
    """Return the grey of images [B, C, H, W] uint8, int32 [B, 1, H, W], rounded down.

    Three channels are red, green and blue; of other numbers it is the mean.
    """
    if batch.shape[1] != len(LUMA):
        return batch.sum(1, keepdim=True, dtype=torch.int32) // batch.shape[1]
    red, green, blue = (
        batch[:, channel, None].int() * weight for channel, weight in enumerate(LUMA)
    )
    return (red + green + blue) // 10_000


def blended(pixels: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Return factor * pixels + (1 - factor) * others, in 0-255 and rounded down, as uint8.

    `pixels` [B, ...] are int32, `factor` [B] int32 in UNITths; as torchvision blends.
    """
    factor = factor.view(-1, *[1] * (pixels.ndim - 1))
    return (((pixels - others) * factor >> BITS) + others).clamp_(0, 255).byte()


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Return pixels [B, ...] int32 times the factor, as `blended`."""
    return blended(pixels, torch.zeros((), dtype=torch.int32, device=pixels.device), factor)


def saturation(batch: Tensor, factor: Tensor) -> Tensor:
    """Return images [B, C, H, W] uint8 blended with their grey; one channel stays as it is."""
    return batch if batch.shape[1] == 1 else blended(batch.int(), grey(batch), factor)


def mean_grey(batch: Tensor) -> Tensor:
    """Return the mean grey of each image, int32 [B, 1, 1], in FRACTIONs of a level."""
    total = grey(batch).flatten(1).sum(1)
    return (total * FRACTION // batch[0, 0].numel()).int()[:, None, None]


def contrast(pixels: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return pixels [B, ...] int32 blended with `mean` (as of `mean_grey`), as uint8."""
    factor = factor.view(-1, *[1] * (pixels.ndim - 1))
    mixed = ((pixels * FRACTION - mean) * factor >> BITS) + mean
    return (mixed.clamp_(min=0) // FRACTION).clamp_(max=255).byte()


def looked_up(batch: Tensor, table: Tensor) -> Tensor:
    """Replace each pixel of [B, C, H, W] uint8 by its entry in `table` [B, 1 or C, 256] uint8."""
    pixels = batch.flatten(2).long()
    return table.expand(-1, batch.shape[1], -1).gather(2, pixels).view(batch.shape)


def levels(device: torch.device) -> Tensor:
    """Return all pixel values, int32 [1, 1, 256]."""
    return torch.arange(256, dtype=torch.int32, device=device)[None, None]
