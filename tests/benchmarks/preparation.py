"""What it takes to prepare a data set of JPEG files, and to read it again.

Files have the size of a typical photograph of ImageNet, 500x375 pixels, and images the 224 pixels
that networks for it take. Anonymous memory is what Linux counts as such in /proc: that of the files
which a process maps can be given back at any time.
"""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from kd.data.examples import Examples
from kd.protocol import Protocol
from storage.files.datasets import PASSES, open_part, prepare
from storage.files.layout import Layout
from tests.benchmarks.harness import Figure, ratio, spread
from tests.benchmarks.training import CPU
from workers.machine import usable_cores

WIDTH, HEIGHT = 500, 375  # px, of a file
SIZE = 224  # px, of an image
CLASSES = 8
IMAGES = 6144
DISTINCT = 64  # files that are drawn; the others are copies
BATCH = 64
MOST = 1000.0  # MB


def figures(quick: bool) -> Iterator[Figure]:
    """Prepare a data set from its files, then start on it again and read it in both ways."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        files, layout = Path(place, "files"), Layout(Path(place, "runs"))
        count = 128 if quick else IMAGES
        _write_photographs(files, count)
        protocol = Protocol(
            dataset=f"folder:{files}",
            image_size=SIZE,
            teachers=("resnet20",),
            teacher_epochs=1,
            students=("resnet8",),
            epochs=1,
        )
        yield from _prepared(layout, protocol, count)
        started, size = time.perf_counter(), count * 3 * SIZE**2 / 1e6
        folder = prepare(layout, protocol).folder
        rate = size / (time.perf_counter() - started)
        yield spread("a prepared data set, compared with its checksums", [rate], unit="MB/s")
        yield _streamed(open_part(folder, "train"), 1 if quick else 5)


def _prepared(layout: Layout, protocol: Protocol, count: int) -> Iterator[Figure]:
    """Prepare the data set; yield the rates of its passes, and the memory that they take."""
    before, most, cores = _anonymous(), 0.0, usable_cores()
    began = last = time.perf_counter()
    reading: list[float] = []

    def look(done: int, total: int) -> None:
        nonlocal most, last
        most = max(most, _anonymous())
        if done * PASSES <= total:
            last = time.perf_counter()
            reading.append(last - began)

    prepare(layout, protocol, look, cores)
    rest = time.perf_counter() - last
    size = count * 3 * SIZE**2 / 1e6
    yield spread(
        f"JPEGs of {WIDTH}x{HEIGHT}, decoded to {SIZE}x{SIZE}, by one core",
        [count / reading[-1] / cores],
        unit="images/s",
        note=f"{count:,} files, {cores} threads",
    )
    yield spread("their digest, statistics and files", [size / rest], unit="MB/s", note="1 thread")
    yield spread(
        f"anonymous memory while {size / 1000:.2f} GB are prepared",
        [most],
        unit="MB",
        goal=MOST,
        note=f"of it {before:.0f} MB at the start, most of that torch",
    )


def _streamed(data: Examples, rounds: int) -> Figure:
    """Compare batches that a thread gathers with those that are gathered when they are needed."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).split(BATCH)
    rows, streamed = data.view(0, 0, "crop=4,flip"), data.to(CPU, room=0)

    def walk(examples: Examples) -> None:
        for images, _ in examples.batches(order, rows):
            examples.inputs.normalise(images)

    return ratio(
        f"an epoch's input, streamed / from memory, {SIZE}x{SIZE}",
        lambda: walk(streamed),
        lambda: walk(data),
        rounds=rounds,
        note=f"{len(data):,} images in batches of {BATCH}, in the page cache",
    )


def _anonymous() -> float:
    """Return this process's anonymous memory, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no RssAnon")


def _write_photographs(folder: Path, count: int) -> None:
    """Write smooth random pictures with some grain, the same number for each class."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        coarse = generator.integers(0, 256, (24, 32, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        grain = generator.normal(0, 6, (HEIGHT, WIDTH, 3))
        pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    for number in range(count):
        place = folder / str(number % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(pictures[number % DISTINCT])
