"""Sources: data sets that have a name, read from where they come, as one uint8 array each.

    digits                             scikit-learn's; comes with the install
    cifar10, cifar100, fashion-mnist   torchvision's; downloaded on first use, MD5 checked

CIFAR's files are pickles, which can run code: they are opened only after their MD5 was compared
with the published one. Archives are unpacked into a temporary folder and stay packed on disk.
"""

import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd.errors import DataError

DIGITS = "data/digits.csv.gz"  # in scikit-learn's folder of data sets
TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}

Progress = Callable[[int, int], None]  # images read, images in all
BLOCK = 64  # images between two reports of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All images of a data set: `images` [N, C, H, W] uint8 with H = W, `labels` [N] int64.

    `test` [N] says which images are the test split that the data set comes with, if it has one.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    test: NDArray[np.bool_] | None


def read_named(dataset: str, data_dir: Path) -> Source:
    """Read a data set of `kd.names.DATASETS` in its own image size.

    `data_dir` is where torchvision's data sets are looked for and downloaded to. Raises DataError
    when a file is damaged or cannot be downloaded.
    """
    return _digits() if dataset == "digits" else _from_torchvision(dataset, data_dir)


def resized(source: Source, image_size: int, progress: Progress) -> Source:
    """Return the source with every image [C, image_size, image_size], bilinear and antialiased.

    Pillow, not torch, resizes: its integer arithmetic gives the same bytes on every machine.
    """
    count, channels, height, _ = source.images.shape
    if height == image_size:
        return source
    images = allocate(count, channels, image_size)
    for row in range(count):
        for channel in range(channels):
            plane = Image.fromarray(source.images[row, channel])
            plane = plane.resize((image_size, image_size), Image.Resampling.BILINEAR)
            images[row, channel] = np.asarray(plane)
        if (row + 1) % BLOCK == 0 or row + 1 == count:
            progress(row + 1, count)
    return replace(source, images=images)


def allocate(count: int, channels: int, image_size: int) -> NDArray[np.uint8]:
    """Return room for images [count, channels, image_size, image_size]. Raises DataError."""
    shape = (count, channels, image_size, image_size)
    try:
        return np.empty(shape, np.uint8)
    except MemoryError:
        raise DataError(
            f"{count} images of {channels}x{image_size}x{image_size} bytes do not fit in memory; "
            "take a smaller image_size, or fewer images"
        ) from None


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _digits() -> Source:
    """Read the file that comes with scikit-learn: a row an image, 64 pixels of 0-16 and the digit.

    The file is read in 10 ms, and the package, which is not needed for it, imported in a second.
    """
    package = find_spec("sklearn")
    if not package or not package.origin:
        raise DataError("the digits come with scikit-learn, which is not installed")
    rows = np.loadtxt(Path(package.origin).with_name("datasets") / DIGITS, np.int64, delimiter=",")
    images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    classes = tuple("0123456789")
    return Source(images=images, labels=rows[:, -1].copy(), classes=classes, test=None)


@dataclass(frozen=True, slots=True)
class _Archive:
    """A published file, its `place` on disk, and what to say that the user should put there."""

    dataset: str
    url: str
    place: Path
    md5: str
    wanted: str


def _from_torchvision(dataset: str, data_dir: Path) -> Source:
    from torchvision import datasets

    kind: Any = getattr(datasets, TORCHVISION[dataset])
    unpacked = getattr(kind, "base_folder", None)
    if unpacked and (data_dir / unpacked).is_dir():
        return _both_halves(kind, data_dir, data_dir / unpacked)
    with tempfile.TemporaryDirectory(prefix="retort-") as scratch:
        for archive in _archives(dataset, kind, data_dir):
            _fetch(archive)
            _unpack(archive.place, Path(scratch, archive.place.relative_to(data_dir)).parent)
        return _both_halves(kind, Path(scratch), data_dir)


def _archives(dataset: str, kind: Any, data_dir: Path) -> list[_Archive]:
    if dataset == "fashion-mnist":
        raw = data_dir / "FashionMNIST" / "raw"
        url, wanted = kind.mirrors[0], ", ".join(name for name, _ in kind.resources)
        return [
            _Archive(dataset, url + name, raw / name, md5, wanted) for name, md5 in kind.resources
        ]
    wanted = f"{kind.filename} or {kind.base_folder}/"
    return [_Archive(dataset, kind.url, data_dir / kind.filename, kind.tgz_md5, wanted)]


def _fetch(archive: _Archive) -> None:
    """See to it that the archive is at its place and is the published one."""
    from torchvision.datasets.utils import check_integrity

    if not archive.place.exists():
        _download(archive)
    elif not check_integrity(archive.place, archive.md5):
        raise DataError(
            f"{archive.place} is damaged: its MD5 is not {archive.md5}; "
            "delete it to have it downloaded again"
        )


def _download(archive: _Archive) -> None:
    """Download beside the archive's place, check the MD5, then rename."""
    from torchvision.datasets.utils import download_url

    folder, name = archive.place.parent, archive.place.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            download_url(archive.url, scratch, name, archive.md5)
            Path(scratch, name).rename(archive.place)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: of another MD5
        raise DataError(
            f"{archive.dataset} could not be downloaded from {archive.url} ({one_line(error)}): "
            f"put {archive.wanted} into {folder}, or name another data folder with --data-dir"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as members:
            members.extractall(folder, filter="data")
        return
    from torchvision.datasets.utils import extract_archive

    folder.mkdir(parents=True, exist_ok=True)
    extract_archive(archive, folder)


def _both_halves(kind: Any, root: Path, shown: Path) -> Source:
    """Read what is unpacked under `root`; CIFAR's pickles are opened only with the right MD5."""
    try:
        halves = [kind(root, train=True), kind(root, train=False)]
    except RuntimeError as error:
        raise DataError(
            f"{shown} does not hold {kind.__name__} as published (a file is missing, or its MD5 "
            "differs); delete it to have the data set downloaded again"
        ) from error
    images = np.concatenate([np.asarray(half.data) for half in halves])
    labels = np.concatenate([np.asarray(half.targets, np.int64) for half in halves])
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Source(
        images=np.ascontiguousarray(images),
        labels=labels,
        classes=tuple(halves[0].classes),
        test=np.arange(len(labels)) >= len(halves[0].data),
    )
