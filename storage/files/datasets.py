"""Data sets on disk: split once, stored as tensors, and memory-mapped by every process.

    data/listings/<digest>.json    the fingerprint of the data set with this listing of files
    data/<fingerprint>/            manifest, and train, validation and test .safetensors
    data/openings.json             which studies opened which test split

The fingerprint covers the images, the labels and the split, so the same images in another folder
are the same data set. The listing identifies it at later starts, without decoding the images.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kd.data.examples import Examples
from kd.data.inputs import describe, read_inputs
from kd.data.reading.source import Progress, Source
from kd.data.splits import (
    Split,
    listing_digest,
    load_source,
    origins,
    passed_over,
    reading_of,
    split,
)
from kd.dataset_names import parse_own_dataset
from kd.errors import ArtifactError, DataError
from kd.json_data import to_wire
from kd.protocol import Protocol
from storage.files.artifacts import (
    Manifest,
    fingerprint,
    finish,
    is_finished,
    locked,
    read_json,
    read_manifest,
    sweep,
    write_json,
)
from storage.files.layout import Layout, dataset_part, lock_of
from storage.files.seal import SplitIdentity, record_opener, record_opening
from storage.files.streams import streaming
from storage.files.tensors import map_tensors

KIND = "dataset"
CHUNK = 2**24  # bytes of examples that are digested and written at a time
PASSES = 3  # over the examples of a new data set: they are read, digested and written


def prepare(
    layout: Layout,
    protocol: Protocol,
    progress: Progress | None = None,
    threads: int = 1,
    listing: Path | None = None,
) -> Manifest:
    """Return the manifest of the protocol's data set; a new one is read, split and stored.

    Image files are decoded on `threads` threads. If that is interrupted, the next call continues.

    The manifest's `info` has `classes` (names), `counts` (images per class of each part), `inputs`
    (see `kd.data.inputs`), `official` (the parts that the data set defines itself) and `digests`
    (see `SplitIdentity`). A stored data set is compared with its checksums. `progress` is called
    with the examples that are done and those in all; each counts once for each of PASSES. `listing`
    is the result of `find_listing`, if it is known. Of two processes, the second waits for the
    first.

    Raises DataError when the source is missing, unreadable or too small, ArtifactError when the
    stored data set is damaged.
    """
    wanted, how = _wanted(protocol), reading_of(protocol)
    listing, report = listing or find_listing(layout, protocol), progress or _silent

    def read(done: int, total: int) -> None:
        report(done, PASSES * total)

    place = layout.listing(fingerprint({"dataset": protocol.dataset}))
    with locked(lock_of(place), wait=True):
        folder = _listed_folder(layout, listing)
        if folder and is_finished(folder):
            return _read_verified(folder)
        scratch = _scratch(place.with_suffix(".decoding"), protocol)
        how = replace(how, scratch=scratch, threads=threads)
        try:
            source = load_source(protocol.dataset, how, layout.downloads, read, layout.own)
            if find_listing(layout, protocol) != listing:
                raise DataError(
                    f"{protocol.dataset} has changed while it was read; run the same command again"
                )
            manifest = _keep(layout, wanted, source, split(source, protocol), report)
        except DataError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        told = {
            "fingerprint": manifest.folder.name,
            "left_out": list(source.left_out),
            "passed_over": passed_over(protocol.dataset, how),
            "origins": origins(protocol.dataset, how),
        }
        write_json(listing, told)
        shutil.rmtree(scratch, ignore_errors=True)
        return manifest


def find_listing(layout: Layout, protocol: Protocol) -> Path:
    """Return where the data set is named of which the protocol's path has the files that it has.

    All files are listed for it, which takes minutes where there are a million; none is opened. The
    path exists once `prepare` has read the data set.
    """
    digest = listing_digest(protocol.dataset, reading_of(protocol))
    return layout.listing(fingerprint({**_wanted(protocol), "listing": digest}))


def read_listing(listing: Path) -> dict[str, Any]:
    """Return what is known of the source of a prepared data set.

    `left_out` are the files that cannot be read, `passed_over` a sentence on what is skipped, empty
    if nothing is, and `origins` what its own parts are called there, by the part.
    """
    return {name: read_json(listing)[name] for name in ("left_out", "passed_over", "origins")}


def _scratch(folder: Path, protocol: Protocol) -> Path:
    """Return the folder that images are decoded to, empty if they were others so far.

    A path has one at most. What a function of the user's own returns is never continued: it may
    return something else each time.
    """
    digest, kept = listing_digest(protocol.dataset, reading_of(protocol)), folder / "listing"
    same = kept.exists() and kept.read_text() == digest
    if not same or parse_own_dataset(protocol.dataset):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kept.write_text(digest)
    return folder


def open_part(folder: Path, part: Literal["train", "validation"]) -> Examples:
    """Return one part of a prepared data set, memory-mapped.

    Raises ArtifactError for the test split, which is sealed, and for a file that does not match its
    manifest; checksums are compared by `prepare`, not here.
    """
    if part not in ("train", "validation"):
        raise ArtifactError(
            f"part must be train or validation, got {part!r}; the test split is sealed until "
            "confirmation, which opens it through open_test"
        )
    return _open(folder, part)


def open_test(folder: Path, dataset: str, seal_path: Path, purpose: str) -> Examples:
    """Record that the test split is opened, then return it.

    The study's seal at `seal_path` records the purpose, the cache that this study opened it;
    `dataset` is that of the study's protocol. Raises ArtifactError for a damaged record.
    """
    split = SplitIdentity.of(read_manifest(folder, KIND), dataset)
    study = record_opening(seal_path, purpose)
    record_opener(folder, split, seal_path, study)
    return _open(folder, "test")


def _wanted(protocol: Protocol) -> dict[str, Any]:
    """Return the protocol's part of a data set's identity, without the path of a folder."""
    return {
        "dataset": protocol.dataset.partition(":")[0],
        "image_size": protocol.stored_size,
        "train_size": protocol.train_size,
        "validation_fraction": protocol.validation_fraction,
        "test_fraction": protocol.test_fraction,
        "split_seed": protocol.split_seed,
    }


def _listed_folder(layout: Layout, listing: Path) -> Path | None:
    if not listing.exists():
        return None
    kept = read_json(listing)
    name = kept.get("fingerprint") if isinstance(kept, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"[0-9a-f]{16}", name):
        raise ArtifactError(f"{listing} names no data set; delete it to have it made again")
    return layout.dataset(name)


def _read_verified(folder: Path) -> Manifest:
    manifest = read_manifest(folder, KIND)
    manifest.verify()
    return manifest


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def _keep(
    layout: Layout, wanted: dict[str, Any], source: Source, parts: Split, report: Progress
) -> Manifest:
    data = _digest_inputs(source, report)
    form = [source.classes, data, source.official]
    content = _digest(form, source.labels, *asdict(parts).values())
    digests = {
        "rows": _digest([], source.labels, parts.test),
        "data": _digest([data], source.labels),
    }
    identity = {**wanted, "content": content}
    folder = layout.dataset(fingerprint(identity))
    with locked(lock_of(folder), wait=True):  # two listings may be of the same data set
        if is_finished(folder):
            return _read_verified(folder)
        return _write(folder, identity, digests, source, parts, report)


def _digest(form: list[Any], *arrays: NDArray[np.int64]) -> str:
    """Return SHA-256 over what JSON holds, and arrays."""
    digest = hashlib.sha256(json.dumps([form, *map(len, arrays)]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _digest_inputs(source: Source, report: Progress) -> str:
    kind = f"{source.inputs.dtype.name}{' images' if source.deep else ''}"
    digest = hashlib.sha256(json.dumps([kind, source.inputs.shape]).encode())
    count = len(source.inputs)
    for rows in _chunks(source.inputs, np.arange(count)):
        digest.update(np.ascontiguousarray(source.inputs[rows[0] : rows[-1] + 1]).data)
        report(count + int(rows[-1]) + 1, PASSES * count)
    return digest.hexdigest()


def _chunks(inputs: NDArray[Any], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Divide rows so that the inputs of each part fit into CHUNK, if one does."""
    return np.array_split(rows, min(len(rows), 1 + len(rows) * inputs[:1].nbytes // CHUNK))


def _write(
    folder: Path,
    identity: dict[str, Any],
    digests: dict[str, str],
    source: Source,
    parts: Split,
    report: Progress,
) -> Manifest:
    described = to_wire(describe(source, parts.train))
    counts, written = {}, 0
    count, total = len(source.inputs), sum(map(len, asdict(parts).values()))
    for part, rows in asdict(parts).items():
        labels = source.labels[rows]
        for more in _write_part(dataset_part(folder, part), source.inputs, labels, rows):
            written += more
            report((PASSES - 1) * count + count * written // total, PASSES * count)
        counts[part] = np.bincount(labels, minlength=len(source.classes)).tolist()
    info = {
        "classes": list(source.classes),
        "counts": counts,
        "inputs": described,
        "official": source.official,
        "digests": digests,
    }
    return finish(folder, KIND, identity, info)


def _write_part(
    path: Path, inputs: NDArray[Any], labels: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[int]:
    """Write `inputs[rows]` and their labels; yield how many were written, some at a time."""
    sweep(path)
    count, shape = len(rows), inputs.shape[1:]
    forms = {"inputs": (inputs.dtype.name, (count, *shape)), "labels": ("int64", (count,))}
    with streaming(path, forms) as stream:
        stream.append("labels", labels)
        for chunk in _chunks(inputs, rows):
            stream.append("inputs", inputs[chunk])
            yield len(chunk)


def _open(folder: Path, part: str) -> Examples:
    manifest = read_manifest(folder, KIND)
    path, info = dataset_part(folder, part), manifest.info
    tensors = map_tensors(path)
    counts = torch.tensor(info["counts"][part])
    count, inputs = int(counts.sum()), read_inputs(info)
    _check_tensor(path, tensors, "inputs", inputs.dtype, (count, *inputs.shape))
    _check_tensor(path, tensors, "labels", torch.int64, (count,))
    labels = tensors["labels"]
    if labels.min() < 0 or not torch.equal(labels.bincount(minlength=len(counts)), counts):
        raise ArtifactError(f"{path} holds other labels than its manifest lists; delete {folder}")
    return Examples(values=tensors["inputs"], labels=labels, inputs=inputs)


def _check_tensor(
    path: Path,
    tensors: dict[str, torch.Tensor],
    name: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
) -> None:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != dtype or tuple(tensor.shape) != shape:
        received = "none" if tensor is None else f"{list(tensor.shape)} {tensor.dtype}"
        raise ArtifactError(
            f"{path} must hold {name} {list(shape)} {dtype}, got {received}; delete {path.parent}"
        )
