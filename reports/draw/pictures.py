"""Test images as pictures inside the page."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reports.compute.classes import Images
from reports.findings import Findings
from storage.files.artifacts import is_finished
from storage.files.layout import Layout
from storage.files.seal import opened_images

LARGEST = 96  # px: larger ones are reduced, so that a few dozen stay small


def read_examples(layout: Layout, findings: Findings) -> Images:
    """Return the test images that the findings name.

    There are none without the data set, of inputs that are arrays, or without a record of who
    opened the test split. Raises ArtifactError when the data set is damaged.
    """
    found, data = findings.classes, findings.data
    folder = layout.dataset(data.settings.dataset)
    if found is None or not data.seal or data.example != "image" or not is_finished(folder):
        return {}
    rows = sorted({example.image for one in found.confusions for example in one.examples})
    images = opened_images(folder, layout.study(data.name).seal, rows)
    return dict(zip(rows, images, strict=True))


def data_uri(image: NDArray[np.uint8]) -> str:
    """Return an image [C, H, W] as a PNG in a data URI: grey if it has fewer than 3 channels."""
    pixels = image[0] if len(image) < 3 else np.moveaxis(image[:3], 0, -1)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
