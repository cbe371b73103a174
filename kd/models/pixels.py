"""What a network receives of a data set's images: their size and normalisation."""

from dataclasses import replace
from statistics import fmean

from kd.data.inputs import Images, Inputs
from kd.models import libraries
from kd.names import ModelName


def received(model: ModelName, inputs: Inputs, size: int, *, pretrained: bool) -> Inputs:
    """Return the description of what a model receives, where the data set has `inputs`.

    Images have `size` pixels a side. A `pretrained` model, whose weights come from its library,
    gets the normalisation that these were trained with, for other channels than three its mean over
    the channels; all others get that of the training images. Arrays are as they are.
    """
    if not isinstance(inputs, Images):
        return inputs
    sized = replace(inputs, shape=(inputs.channels, size, size))
    if not pretrained:
        return sized
    pixels = libraries.load(model.library or model.facts.family).pixels(model.base)
    mean, deviation = (
        numbers if inputs.channels == len(numbers) else (fmean(numbers),) * inputs.channels
        for numbers in (pixels.mean, pixels.deviation)
    )
    return replace(sized, mean=mean, deviation=deviation)
