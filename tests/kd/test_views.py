"""A view is a pure function of (seed, k); it renders what a loop over pixels renders."""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.data.views import Augmentation, View, _cut, _cut_on_cpu, normalise, render, view
from tests.support.small import NO_AUGMENTATION, protocol

FIELDS = [field.name for field in dataclasses.fields(View)]
ALL = Augmentation(padding=2, flip=True, cutout=3)
ERASED = Augmentation(padding=0, flip=False, cutout=3)


def listed(rows: View) -> dict[str, list[Any]]:
    return {name: getattr(rows, name).tolist() for name in FIELDS}


def noise(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # from 1, since what is padded or erased is 0
    return torch.randint(1, 256, (count, channels, size, size), generator=generator).byte()


def naive_render(images: np.ndarray, rows: View, augmentation: Augmentation) -> np.ndarray:
    padding, side = augmentation.padding, augmentation.cutout
    size = images.shape[-1]
    result = np.zeros_like(images)
    for row, image in enumerate(images):
        top, left, flipped, erased_top, erased_left = (getattr(rows, name)[row] for name in FIELDS)
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        for y in range(size):
            for x in range(size):
                if 0 <= y - erased_top < side and 0 <= x - erased_left < side:
                    continue
                source = size - 1 - x if flipped else x
                result[row, :, y, x] = padded[:, top + y, left + source]
    return result


def test_the_same_arguments_give_the_same_view() -> None:
    assert listed(view(7, 2, 50, 8, ALL)) == listed(view(7, 2, 50, 8, ALL))


def test_another_process_makes_the_same_view() -> None:
    code = (
        "from kd.data.views import Augmentation, view; "
        "rows = view(7, 2, 50, 8, Augmentation(padding=2, flip=True, cutout=3)); "
        "print([getattr(rows, name).tolist() for name in rows.__slots__])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
        text=True,
    )
    rows = view(7, 2, 50, 8, ALL)
    assert run.stdout.strip() == str([getattr(rows, name).tolist() for name in FIELDS])


@pytest.mark.parametrize("other", [(8, 2), (7, 3), (2, 7)])
def test_another_seed_or_number_gives_another_view(other: tuple[int, int]) -> None:
    one, another = listed(view(7, 2, 50, 8, ALL)), listed(view(*other, 50, 8, ALL))
    assert all(one[name] != another[name] for name in FIELDS)


def test_a_view_neither_reads_nor_moves_the_global_generator() -> None:
    rows = listed(view(7, 2, 50, 8, ALL))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert listed(view(7, 2, 50, 8, ALL)) == rows
    assert torch.equal(torch.get_rng_state(), before)


def test_every_crop_flip_and_erased_square_is_reached() -> None:
    rows = listed(view(0, 0, 3000, 8, ALL))
    corners = set(zip(rows["top"], rows["left"], rows["flipped"], strict=True))
    assert corners == {(y, x, flip) for y in range(5) for x in range(5) for flip in (False, True)}
    squares = set(zip(rows["erased_top"], rows["erased_left"], strict=True))
    assert squares == {(y, x) for y in range(-1, 7) for x in range(-1, 7)}  # centres 0 to 7


def test_flip_and_crop_are_drawn_evenly() -> None:
    rows = view(0, 0, 5000, 8, ALL)
    assert rows.flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    for corner in (rows.top, rows.left):
        shares = corner.bincount(minlength=5) / 5000
        torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_nothing_is_flipped_without_flip() -> None:
    assert not view(0, 0, 200, 8, Augmentation(padding=2, flip=False, cutout=3)).flipped.any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100),
    size=st.integers(4, 9),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    cutout=st.integers(0, 4),
)
def test_rendering_equals_a_loop_over_pixels(
    seed: int, size: int, channels: int, padding: int, flip: bool, cutout: int
) -> None:
    augmentation = Augmentation(padding=padding, flip=flip, cutout=cutout)
    images = noise(5, channels, size, seed)
    rows = view(seed, 1, 5, size, augmentation)
    rendered = render(images, rows, augmentation)
    np.testing.assert_array_equal(rendered, naive_render(images.numpy(), rows, augmentation))


def test_windows_are_cut_alike_on_every_device() -> None:
    padded, rows = noise(9, 3, 12), view(3, 1, 9, 8, ALL)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = padded.contiguous(memory_format=layout)
        windows = [cut(images, rows.top, rows.left, 8, 8) for cut in (_cut, _cut_on_cpu)]
        assert torch.equal(*windows)


def test_no_augmentation_is_the_identity() -> None:
    images = noise(6, 3, 8)
    assert torch.equal(render(images, view(0, 0, 6, 8, NO_AUGMENTATION), NO_AUGMENTATION), images)


@pytest.mark.parametrize("augmentation", [ALL, ERASED, NO_AUGMENTATION], ids=repr)
def test_rendering_keeps_bytes_and_shape_and_leaves_its_input_alone(
    augmentation: Augmentation,
) -> None:
    images = noise(6, 3, 8)
    before = images.clone()
    rendered = render(images, view(0, 0, 6, 8, augmentation), augmentation)
    assert rendered.dtype == torch.uint8
    assert rendered.shape == images.shape
    assert torch.equal(images, before)


def test_a_batch_renders_as_its_rows_do_in_the_whole_set() -> None:
    images = noise(20, 3, 8)
    rows = view(5, 1, 20, 8, ALL)
    whole = render(images, rows, ALL)
    index = torch.tensor([13, 2, 2, 19])
    assert torch.equal(render(images[index], rows.at(index), ALL), whole[index])


def test_rows_move_to_a_device_together() -> None:
    moved = view(5, 1, 20, 8, ALL).to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in FIELDS} == {"meta"}


def test_the_augmentation_is_that_of_the_protocol() -> None:
    given = protocol(crop_padding=3, flip=False, cutout=5)
    assert Augmentation.of(given) == Augmentation(padding=3, flip=False, cutout=5)


def test_normalised_images_are_pixels_less_the_mean_over_the_deviation() -> None:
    images = noise(4, 3, 8)
    mean, deviation = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.02, 0.3, 1.0])
    normalised = normalise(images, mean, deviation)
    shape = (1, 3, 1, 1)
    pixels = images.numpy().astype(np.float64) / 255
    naive = (pixels - mean.numpy().reshape(shape)) / deviation.numpy().reshape(shape)
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised, naive, rtol=1e-5, atol=1e-5)
