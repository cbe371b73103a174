"""What one more worker takes of memory that it shares with nobody, while it trains.

Private memory is what Linux counts as such in /proc/PID/smaps_rollup. Modules that the fork server
has imported are shared until they are written to; tensor files are mapped, and shared as soon as
another worker has read the same page of them.
"""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from tests.benchmarks.harness import Figure, spread
from tests.benchmarks.recording import record

SECOND = "retort-worker-1"  # the name of the process
CLASSES = 10
SIZE = 32  # px
MOST = 350.0  # MB


def figures(quick: bool) -> Iterator[Figure]:
    """Yield the private memory of a study's second worker at its epochs: default, and resnet20."""
    trials, epochs, images = ("1", "2", 300) if quick else ("4", "6", 2000)
    search = ("--trials", trials, "--epochs", epochs, "--teacher-epochs", "1")
    with TemporaryDirectory() as folder:
        yield _second_worker("default student", Path(folder), *search)
    with TemporaryDirectory() as folder:
        root, pictures = Path(folder, "runs"), Path(folder, "pictures")
        _write_pictures(pictures, images)
        pair = ("--teacher", "resnet20", "--student", "resnet20", "--batch-size", "128")
        flags = ("--dataset", f"folder:{pictures}", "--image-size", str(SIZE), *pair)
        short = ("--trials", "1", "--epochs", "2", "--teacher-epochs", "1")
        yield _second_worker("resnet20 at 32x32, batch 128", root, *flags, *short)


def _second_worker(what: str, root: Path, *flags: str) -> Figure:
    """Search with two workers; after each epoch of either, look at the second."""
    found: list[dict[str, float]] = []
    record(root, *flags, search_only=True, watch=lambda: found.extend(_looks()))
    private = [look["Private_Clean"] + look["Private_Dirty"] for look in found]
    written = max(look["Private_Dirty"] for look in found)
    shared = max(look["Shared_Clean"] + look["Shared_Dirty"] for look in found)
    note = f"of it at most {written:.0f} MB written to; {shared:.0f} MB are shared"
    return spread(
        f"private memory of a further worker, {what}", private, unit="MB", goal=MOST, note=note
    )


def _looks() -> Iterator[dict[str, float]]:
    """Yield the parts of the second worker's memory, in MB, if there is one by now."""
    for process in multiprocessing.active_children():
        if process.name == SECOND:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
            parts = (line.split() for line in lines)
            yield {name.rstrip(":"): int(size) * 1024 / 1e6 for name, size, *_ in parts}


def _write_pictures(folder: Path, count: int) -> None:
    """Write noise as PNG files, the same number for each class."""
    generator = np.random.default_rng(0)
    for label in range(CLASSES):
        place = folder / str(label)
        place.mkdir(parents=True)
        for number in range(count // CLASSES):
            pixels = generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number:04d}.png")
