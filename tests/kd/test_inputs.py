"""What a network is fed is asked of the inputs, and comes out as a loop over pixels gives it."""

import numpy as np
import pytest
import torch

from kd.data.inputs import Arrays, Images, read_inputs
from kd.data.views import render
from kd.errors import DataError
from kd.json_data import to_wire
from tests.support.small import AUGMENT, labelled, noise, square


def test_normalised_images_are_pixels_less_the_mean_over_the_deviation() -> None:
    images = noise(4, 3)
    mean, deviation = (0.1, 0.5, 0.9), (0.02, 0.3, 1.0)
    inputs = Images(shape=(3, 8, 8), mean=mean, deviation=deviation)
    normalised = inputs.normalise(images)
    shape = (1, 3, 1, 1)
    pixels = images.numpy().astype(np.float64) / 255
    naive = (pixels - np.reshape(mean, shape)) / np.reshape(deviation, shape)
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised, naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_with_another_number_of_channels_are_not_stretched_to_fit(channels: int) -> None:
    message = rf"^expected images of 3x8x8, got a batch of shape \[4, {channels}, 8, 8\]$"
    with pytest.raises(RuntimeError, match=message):
        square(3).normalise(noise(4, channels, 8))


def test_images_that_inference_normalised_first_can_be_trained_on() -> None:
    inputs, images = square(mean=0.123), noise(2, 1)
    with torch.inference_mode():
        inputs.normalise(images)
    layer = torch.nn.Conv2d(1, 1, 3)
    layer(inputs.normalise(images)).sum().backward()
    assert layer.weight.grad is not None


def test_statistics_of_a_channel_without_contrast_can_be_divided_by() -> None:
    images = np.zeros((3, 2, 4, 4), np.uint8)
    images[0, 1], images[2, 1] = 255, 7
    inputs = Images.measured(images, np.array([0, 1]))
    assert inputs == Images(shape=(2, 4, 4), mean=(0.0, 0.5), deviation=(1 / 255, 0.5))
    assert read_inputs({"inputs": to_wire(inputs)}) == inputs


def test_a_batch_is_the_rows_of_the_rendered_view_as_stored() -> None:
    data = labelled(20)
    rows, index = data.view(5, 1, AUGMENT), torch.tensor([13, 2, 19])
    whole = render(data.values, rows)
    [(batch, _)] = data.batches([index], rows)
    assert torch.equal(batch, whole[index])
    assert batch.dtype == data.inputs.dtype == torch.uint8
    assert not torch.equal(whole, data.values)


def test_examples_begin_again_where_more_are_wanted_than_there_are() -> None:
    data = labelled(3)
    few, many = data.repeated(2), data.repeated(7)
    assert torch.equal(few.values, data.values[:2])
    rows = [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(many.values, data.values[rows])
    assert torch.equal(many.labels, data.labels[rows])
    assert many.inputs == data.inputs


def test_arrays_are_fed_a_copy_of_what_is_kept() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    inputs = Arrays.measured(values)
    assert read_inputs({"inputs": to_wire(inputs)}) == inputs
    assert (str(inputs), inputs.channels, inputs.places) == ("arrays of 2x3 float32", 2, 3)
    kept = torch.from_numpy(values)
    assert inputs.fitted(kept) is kept
    fed = inputs.normalise(kept)
    assert torch.equal(fed, kept)
    fed.zero_()
    assert values[1, 0, 0] == 6


def test_arrays_without_a_number_are_refused() -> None:
    with pytest.raises(DataError, match=r"must not be empty, got \[4, 0\]"):
        Arrays.measured(np.zeros((4, 0), np.float32))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    values = np.zeros((4, 2), np.float32)
    values[2, 1] = number
    with pytest.raises(DataError, match="must be finite: replace NaN and infinity"):
        Arrays.measured(values)
