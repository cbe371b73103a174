"""28x28 clothes in grey, 70,000 of 10 classes, downloaded on first use."""

from pathlib import Path

from kd.data.sources import Progress, Reading, Source
from kd.data.sources._torchvision import read_torchvision

DOWNLOADED = True
IMAGES = True


def read(place: Path, how: Reading, progress: Progress) -> Source:
    return read_torchvision("fashion-mnist", "FashionMNIST", place)
