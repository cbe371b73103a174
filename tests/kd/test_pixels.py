"""What networks receive: one view, in the size and with the normalisation that each wants."""

import numpy as np
import pytest
import torch
from PIL import Image

from kd.models.pixels import received
from kd.names import parse_model
from tests.support.small import floats, labelled, network, noise, square

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_pretrained_models_get_the_normalisation_of_their_weights() -> None:
    data = square(3, 32, mean=0.3, deviation=0.2)
    for name in ("resnet18", "torchvision:regnet_y_400mf"):
        inputs = received(parse_model(name), data, 24, pretrained=True)
        assert (inputs.shape, inputs.mean, inputs.deviation) == ((3, 24, 24), *IMAGENET)
    untrained = received(parse_model("resnet18"), data, 24, pretrained=False)
    assert untrained == square(3, 24, mean=0.3, deviation=0.2)


def test_models_of_timm_get_what_their_configuration_says() -> None:
    pytest.importorskip("timm")
    name = parse_model("timm:vit_tiny_patch16_224")  # its weights want 0.5 and 0.5
    inputs = received(name, square(3, 32), 16, pretrained=True)
    assert (inputs.mean, inputs.deviation) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_other_channels_than_three_get_the_mean_of_the_three() -> None:
    inputs = received(parse_model("resnet18"), square(1, 32), 32, pretrained=True)
    assert inputs.mean == pytest.approx((0.449,))
    assert inputs.deviation == pytest.approx((0.226,))


def test_arrays_stay_as_they_are() -> None:
    assert received(parse_model("resnet18"), floats(), 4, pretrained=False) == floats()


def test_an_image_is_reduced_as_pillow_does_to_whole_pixels() -> None:
    images = noise(5, 3, 32)
    fitted = square(3, 20).fitted(images)
    assert fitted.shape == (5, 3, 20, 20)
    assert torch.equal(fitted, fitted.round())
    for image, found in zip(images.numpy(), fitted.numpy(), strict=True):
        planes = [
            Image.fromarray(plane).resize((20, 20), Image.Resampling.BILINEAR) for plane in image
        ]
        assert (
            np.abs(np.stack([np.asarray(plane, np.float32) for plane in planes]) - found).max() <= 1
        )


def test_a_network_of_another_size_reduces_the_view_itself() -> None:
    data = labelled(6)  # of 8 pixels
    small = network(inputs=square(1, 4)).eval()
    whole = small(data.values)
    assert torch.equal(whole, small.body(small.inputs.normalise(small.inputs.fitted(data.values))))
    assert torch.equal(whole, small(small.inputs.fitted(data.values).byte()))


def test_images_of_the_right_size_are_not_touched() -> None:
    images = noise(2, 1)
    assert square().fitted(images) is images
