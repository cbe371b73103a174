"""Each field of the protocol changes the fingerprints of what depends on it, and no others."""

import dataclasses
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.data.reading.source import Reading, Source
from kd.names import AUGMENTATIONS
from kd.protocol import Protocol
from storage.files import datasets
from storage.files.artifacts import fingerprint
from storage.files.layout import Layout
from tests.support.small import protocol, square
from workers.jobs import JobContext
from workers.runners.caching import shards_identity
from workers.runners.loading import received_inputs
from workers.runners.preparing import Tuning, teacher_identity

DATA = {"dataset", "teacher", "cache"}  # the teacher depends on the data, the cache on the teacher
TEACHER = {"teacher", "cache"}
CACHE = {"cache"}
NONE: set[str] = set()

# field of the protocol: another value, and the fingerprints that change with it
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "dataset": ("cifar10", DATA),
    "image_size": (9, DATA),
    "fit": ("pad", NONE),  # the data set follows the pixels: those of squares are the same
    "follow_links": (True, NONE),
    "skip_bad_images": (True, NONE),
    "teacher_size": (4, TEACHER),
    "train_size": (61, DATA),
    "validation_fraction": (0.2, DATA),
    "test_fraction": (0.3, DATA),
    "split_seed": (1, DATA),
    "augment": ("crop=2,flip", TEACHER),
    "teachers": (("resnet14",), TEACHER),
    "teacher_weights": (("weights.safetensors",), TEACHER),
    "teacher_epochs": (3, TEACHER),
    "teacher_optimizer": ("adamw", TEACHER),
    "teacher_lr": (0.05, TEACHER),
    "teacher_weight_decay": (1e-4, TEACHER),
    "students": (("resnet20",), NONE),
    "student_weights": ("small.pth@0123456789ab", NONE),
    "max_params": (1000, NONE),
    "max_latency_ms": (1.0, NONE),
    "stem": ("imagenet", TEACHER),
    "taps": (("last1",), CACHE),
    "epochs": (3, NONE),
    "views": (5, NONE),
    "cache_logits": ("float16", CACHE),
    "confirm_epochs": (4, NONE),
    "batch_size": (17, TEACHER),
    "warmup": (0.2, TEACHER),
    "optimizer": ("adamw", NONE),
    "clip": (1.0, TEACHER),
    "ema": (0.9, NONE),
    "loss": ("dkd", NONE),
    "class_weights": ("balanced", TEACHER),
    "metric": ("balanced-accuracy", NONE),
    "margin": (1.0, NONE),
    "seed": (1, TEACHER),
    "threads": (2, TEACHER),
    "precision": ("bfloat16", TEACHER),
    "compile": (True, TEACHER),
}


def source(dataset: str, how: Reading, *_: object) -> Source:
    """Black images, 40 of each of three classes, without a test split of their own."""
    images = np.zeros((120, 1, how.size, how.size), np.uint8)
    return Source(inputs=images, labels=np.arange(120) % 3, classes=("a", "b", "c"))


def fingerprints(root: Path, of: Protocol) -> dict[str, str]:
    """Return the names of data set, teacher and cache; the teacher's stands for its weights."""
    dataset = datasets.prepare(Layout(root), of).folder.name
    teacher = fingerprint(teacher_identity(Tuning.of(of), dataset))
    context = JobContext(protocol=of, root=str(root), dataset=dataset)
    inputs = received_inputs(context, of.teacher, teacher=True)
    cache = fingerprint(shards_identity(of, dataset, teacher, of.tap_names, inputs))
    return {"dataset": dataset, "teacher": teacher, "cache": cache, "hash": of.hash}


def test_every_field_of_the_protocol_is_in_the_table() -> None:
    """A new field: say here what depends on it."""
    assert list(CHANGES) == [field.name for field in dataclasses.fields(Protocol)]


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_changes_the_fingerprints_of_what_depends_on_it(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_source", source)
    monkeypatch.chdir(tmp_path)
    Path("weights.safetensors").write_bytes(b"weights")
    value, expected = CHANGES[field]
    was = fingerprints(tmp_path / "runs", protocol())
    now = fingerprints(tmp_path / "runs", dataclasses.replace(protocol(), **{field: value}))
    assert {what for what in was if was[what] != now[what]} == {*expected, "hash"}


def test_a_teacher_of_larger_images_is_that_of_a_study_whose_images_are_all_as_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are stored in the larger size, in which the teacher receives them in both."""
    monkeypatch.setattr(datasets, "load_source", source)
    runs = tmp_path / "runs"
    small, larger = fingerprints(runs, protocol()), fingerprints(runs, protocol(teacher_size=12))
    assert {what for what in small if small[what] != larger[what]} == {*DATA, "hash"}
    alike = fingerprints(runs, protocol(image_size=12))
    assert {what for what in larger if larger[what] != alike[what]} == {"hash"}


def test_equal_weights_that_read_another_normalisation_fill_another_cache() -> None:
    """Those of a library, given as a file, read the normalisation of the training images."""
    caches = {
        fingerprint(shards_identity(protocol(), "d", "weights", ("last1",), square(mean=mean)))
        for mean in (0.5, 0.4)
    }
    assert len(caches) == 2


def test_the_weights_that_a_teacher_starts_from_are_named_by_their_content(tmp_path: Path) -> None:
    found = set()
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"other")):
        path = tmp_path / folder / "weights.safetensors"
        path.parent.mkdir()
        path.write_bytes(content)
        tuning = Tuning.of(protocol(teacher_weights=(str(path),)))
        found.add(fingerprint(teacher_identity(tuning, "d")))
    assert len(found) == 2


def test_what_an_augmentation_does_is_in_the_fingerprints_and_how_it_is_written_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_source", source)
    package = importlib.import_module(AUGMENTATIONS.package)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    written = (
        "def draw(generator, count, shape, value):\n    return {}\n\n\n"
        "def apply(batch, drawn, value):\n    return batch.flip(-1)\n"
    )
    texts = (written, f"# A comment.\n{written}", written.replace("-1", "-2"))
    found = []
    for text in texts:
        (tmp_path / "mirror.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop(f"{AUGMENTATIONS.package}.mirror", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        found.append(fingerprints(tmp_path / "runs", protocol(augment="mirror")))
    sys.modules.pop(f"{AUGMENTATIONS.package}.mirror")
    once, commented, other = found
    assert commented == once
    assert {what for what in once if once[what] != other[what]} == TEACHER


def test_equal_weights_in_code_of_the_users_own_that_changed_fill_another_cache() -> None:
    """With --teacher-epochs 0 a file's weights stay the same, whatever the code does with them."""
    caches = {
        fingerprint(shards_identity(of, "d", "weights", ("last1",), square()))
        for digest in ("0" * 12, "1" * 12)
        for of in [protocol(teachers=(f"mine.py:large@{digest}",))]
    }
    assert len(caches) == 2
