"""A view is a pure function of (seed, k); it renders what a loop over pixels renders."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.augmentations.crop import _cut, _cut_on_cpu
from kd.data.views import View, render, view
from kd.names import AUGMENTATIONS, refusing_deep
from kd.seeds import derive_seed
from tests.support import small
from tests.support.processes import python

ALL = "crop=2,flip,cutout=3"


def listed(rows: View) -> list[list[Any]]:
    return [tensor.tolist() for part in rows.parts for tensor in part.drawn.values()]


noise = partial(small.noise, least=1)  # what is padded or erased is 0
IMAGES = noise(50, 1)


def naive_view(seed: int, k: int, images: np.ndarray, padding: int, side: int) -> np.ndarray:
    """Crop, flip and erase one image after another, pixel by pixel."""
    count, _, size, _ = images.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "view", k))
    tops, lefts, flips, erased_tops, erased_lefts = (
        torch.randint(0, most, (count,), generator=generator).tolist()
        for most in (2 * padding + 1, 2 * padding + 1, 2, size, size)
    )
    result = np.zeros_like(images)
    for row, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        top, left = erased_tops[row] - side // 2, erased_lefts[row] - side // 2
        for y in range(size):
            for x in range(size):
                if 0 <= y - top < side and 0 <= x - left < side:
                    continue
                source = size - 1 - x if flips[row] else x
                result[row, :, y, x] = padded[:, tops[row] + y, lefts[row] + source]
    return result


def test_images_of_more_bits_are_augmented_as_those_of_8() -> None:
    names = [name for name in AUGMENTATIONS.names if not refusing_deep(name)]
    assert {"crop", "flip", "cutout", "erase", "cutmix"} <= set(names)
    assert refusing_deep("crop=2,jitter=0.5,trivial") == ["jitter", "trivial"]
    assert refusing_deep("none") == []
    for name in names:
        rows = view(0, 0, IMAGES, name)
        deep = render(IMAGES.float() / 257, rows)
        torch.testing.assert_close(deep, render(IMAGES, rows).float() / 257, rtol=0, atol=0)


def test_another_process_makes_the_same_view() -> None:
    code = (
        "import torch; from kd.data.views import view; "
        f"rows = view(7, 2, torch.empty(50, 1, 8, 8), {ALL!r}); "
        "print([drawn.tolist() for part in rows.parts for drawn in part.drawn.values()])"
    )
    assert python(code, hash_seed="1").strip() == str(listed(view(7, 2, IMAGES, ALL)))


@pytest.mark.parametrize("other", [(8, 2), (7, 3), (2, 7)])
def test_another_seed_or_number_gives_another_view(other: tuple[int, int]) -> None:
    one, another = listed(view(7, 2, IMAGES, ALL)), listed(view(*other, IMAGES, ALL))
    assert len(one) == 5
    assert all(left != right for left, right in zip(one, another, strict=True))


def test_a_view_neither_reads_nor_moves_the_global_generator() -> None:
    rows = listed(view(7, 2, IMAGES, ALL))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert listed(view(7, 2, IMAGES, ALL)) == rows
    assert torch.equal(torch.get_rng_state(), before)


def test_every_crop_flip_and_erased_square_is_reached() -> None:
    top, left, flipped, erased_top, erased_left = listed(view(0, 0, noise(3000, 1), ALL))
    corners = set(zip(top, left, flipped, strict=True))
    assert corners == {(y, x, flip) for y in range(5) for x in range(5) for flip in (False, True)}
    squares = set(zip(erased_top, erased_left, strict=True))
    assert squares == {(y, x) for y in range(-1, 7) for x in range(-1, 7)}  # centres 0 to 7


def test_flip_and_crop_are_drawn_evenly() -> None:
    top, left, flipped, *_ = map(torch.tensor, listed(view(0, 0, noise(5000, 1), ALL)))
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    for corner in (top, left):
        shares = corner.bincount(minlength=5) / 5000
        torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100),
    size=st.integers(4, 9),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(1, 4),
    side=st.integers(1, 4),
)
def test_rendering_equals_a_loop_over_pixels(
    seed: int, size: int, channels: int, padding: int, side: int
) -> None:
    images = noise(5, channels, size, seed=seed)
    rendered = render(images, view(seed, 1, images, f"crop={padding},flip,cutout={side}"))
    np.testing.assert_array_equal(rendered, naive_view(seed, 1, images.numpy(), padding, side))


def test_an_augmentation_draws_the_same_whatever_follows() -> None:
    """So the default study, which only crops, keeps its views when one is added behind."""
    alone, followed = (listed(view(7, 2, IMAGES, text)) for text in ("crop=2", ALL))
    assert followed[:2] == alone


def test_augmentations_are_applied_in_the_order_given() -> None:
    images = noise(6, 1)
    for text in ("cutout=3,jitter=0.9", "jitter=0.9,cutout=3"):
        rows, expected = view(0, 0, images, text), images
        assert [part.member.__name__ for part in rows.parts] == [
            f"kd.augmentations.{part.partition('=')[0]}" for part in text.split(",")
        ]
        for part in rows.parts:
            expected = part.member.apply(expected, part.drawn, part.value)
        assert torch.equal(render(images, rows), expected)


def test_windows_are_cut_alike_on_every_device() -> None:
    padded, (top, left) = noise(9, 3, 12), map(torch.tensor, listed(view(3, 1, IMAGES, "crop=2")))
    for layout in (torch.contiguous_format, torch.channels_last):
        images = padded.contiguous(memory_format=layout)
        windows = [cut(images, top[:9], left[:9], 8, 8) for cut in (_cut, _cut_on_cpu)]
        assert torch.equal(*windows)


def test_no_augmentation_is_the_identity() -> None:
    assert torch.equal(render(IMAGES, view(0, 0, IMAGES, "none")), IMAGES)


@pytest.mark.parametrize("augment", [ALL, "cutout=3", "jitter", "none"])
def test_rendering_keeps_bytes_and_shape_and_leaves_its_input_alone(augment: str) -> None:
    images = noise(6, 3)
    before = images.clone()
    rendered = render(images, view(0, 0, images, augment))
    assert rendered.dtype == torch.uint8
    assert rendered.shape == images.shape
    assert torch.equal(images, before)


def test_a_batch_renders_as_its_rows_do_in_the_whole_set() -> None:
    images = noise(20, 3)
    rows = view(5, 1, images, f"{ALL},jitter")
    index = torch.tensor([13, 2, 2, 19])
    assert torch.equal(render(images[index], rows.at(index)), render(images, rows)[index])


def test_rows_move_to_a_device_together() -> None:
    moved = view(5, 1, IMAGES, ALL).to(torch.device("meta"))
    drawn = [tensor for part in moved.parts for tensor in part.drawn.values()]
    assert {tensor.device.type for tensor in drawn} == {"meta"}
