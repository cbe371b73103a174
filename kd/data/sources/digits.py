"""8x8 handwritten digits in grey, 1,797 of 10 classes, installed with scikit-learn.

The file is read in 10 ms; importing the package, which is not needed for it, takes a second.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kd.data.reading.source import Progress, Reading, Source
from kd.errors import DataError

DIGITS = "data/digits.csv.gz"  # in scikit-learn's folder of data sets
IMAGES = True


def read(place: Path, how: Reading, progress: Progress) -> Source:
    """Read one row per image: 64 pixels of 0-16, and the digit."""
    package = find_spec("sklearn")
    if not package or not package.origin:
        raise DataError("the digits come with scikit-learn, which is not installed")
    rows = np.loadtxt(Path(package.origin).with_name("datasets") / DIGITS, np.int64, delimiter=",")
    images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    classes = tuple("0123456789")
    return Source(inputs=images, labels=rows[:, -1].copy(), classes=classes)
