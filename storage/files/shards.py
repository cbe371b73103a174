"""The teacher cache: the teacher's outputs for every augmented view of the training set.

    shards/<fingerprint>/            manifest: what every shard here was made from
        projections.safetensors      one projection per tap
        validation.safetensors       the teacher's logits of the validation split
        view-00000/                  one shard: manifest and reading.safetensors

A shard is one folder artifact, so an interrupted fill continues where it stopped. Tensors are
memory-mapped: all workers share one copy in the page cache.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.errors import ArtifactError
from kd.models.taps import TapReading
from kd.training.cached_logits import CLASSES, LOGITS, columns, decode, encode
from kd.training.teacher import Projection, TeacherReading
from storage.files.artifacts import Manifest, finish, is_finished, read_manifest
from storage.files.layout import view_folder
from storage.files.streams import streaming
from storage.files.tensors import map_tensors, write_tensors

PROJECTIONS = "projections.safetensors"
VALIDATION = "validation.safetensors"
READING = "reading.safetensors"
PINNING = ("cuda", "xpu")  # devices that copy from pinned memory while they compute


def begin(
    folder: Path,
    identity: dict[str, Any],
    projections: Mapping[str, Projection],
    validation_logits: Tensor,
    sizes: dict[str, int],
    cache_logits: str = "float32",
) -> Manifest:
    """Create a cache without shards; return its manifest. `sizes` are bytes of a view, by part.

    The validation logits are kept as they are. Raises ArtifactError if `cache_logits`, which also
    the live teacher's logits of training images are rounded to, cannot hold them.
    """
    if cache_logits != "float32":
        _check_finite(encode(validation_logits, cache_logits), "the validation split")
    vectors = {tap: projection.vectors for tap, projection in projections.items()}
    write_tensors(folder / PROJECTIONS, vectors)
    write_tensors(folder / VALIDATION, {"logits": validation_logits})
    taps = {
        tap: {"scale": p.scale, "variance": p.variance, "energy": p.energy}
        for tap, p in projections.items()
    }
    return finish(folder, "shards", identity, {"sizes": sizes, "taps": taps})


def read_projections(folder: Path) -> tuple[dict[str, Projection], Tensor]:
    """Return the projections by tap, and the validation logits [N, classes] float32.

    Raises ArtifactError when they are missing or damaged.
    """
    manifest = read_manifest(folder, "shards")
    vectors = map_tensors(folder / PROJECTIONS)
    figures = manifest.info.get("taps")
    if not isinstance(figures, dict) or set(figures) != set(vectors):
        raise ArtifactError(
            f"the projections in {folder} do not match its manifest; delete the folder"
        )
    _check_dtypes(folder / PROJECTIONS, vectors, dict.fromkeys(vectors, (torch.float32, 2)))
    try:
        projections = {tap: Projection(vectors=vectors[tap], **figures[tap]) for tap in figures}
    except TypeError:
        raise ArtifactError(f"{folder} lacks figures of its projections; delete it") from None
    validation = map_tensors(folder / VALIDATION)
    _check_dtypes(folder / VALIDATION, validation, {"logits": (torch.float32, 2)})
    return projections, validation["logits"]


def _check_dtypes(
    path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[torch.dtype, int]]
) -> None:
    """Raise ArtifactError unless the tensors have these names, dtypes and numbers of dimensions."""
    actual = {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()}
    if actual != wanted:
        names = ", ".join(
            sorted(name for name in {*actual, *wanted} if actual.get(name) != wanted.get(name))
        )
        raise ArtifactError(
            f"{path} has {names} of a wrong dtype or shape; delete {path.parent} "
            "to have it made again"
        )


def _check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise ArtifactError unless all values are finite that are to be kept of `what`."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            half = name == LOGITS and tensor.dtype == torch.float16
            wider = ", or use --cache-logits float32, since float16 ends at 65504" if half else ""
            raise ArtifactError(
                f"the teacher's {name} of {what} are not all finite; "
                f"train it with a smaller --teacher-lr{wider}"
            )


def write_shard(
    folder: Path,
    k: int,
    rows: int,
    chunks: Iterable[TeacherReading],
    cache_logits: str = "float32",
) -> Generator[int]:
    """Write the shard of view `k` from `chunks` of its `rows`, in their order, as they come.

    Yields how many rows are written after each; a generator that is closed before its end leaves no
    shard. The logits of the chunks are exact; see `kd.training.cached_logits` for what is kept of
    them. Raises ArtifactError if a value is not finite.
    """
    place, done = view_folder(folder, k), 0
    chunks = iter(chunks)
    first = next(chunks)
    forms = {
        name: (str(tensor.dtype).removeprefix("torch."), (rows, *tensor.shape[1:]))
        for name, tensor in _kept(first, cache_logits).items()
    }
    with streaming(place / READING, forms) as stream:
        for chunk in chain([first], chunks):
            tensors = _kept(chunk, cache_logits)
            _check_finite(tensors, f"view {k}")
            for name, tensor in tensors.items():
                stream.append(name, tensor.cpu().numpy())
            done += len(chunk.logits)
            yield done
    identity = read_manifest(folder, "shards").identity
    finish(place, "shard", {**identity, "view": k}, {"taps": list(first.taps)})


def _kept(reading: TeacherReading, cache_logits: str) -> dict[str, Tensor]:
    """Return what a shard holds of a reading, by name."""
    tensors = encode(reading.logits, cache_logits)
    for tap, of_tap in reading.taps.items():
        tensors[f"{tap}.features"] = of_tap.features.half()
        tensors[f"{tap}.attention"] = of_tap.attention.half()
    return tensors


class CachedTeacher:
    """A teacher source that reads shards; see `kd.training.teacher.TeacherSource`."""

    def __init__(self, folder: Path, device: torch.device, cache_logits: str = "float32") -> None:
        self.folder = folder
        self.device = device
        self._pins = device.type in PINNING
        self.identity = read_manifest(folder, "shards").identity
        self.projections, self.validation_logits = read_projections(folder)
        self._classes = self.validation_logits.shape[1]
        self._logits = columns(cache_logits, self._classes)
        self._view = -1
        self._tensors: dict[str, Tensor] = {}

    def read(self, view: int, index: Tensor, images: Tensor, taps: Sequence[str]) -> TeacherReading:
        self._open(view)
        readings = {
            tap: TapReading(
                features=self._take(f"{tap}.features", index).float(),
                attention=self._take(f"{tap}.attention", index).float(),
                variance=self.projections[tap].variance,
            )
            for tap in taps
        }
        logits = decode(self.kept_logits(view, index), self._classes)
        return TeacherReading(logits, readings)

    def kept_logits(self, view: int, index: Tensor) -> dict[str, Tensor]:
        """Return the rows `index` of the tensors that keep a view's logits, by name."""
        self._open(view)
        return {name: self._take(name, index) for name in self._logits}

    def _take(self, name: str, index: Tensor) -> Tensor:
        try:
            # On a CPU this takes a fifth of the time of indexing, which copies single numbers.
            rows = self._tensors[name].index_select(0, index)
        except IndexError:
            place = view_folder(self.folder, self._view)
            raise ArtifactError(
                f"{place} holds fewer rows than the training split; delete it to have it made again"
            ) from None
        if self._pins:
            rows = rows.pin_memory()
        return rows.to(self.device, non_blocking=self._pins)

    def _open(self, view: int) -> None:
        """Map the shard of `view`, unless it is mapped already."""
        if view == self._view:
            return
        place = view_folder(self.folder, view)
        if not is_finished(place):
            raise ArtifactError(
                f"the teacher cache lacks view {view}: {place} is missing; run the study again"
            )
        taps = read_manifest(place, "shard", {**self.identity, "view": view}).info.get("taps", [])
        self._tensors, self._view = self._checked(place / READING, taps), view

    def _checked(self, path: Path, taps: Sequence[str]) -> dict[str, Tensor]:
        """Return a shard's tensors of `taps`; it has more for a moment when it gets its features.

        Raises ArtifactError unless all are there, of the right shapes.
        """
        wanted = {name: (dtype, 2) for name, (dtype, _) in self._logits.items()}
        for tap in taps:
            wanted |= {
                f"{tap}.features": (torch.float16, 4),
                f"{tap}.attention": (torch.float16, 3),
            }
        tensors = {name: kept for name, kept in map_tensors(path).items() if name in wanted}
        _check_dtypes(path, tensors, wanted)
        ranks = {tap: self.projections[tap].vectors.shape[1] for tap in taps}
        fit = [tensors[f"{tap}.features"].shape[1] == ranks[tap] for tap in taps]
        fit += [tensors[name].shape[1] == count for name, (_, count) in self._logits.items()]
        fit.append(len({len(tensor) for tensor in tensors.values()}) == 1)
        if CLASSES in tensors:
            numbers = tensors[CLASSES]
            fit.append(bool(((numbers >= 0) & (numbers <= self._classes - 1)).all()))
        if not all(fit):
            raise ArtifactError(f"{path} does not fit its projections; delete {path.parent}")
        return tensors
