"""TrivialAugment: one of 14 changes for each image, of a random strength.

torchvision's TrivialAugmentWide: its changes, its 31 strengths of each, nearest pixels, black
outside of the image. Computed in whole numbers: colours are within 1 of torchvision's, and pixels
that lie midway between two may be the other one. Müller and Hutter 2021, 2103.10158.
"""

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from kd.augmentations import _shared
from kd.augmentations._shared import UNIT, Drawn, change_groups, levels, looked_up, mean_grey

STRENGTHS = 31
OPERATIONS = (
    *("identity", "shear-x", "shear-y", "translate-x", "translate-y", "rotate", "brightness"),
    *("color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
LARGEST = {"shear": 0.99, "translate": 32, "rotate": 135}  # share, pixels, degrees
COLOR = 0.99  # largest change of a factor
BITS = 18  # of a coordinate in half pixels: images of up to 1024 pixels a side fit in 31 bits


def draw(
    generator: Generator, count: int, shape: tuple[int, int, int], value: float
) -> dict[str, Tensor]:
    """Draw `operation` (its place in OPERATIONS) and `strength` in -30 to 30, int64 [count].

    `matrix`, int32 [count, 6], is that of the operations that move pixels (see `_moved`).
    """
    operation = torch.randint(0, len(OPERATIONS), (count,), generator=generator)
    strength = torch.randint(0, STRENGTHS, (count,), generator=generator)
    sign = 1 - 2 * torch.randint(0, 2, (count,), generator=generator)
    matrices = _matrices(shape[1], shape[2])
    chosen = sign * strength
    return {
        "operation": operation,
        "strength": chosen,
        "matrix": matrices[operation, chosen + STRENGTHS - 1],
    }


def apply(batch: Tensor, drawn: Mapping[str, Tensor], value: float) -> Tensor:
    return change_groups(batch, _groups(drawn["operation"]), drawn, CHANGES)


def magnitude(operation: str, strength: int) -> float:
    """Return what `strength` means: share, pixels or degrees of the operations that move pixels."""
    largest = LARGEST[operation.partition("-")[0]]
    size = largest * strength / (STRENGTHS - 1)
    return int(size) if largest == LARGEST["translate"] else size


def _groups(operation: Tensor) -> Tensor:
    """Return the operations with one number for all that move pixels."""
    return torch.where((operation >= MOVES[0]) & (operation <= MOVES[-1]), MOVES[0], operation)


def _matrices(height: int, width: int) -> Tensor:
    """Return the matrices of all operations and strengths, int32 [14, 61, 6]; see `_moved`."""
    signed = range(1 - STRENGTHS, STRENGTHS)
    rows = [[_matrix(one, strength, height, width) for strength in signed] for one in OPERATIONS]
    return (torch.tensor(rows, dtype=torch.float64) * (1 << BITS)).round().int()


def _matrix(operation: str, strength: int, height: int, width: int) -> tuple[float, ...]:
    """Return the rows (a, b, c), (d, e, f) that give the place where a pixel at (x, y) is read.

    Coordinates are in half pixels from the image's centre. A shear leaves the first line, or
    column, of pixel edges in place.
    """
    if OPERATIONS.index(operation) not in MOVES:
        return (1, 0, 0, 0, 1, 0)
    size = magnitude(operation, strength)
    match operation:
        case "shear-x":
            return (1, size, size * height, 0, 1, 0)
        case "shear-y":
            return (1, 0, 0, size, 1, size * width)
        case "translate-x":
            return (1, 0, -2 * size, 0, 1, 0)
        case "translate-y":
            return (1, 0, 0, 0, 1, -2 * size)
    sine, cosine = math.sin(math.radians(size)), math.cos(math.radians(size))
    return (cosine, -sine, 0, sine, cosine, 0)


def _moved(batch: Tensor, drawn: Drawn) -> Tensor:
    """Read each pixel (x, y) at (a x + b y + c, d x + e y + f), the nearest there is."""
    height, width = batch.shape[-2:]
    x, y = (
        2 * torch.arange(side, dtype=torch.int32, device=batch.device) - (side - 1)
        for side in (width, height)
    )
    a, b, c, d, e, f = drawn["matrix"][..., None, None].unbind(1)
    y = y[:, None]
    across, down = (
        (place + ((side - 1) << BITS) + (1 << BITS)) >> BITS + 1
        for place, side in ((a * x + b * y + c, width), (d * x + e * y + f, height))
    )
    known = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    place = (down * width + across).mul_(known).flatten(1).long()
    read = batch.flatten(2).gather(2, place[:, None].expand(-1, batch.shape[1], -1))
    return read.view(batch.shape) * known[:, None]


def _factor(drawn: Drawn) -> Tensor:
    """Return the factors of the operations on colours, int32 [B], in UNITths."""
    steps = STRENGTHS - 1
    change = (2 * drawn["strength"] * round(COLOR * 100) * UNIT + 100 * steps) // (200 * steps)
    return (UNIT + change).int()


def _brightness(batch: Tensor, drawn: Drawn) -> Tensor:
    return looked_up(batch, _shared.brightness(levels(batch.device), _factor(drawn)))


def _color(batch: Tensor, drawn: Drawn) -> Tensor:
    return _shared.saturation(batch, _factor(drawn))


def _contrast(batch: Tensor, drawn: Drawn) -> Tensor:
    table = _shared.contrast(levels(batch.device), mean_grey(batch), _factor(drawn))
    return looked_up(batch, table)


def _sharpness(batch: Tensor, drawn: Drawn) -> Tensor:
    """Blend with the mean of 3x3 pixels, the middle one five times; the edge stays as it is."""
    if min(batch.shape[-2:]) <= 2:
        return batch
    pixels = batch.int()
    lines = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    middle = pixels[..., 1:-1, 1:-1]
    total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * middle
    result = batch.clone()
    result[..., 1:-1, 1:-1] = _shared.blended(middle, (2 * total + 13) // 26, _factor(drawn))
    return result


def _posterize(batch: Tensor, drawn: Drawn) -> Tensor:
    """Keep the leading 8 to 2 bits."""
    removed = (2 * drawn["strength"].abs() + 5) // 10
    steps = removed.int()[:, None, None]
    return looked_up(batch, ((levels(batch.device) >> steps) << steps).byte())


def _solarize(batch: Tensor, drawn: Drawn) -> Tensor:
    """Invert pixels from a threshold on: 255 at strength 0, 0 at the largest."""
    steps, values = STRENGTHS - 1, levels(batch.device)
    above = values * steps >= 255 * (steps - drawn["strength"].abs())[:, None, None]
    return looked_up(batch, torch.where(above, 255 - values, values).byte())


def _autocontrast(batch: Tensor, drawn: Drawn) -> Tensor:
    """Stretch each channel to 0-255."""
    low, high = (extreme.int()[..., None] for extreme in batch.flatten(2).aminmax(dim=2))
    values = levels(batch.device)
    stretched = ((values - low).clamp_(min=0) * 255 // (high - low).clamp(min=1)).clamp_(max=255)
    return looked_up(batch, torch.where(high > low, stretched, values).byte())


def _equalize(batch: Tensor, drawn: Drawn) -> Tensor:
    """Make each channel's histogram even, as Pillow does."""
    pixels = batch.flatten(2).long()
    counts = torch.zeros(*batch.shape[:2], 256, dtype=torch.int32, device=batch.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels, dtype=torch.int32))
    upto = counts.cumsum(2, dtype=torch.int32)
    brightest = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255
    table = (upto - counts + step // 2) // step.clamp(min=1)
    return looked_up(
        batch, torch.where(step > 0, table.clamp_(max=255), levels(batch.device)).byte()
    )


MOVES = (1, 2, 3, 4, 5)
CHANGES = (
    (MOVES[0], _moved),
    *(
        (OPERATIONS.index(name), change)
        for name, change in {
            "brightness": _brightness,
            "color": _color,
            "contrast": _contrast,
            "sharpness": _sharpness,
            "posterize": _posterize,
            "solarize": _solarize,
            "autocontrast": _autocontrast,
            "equalize": _equalize,
        }.items()
    ),
)
