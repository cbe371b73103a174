"""Augmentations give torchvision's pixels for the same parameters, within 1 of 255."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from kd.augmentations import _shared, cutmix, erase, jitter, mixup, resized_crop, trivial
from kd.augmentations._shared import UNIT, draw_shares
from tests.support import small

BOTH = pytest.mark.parametrize("channels", [1, 3])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Images with large areas and all of their pixel values, and one that is grey all over."""
    coarse = small.noise(count, channels, 4, seed=seed).float()
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255)
    images = (0.7 * smooth + 0.3 * small.noise(count, channels, size, seed=seed + 1)).byte()
    images[0] = 77
    return images


def gap(left: Tensor, right: Tensor) -> int:
    assert left.shape == right.shape
    return int((left.int() - right.int()).abs().max())


@BOTH
@pytest.mark.parametrize("size", [8, 33])
def test_resized_crop_is_torchvisions_within_1(channels: int, size: int) -> None:
    images = pictures(40, channels, size)
    drawn = resized_crop.draw(generator(), 40, (channels, size, size), 0.2)
    found = resized_crop.apply(images, drawn, 0.2)
    for row, image in enumerate(images):
        part: dict[str, Any] = {name: int(tensor[row]) for name, tensor in drawn.items()}
        exact = functional.resized_crop(image.double(), **part, size=[size, size], antialias=True)
        # 11 bits of a weight are at most 0.13 of a level
        assert (found[row] - exact).abs().max() <= 0.5 + 0.13
        eight_bits = functional.resized_crop(image, **part, size=[size, size], antialias=True)
        assert gap(found[row], eight_bits) <= 1


def test_the_drawn_parts_are_distributed_as_torchvisions() -> None:
    """Areas and ratios of the sides lie within the limits, up to rounding, and are as frequent."""
    drawn = resized_crop.draw(generator(), 4000, (3, 64, 64), 0.35)
    tall, wide = drawn["height"].double(), drawn["width"].double()
    assert ((drawn["top"] >= 0) & (drawn["top"] + tall <= 64)).all()
    assert ((drawn["left"] >= 0) & (drawn["left"] + wide <= 64)).all()
    torch.manual_seed(0)
    theirs = [
        v2.RandomResizedCrop(64, scale=(0.35, 1)).make_params([torch.empty(3, 64, 64)])
        for _ in range(2000)
    ]
    for name, found in drawn.items():
        expected = np.array([part[name] for part in theirs])
        points = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(
            np.quantile(found.numpy(), points), np.quantile(expected, points), atol=2.5
        )


def test_erased_rectangles_are_torchvisions_and_as_frequent() -> None:
    images = small.noise(3000, 3, 16, least=1)
    drawn = erase.draw(generator(), 3000, (3, 16, 16), 0.25)
    found = erase.apply(images, drawn, 0.25)
    for row in range(200):
        box = [int(drawn[name][row]) for name in ("top", "left", "height", "width")]
        black = torch.zeros(1, dtype=torch.uint8)
        assert torch.equal(found[row], functional.erase(images[row], *box, black))
    erased = (found == 0).flatten(1).any(1)
    assert erased.double().mean() == pytest.approx(0.25, abs=0.03)
    shares = (found[erased][:, 0] == 0).double().mean((1, 2))
    torch.manual_seed(0)
    boxes = [v2.RandomErasing(p=1).make_params([images[0]]) for _ in range(1000)]
    theirs = [one["h"] * one["w"] / 256 for one in boxes if one["v"] is not None]
    assert float(shares.mean()) == pytest.approx(np.mean(theirs), abs=0.02)


@BOTH
def test_jitter_is_color_jitter_in_every_order_within_1(channels: int) -> None:
    images = pictures(60, channels, 9)
    drawn = jitter.draw(generator(), 60, (channels, 9, 9), 0.5)
    assert len({*map(tuple, drawn["order"].tolist())}) == 6
    found = jitter.apply(images, drawn, 0.5)
    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    )
    for row, image in enumerate(images):
        expected = image
        for place in drawn["order"][row].tolist():
            expected = changes[place](expected, int(drawn[jitter.FACTORS[place]][row]) / UNIT)
        # a level that one step rounds differently may be multiplied by a later factor of 1.5
        assert gap(found[row], expected) <= 2
    for factor in jitter.FACTORS:
        shares = drawn[factor] / UNIT
        assert 0.5 <= shares.min() < 0.6 < 1.4 < shares.max() <= 1.5
    still = drawn | {name: torch.full_like(drawn[name], UNIT) for name in jitter.FACTORS}
    assert torch.equal(jitter.apply(images, still, 0.5), images)


def torchvisions(image: Tensor, operation: str, strength: int) -> Tensor:
    """Change an image as TrivialAugmentWide does, by its table of magnitudes and its switch."""
    names = {"solarize": "Solarize", "autocontrast": "AutoContrast"}
    name = names.get(operation) or "".join(map(str.capitalize, operation.split("-")))
    augment = v2.TrivialAugmentWide()
    table, signed = augment._AUGMENTATION_SPACE[name]
    magnitudes = table(trivial.STRENGTHS, *image.shape[-2:])
    size = 0.0 if magnitudes is None else float(magnitudes[abs(strength)])
    # the table is float32, in which a threshold of 17 is 17.0000009, and 16 pixels are 15.999999
    if name == "Solarize":
        size = round(size * 255 * 2) / 2 / 255
    if name.startswith("Translate"):
        size = round(size, 4)
    size *= -1 if signed and strength < 0 else 1
    return augment._apply_image_or_video_transform(
        image, name, size, interpolation=InterpolationMode.NEAREST, fill=augment._fill
    )


