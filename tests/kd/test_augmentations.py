"""`--augment crop=4,flip` is read without torch; a new file in the folder is a new augmentation."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd.augmentations import jitter
from kd.data.views import render, view
from kd.errors import ProtocolError, WorkerError
from kd.names import AUGMENTATIONS, augment_text, parse_augment
from tests.support.processes import python
from tests.support.small import noise, protocol


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none", ()),
        ("flip", (("flip", None),)),
        ("crop", (("crop", 4),)),
        (" flip , crop=2", (("flip", None), ("crop", 2))),
        ("jitter=1", (("jitter", 1.0),)),
        ("jitter=.40,cutout", (("jitter", 0.4), ("cutout", 8))),
    ],
)
def test_names_and_values_are_read_in_the_order_given(text, parts) -> None:
    assert parse_augment(text, 32) == parts
    assert parse_augment(augment_text(parts), 32) == parts


def test_equal_augmentations_have_one_text_in_the_protocol() -> None:
    texts = ("crop,jitter=.5", "crop=4, jitter=0.50", "crop=+4,jitter=5e-1")
    assert {protocol(augment=text).augment for text in texts} == {"crop=4,jitter=0.5"}
    assert protocol(augment="flip,crop=4").hash != protocol(augment="crop=4,flip").hash


def test_a_default_larger_than_the_image_is_the_image() -> None:
    assert replace(protocol(image_size=4), augment="cutout").augment == "cutout=4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flop", "unknown augmentation 'flop'; did you mean flip?"),
        ("mosaic", "unknown augmentation 'mosaic'; known: crop, cutout, flip, jitter"),
        ("", "unknown augmentation ''; known: crop, cutout, flip, jitter"),
        ("crop,none", "unknown augmentation 'none'; known: crop"),
        ("crop=1,crop=2", "augment must not repeat a name, got 'crop=1,crop=2'"),
        ("flip=0.5", "augmentation flip takes no value, got flip='0.5'"),
        ("crop=", "augmentation crop takes a whole number in 1-8, as in crop=4, got crop=''"),
        ("crop=0", "augmentation crop takes a whole number in 1-8, as in crop=4, got crop='0'"),
        ("crop=1.5", "takes a whole number in 1-8, as in crop=4, got crop='1.5'"),
        ("cutout=9", "takes a whole number in 1-8, as in cutout=8, got cutout='9'"),
        ("jitter=2", "augmentation jitter takes a number in 0.01-1, as in jitter=0.4, got "),
        ("jitter=nan", "takes a number in 0.01-1, as in jitter=0.4, got jitter='nan'"),
        ("crop=\n9", "got crop='\\n9'"),
        ("jitter=inf", "takes a number in 0.01-1, as in jitter=0.4, got jitter='inf'"),
    ],
)
def test_a_mistake_is_named_with_what_was_received(text: str, message: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        protocol(augment=text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_protocol_is_checked_without_torch() -> None:
    code = (
        "import sys; from kd.names import *; parse_augment('crop,jitter', 8); print(*sys.modules)"
    )
    imported = set(python(code).split())
    assert "kd.augmentations" in imported
    assert not {"torch", "numpy", "kd.augmentations.crop"} & imported


# Each member.


@pytest.mark.parametrize("name", AUGMENTATIONS.names)
def test_a_member_is_described_and_is_pure(name: str) -> None:
    assert AUGMENTATIONS.describe(name)
    member, ((_, value),) = AUGMENTATIONS.load(name), parse_augment(name, 8)
    images = noise(9, 3)
    before = images.clone()

    def drawn() -> Mapping[str, torch.Tensor]:
        return member.draw(torch.Generator().manual_seed(1), 9, (3, 8, 8), value)

    assert all(len(tensor) == 9 for tensor in drawn().values())
    torch.manual_seed(0)
    one = member.apply(images, drawn(), value)
    torch.manual_seed(1)
    assert torch.equal(member.apply(images, drawn(), value), one)
    assert (one.dtype, one.shape) == (torch.uint8, images.shape)
    assert not torch.equal(one, images)
    assert torch.equal(images, before)


def test_jitter_scales_pixels_then_their_distance_to_the_mean() -> None:
    images = noise(40, 3)
    drawn = jitter.draw(torch.Generator().manual_seed(1), 40, (3, 8, 8), 0.5)
    factors = {name: tensor.numpy()[:, None, None, None] / 256 for name, tensor in drawn.items()}
    assert all(0.5 <= f.min() < 0.6 < 1.4 < f.max() <= 1.5 for f in factors.values())
    bright = np.clip(images.numpy() * factors["brightness"], 0, 255)
    mean = bright.mean((1, 2, 3), keepdims=True)
    expected = np.clip((bright - mean) * factors["contrast"] + mean, 0, 255)
    np.testing.assert_allclose(jitter.apply(images, drawn, 0.5), expected, atol=2.5)
    still = {name: torch.full_like(tensor, 256) for name, tensor in drawn.items()}
    assert torch.equal(jitter.apply(images, still, 0.5), images)


def test_an_augmentation_that_returns_other_numbers_is_named(monkeypatch) -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(jitter, "apply", lambda batch, drawn, value: batch.float())
    message = r"kd\.augmentations\.jitter.* must return uint8 \[2, 1, 8, 8\], got torch\.float32"
    with pytest.raises(WorkerError, match=message):
        render(images, view(0, 0, images, "jitter"))
