"""`--augment crop=4,flip` is read without torch; a new file in the folder is a new augmentation."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from kd.augmentations import _shared, jitter
from kd.data.views import render, view
from kd.errors import ProtocolError, WorkerError
from kd.names import AUGMENTATIONS, augment_text, mixes, parse_augment
from tests.support.processes import python
from tests.support.small import labelled, noise, protocol


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none", ()),
        ("flip", (("flip", None),)),
        ("crop", (("crop", 4),)),
        (" flip , crop=2", (("flip", None), ("crop", 2))),
        ("jitter=1", (("jitter", 1.0),)),
        ("jitter=.40,cutout", (("jitter", 0.4), ("cutout", 8))),
        ("trivial,resized-crop", (("trivial", None), ("resized-crop", 0.35))),
        ("flip,cutmix,mixup=1", (("flip", None), ("cutmix", 1.0), ("mixup", 1.0))),
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
        ("mosaic", "unknown augmentation 'mosaic'; known: crop, cutmix, cutout, erase, flip, "),
        ("", "unknown augmentation ''; known: crop, cutmix, cutout, erase, flip, jitter, "),
        ("cut-mix", "unknown augmentation 'cut-mix'; did you mean cutmix?"),
        ("resized_crop=0.5", "unknown augmentation 'resized_crop'; did you mean resized-crop?"),
        ("trivial=3", "augmentation trivial takes no value, got trivial='3'"),
        ("erase=0", "augmentation erase takes a number in 0.01-1, as in erase=0.25, got erase='0'"),
        ("mixup=0", "augmentation mixup takes a number in 0.01-10, as in mixup=0.2, got mixup='0'"),
        ("cutmix,flip", "augment must name cutmix last, which mixes images that are augmented "),
        ("mixup,cutmix,flip", "augment must name mixup, cutmix last, which mixes images that are "),
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

    def changed() -> torch.Tensor:
        if mixes(name):
            return member.mix(images, images.flip(0), drawn(), value)
        return member.apply(images, drawn(), value)

    torch.manual_seed(0)
    one = changed()
    torch.manual_seed(1)
    assert torch.equal(changed(), one)
    assert (one.dtype, one.shape) == (torch.uint8, images.shape)
    assert not torch.equal(one, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("text", [*AUGMENTATIONS.names, "crop=2,trivial,erase,mixup,cutmix"])
def test_a_batch_renders_alike_whatever_its_division_and_device(text: str, monkeypatch) -> None:
    """Single images, uneven batches and all at once give the same bytes, grouped or not."""
    data = labelled(40, channels=3)
    rows = data.view(3, 1, text)
    whole = render(data.values, rows)
    assert not torch.equal(whole, data.values)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for size in (1, 7, 40):
        parts = [images for images, _ in data.batches(order.split(size), rows)]
        assert torch.equal(torch.cat(parts), whole[order])
    other = data.view(3, 1, text).to(torch.device("cpu"))
    monkeypatch.setattr(_shared, "GROUPED", ())  # as on other devices
    assert torch.equal(render(data.values, other), whole)


def test_an_augmentation_that_returns_other_numbers_is_named(monkeypatch) -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(jitter, "apply", lambda batch, drawn, value: batch.float())
    message = r"kd\.augmentations\.jitter.* must return uint8 \[2, 1, 8, 8\], got torch\.float32"
    with pytest.raises(WorkerError, match=message):
        render(images, view(0, 0, images, "jitter"))
