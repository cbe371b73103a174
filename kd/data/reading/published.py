"""Data sets of torchvision, downloaded on first use and compared with their published MD5.

CIFAR's files are pickles, which can run code: they are opened only after the comparison. Archives
are unpacked into a temporary folder; the folder for downloads keeps only the archive.
"""

import tarfile
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from kd.data.reading.images import one_line
from kd.data.reading.source import Source
from kd.errors import DataError


@dataclass(frozen=True, slots=True)
class _Archive:
    """A published file, its `place` on disk, and `wanted`, the files that an error asks for."""

    dataset: str
    url: str
    place: Path
    md5: str
    wanted: str


def read_torchvision(dataset: str, name: str, folder: Path) -> Source:
    """Read torchvision's class `name` in its original image size; `dataset` is for errors.

    Raises DataError when a file under `folder` is damaged, or cannot be downloaded.
    """
    from torchvision import datasets

    kind: Any = getattr(datasets, name)
    unpacked = getattr(kind, "base_folder", None)
    if unpacked and (folder / unpacked).is_dir():
        return _both_halves(kind, folder, folder / unpacked)
    with tempfile.TemporaryDirectory(prefix="retort-") as scratch:
        for archive in _archives(dataset, kind, folder):
            _fetch(archive)
            _unpack(archive.place, Path(scratch, archive.place.relative_to(folder)).parent)
        return _both_halves(kind, Path(scratch), folder)


def _archives(dataset: str, kind: Any, folder: Path) -> list[_Archive]:
    if hasattr(kind, "mirrors"):
        raw = folder / kind.__name__ / "raw"
        url, wanted = kind.mirrors[0], ", ".join(name for name, _ in kind.resources)
        return [
            _Archive(dataset, url + name, raw / name, md5, wanted) for name, md5 in kind.resources
        ]
    wanted = f"{kind.filename} or {kind.base_folder}/"
    return [_Archive(dataset, kind.url, folder / kind.filename, kind.tgz_md5, wanted)]


def _fetch(archive: _Archive) -> None:
    """Download the archive unless it exists. Raises DataError if its MD5 is not the published."""
    from torchvision.datasets.utils import check_integrity

    if not archive.place.exists():
        _download(archive)
    elif not check_integrity(archive.place, archive.md5):
        raise DataError(
            f"{archive.place} is damaged: its MD5 is not {archive.md5}; "
            "delete it to have it downloaded again"
        )


def _download(archive: _Archive) -> None:
    """Download to a temporary folder, check the MD5, then rename. Raises DataError."""
    from torchvision.datasets.utils import download_url

    folder, name = archive.place.parent, archive.place.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            download_url(archive.url, scratch, name, archive.md5)
            Path(scratch, name).rename(archive.place)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the MD5 differs
        raise DataError(
            f"{archive.dataset} could not be downloaded from {archive.url} ({one_line(error)}): "
            f"put {archive.wanted} into {folder}, or name the folder that holds the files: "
            f"--dataset {archive.dataset}:DIR"
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
    """Read the unpacked files under `root`; CIFAR's pickles are opened only if the MD5 is right."""
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
        inputs=np.ascontiguousarray(images),
        labels=labels,
        classes=tuple(halves[0].classes),
        part=np.repeat(["", "test"], [len(half.data) for half in halves]),
    )