def rows_of(operation: str, strengths: list[int], size: int) -> dict[str, Tensor]:
    number = trivial.OPERATIONS.index(operation)
    chosen = torch.tensor(strengths)
    return {
        "operation": torch.full_like(chosen, number),
        "strength": chosen,
        "matrix": trivial._matrices(size, size)[number, chosen + trivial.STRENGTHS - 1],
    }


@BOTH
@pytest.mark.parametrize("operation", trivial.OPERATIONS)
@pytest.mark.parametrize("size", [8, 32])
def test_trivial_is_torchvisions_at_every_strength(
    operation: str, size: int, channels: int
) -> None:
    strengths = list(range(-30, 31))
    images = pictures(len(strengths), channels, size)
    found = trivial.apply(images, rows_of(operation, strengths, size), 0)
    for row, strength in enumerate(strengths):
        expected = torchvisions(images[row], operation, strength)
        if operation.startswith(("shear", "rotate")):
            # pixels that lie midway between two, as on a diagonal at 45 degrees
            assert (found[row] != expected).any(0).double().mean() <= 1.5 / size, strength
        else:
            assert gap(found[row], expected) <= 1, strength
    expected = torch.stack(
        [torchvisions(image, operation, s) for image, s in zip(images, strengths, strict=True)]
    )
    rounded = {"brightness", "color", "contrast", "autocontrast", "shear-x", "shear-y", "rotate"}
    most = {"sharpness": 0.001} | dict.fromkeys(rounded, 0.03)
    assert (found != expected).double().mean() <= most.get(operation, 0)


def test_pixels_that_move_are_torchvisions_except_midway() -> None:
    """At 33 pixels all of a shear's and nearly all of a rotation's are not midway."""
    strengths = [-29, -22, -7, 3, 11, 19, 28]
    images = pictures(len(strengths), 3, 33)
    for operation in ("shear-x", "shear-y", "rotate"):
        found = trivial.apply(images, rows_of(operation, strengths, 33), 0)
        expected = [
            torchvisions(image, operation, s) for image, s in zip(images, strengths, strict=True)
        ]
        assert torch.equal(found, torch.stack(expected))


def test_operations_are_torchvisions_and_drawn_evenly() -> None:
    names = {name.replace("-", "").lower() for name in v2.TrivialAugmentWide._AUGMENTATION_SPACE}
    assert names == {name.replace("-", "") for name in trivial.OPERATIONS}
    drawn = trivial.draw(generator(), 20_000, (3, 8, 8), 0)
    counts = drawn["operation"].bincount(minlength=len(trivial.OPERATIONS)) / 20_000
    assert counts.tolist() == pytest.approx([1 / 14] * 14, abs=0.01)
    signed = (drawn["strength"] + 30).bincount(minlength=61) / 20_000
    assert signed.tolist() == pytest.approx([1 / 62] * 30 + [1 / 31] + [1 / 62] * 30, abs=0.006)


@pytest.mark.parametrize(("name", "channels"), [("trivial", 2), ("jitter", 4)])
def test_other_numbers_of_channels_have_the_mean_as_their_grey(name: str, channels: int) -> None:
    images = small.noise(5, channels, 8)
    expected = images.numpy().astype(int).sum(1, keepdims=True) // channels
    np.testing.assert_array_equal(_shared.grey(images), expected)
    module: Any = {"trivial": trivial, "jitter": jitter}[name]
    drawn = module.draw(generator(), 5, (channels, 8, 8), 0.5)
    assert module.apply(images, drawn, 0.5).shape == images.shape


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    shares = draw_shares(generator(), 20_000, alpha).numpy() / 256
    expected = np.random.default_rng(0).beta(alpha, alpha, 20_000)
    assert 0 <= shares.min() < shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.015)
    assert shares.std() == pytest.approx(expected.std(), abs=0.01)
    for point in np.arange(0.5, 256, 25) / 256:
        assert (shares < point).mean() == pytest.approx((expected < point).mean(), abs=0.02)


@BOTH
def test_mixing_is_torchvisions_for_each_pair(channels: int) -> None:
    """torchvision mixes a batch with its neighbours by one share; a pair is such a batch."""
    images, partners = pictures(30, channels, 9), pictures(30, channels, 9, seed=5)
    for module, theirs in ((mixup, v2.MixUp), (cutmix, v2.CutMix)):
        drawn = module.draw(generator(3), 30, (channels, 9, 9), 1.0)
        mixed = module.mix(images, partners, drawn, 1.0)
        for row in range(30):
            share = float(drawn["share"][row])
            transform = theirs(alpha=1.0, num_classes=2)
            pair = torch.stack([images[row], partners[row]]).double()
            params: dict[str, Any] = {"labels": None, "batch_size": 2, "lam": share}
            if module is cutmix:
                top, left, tall, wide = (
                    int(drawn[name][row]) for name in ("top", "left", "height", "width")
                )
                params["box"] = (left, top, left + wide, top + tall)
                assert share == pytest.approx(1 - tall * wide / 81)
            expected = transform.transform(pair, params)[0]
            assert (mixed[row] - expected).abs().max() <= 0.5
