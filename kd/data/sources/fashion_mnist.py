"""28x28 clothes in grey, 70,000 of 10 classes, downloaded on first use."""

from pathlib import Path

from kd.data.reading.published import read_torchvision
from kd.data.reading.source import Progress, Reading, Source

DOWNLOADED = True
IMAGES = True


def read(place: Path, how: Reading, progress: Progress) -> Source:
    return read_torchvision("fashion-mnist", "FashionMNIST", place)
