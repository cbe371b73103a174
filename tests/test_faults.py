"""A machine's faults end a study in one clear line, and the same command goes on afterwards."""

import datetime
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conductor.cli import main
from storage.artifacts import MANIFEST
from tests.tiny import FLAGS, hasten, refuse, results, succeed

ROOM = "3m"  # of the little disk; a tiny study takes less


@pytest.fixture(autouse=True)
def _hastened(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The root of a study that has ended."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert main([*FLAGS.split(), "--root", str(root)]) == 0
    with closing(sqlite3.connect(root / "studies.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return root


@contextmanager
def disk(place: Path, size: str) -> Iterator[None]:
    """Mount a disk in memory for the block. Skips for whoever may not."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "retort-test", str(place)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip("a disk can be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


class FullDisk:
    """Fills a disk to its last byte just before the first call of a function."""

    def __init__(self, place: Path) -> None:
        self._ballast = place / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (65536, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    @contextmanager
    def before(self, owner: str, name: str) -> Iterator[None]:
        """Fill the disk before the first call of `name` of the module or class `owner`."""
        with pytest.MonkeyPatch.context() as patch:
            target = pytest.importorskip(owner)
            real = getattr(target, name)

            def filled(*arguments: Any, **named: Any) -> Any:
                if not self._ballast.exists():
                    self.fill()
                return real(*arguments, **named)

            patch.setattr(target, name, filled)
            yield
        assert self._ballast.exists(), f"{owner}.{name} was not called"
        self._ballast.unlink()


# What is written when the disk becomes full, in the order in which a study comes to it.
STAGES = (
    ("the data", "storage.datasets", "write_tensors"),
    ("the teacher", "workers.stages", "write_tensors"),
    ("projections", "storage.shards", "begin"),
    ("a shard", "storage.shards", "write_shard"),
    ("the settings", "conductor.provenance", "write_json"),
    ("the database", "conductor.study", "open_study"),
    ("a checkpoint", "storage.checkpoints", "write_tensors"),
    ("a record", "storage.records", "write_json"),
    ("predictions", "workers.runs", "write_tensors"),
    ("the teacher's test", "workers.comparing", "write_tensors"),
    ("the report", "reports.report", "summarise"),
)


def test_a_disk_that_may_only_be_read_ends_the_study_in_one_line(
    finished, tmp_path, capsys
) -> None:
    place = tmp_path / "disk"
    with disk(place, "16m"):
        remount(place, "ro")
        assert "Read-only file system" in refuse(place / "root", capsys)
        remount(place, "rw")
        root = Path(shutil.copytree(finished, place / "root"))
        remount(place, "ro")
        assert "Read-only file system" in refuse(root, capsys)
        remount(place, "rw")
        succeed(root, capsys)
        assert results(root) == results(finished)


@pytest.mark.parametrize(
    "place",
    ["", "cache", "cache/data", "cache/teachers", "cache/shards", "digits", "digits/trials"],
)
def test_a_file_in_place_of_a_folder_is_named(tmp_path, capsys, place: str) -> None:
    root = tmp_path / "root"
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("no folder")
    said = refuse(root, capsys)
    assert str(root / place) in said
    assert (root / place).read_text() == "no folder"


def test_a_folder_in_place_of_the_database_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "studies.db").mkdir()
    assert "unable to open database file" in refuse(tmp_path, capsys)


# Truncated files.

# What a study reads again: those that are made again once they are deleted, as the message says,
# and those that have to be restored.
KINDS = (
    "cache/data/listings/*.json",
    f"cache/data/*/{MANIFEST}",
    "cache/data/*/train.safetensors",
    "cache/data/*/validation.safetensors",
    "cache/data/*/test.safetensors",
    f"cache/teachers/*/{MANIFEST}",
    "cache/teachers/*/weights.safetensors",
    f"cache/shards/*/{MANIFEST}",
    "cache/shards/*/projections.safetensors",
    "cache/shards/*/validation.safetensors",
    f"cache/shards/*/view-00001/{MANIFEST}",
    "cache/shards/*/view-00001/reading.safetensors",
    "digits/protocol.json",
    "digits/study.json",
    "digits/seal.json",
    "digits/costs.json",
    "digits/trials/plain/00001/result.json",
    "digits/confirm/selection/plain/00001-1/result.json",
    "digits/confirm/plain-00000/00/result.json",
    "digits/confirm/plain-00000/00/test.safetensors",
    "digits/confirm/teacher/result.json",
    "digits/confirm/teacher/test.safetensors",
    "studies.db",
)


@pytest.mark.parametrize("pattern", KINDS)
def test_a_truncated_file_is_named(finished, tmp_path, capsys, pattern: str) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "root"))
    path = next(iter(sorted(root.glob(pattern))))
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    said = refuse(root, capsys)
    assert str(path.parent) in said or "database disk image is malformed" in said
    path.write_bytes(whole)
    succeed(root, capsys)
    assert results(root) == results(finished)


@pytest.mark.parametrize("pattern", KINDS)
def test_an_empty_file_is_named(finished, tmp_path, capsys, pattern: str) -> None:
    if pattern == "studies.db":
        pytest.skip("an empty file is an empty database: all trials run again")
    root = Path(shutil.copytree(finished, tmp_path / "root"))
    path = next(iter(sorted(root.glob(pattern))))
    os.truncate(path, 0)
    assert str(path.parent) in refuse(root, capsys)


def test_with_an_empty_database_all_trials_run_again(finished, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "root"))
    os.truncate(root / "studies.db", 0)
    succeed(root, capsys)
    assert results(root) == results(finished)


# Clocks.


class BackwardClock(datetime.datetime):
    """Each look at it shows a time a day before that of the last look."""

    days = 0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "BackwardClock":
        cls.days += 1
        return super().now(tz) - datetime.timedelta(days=cls.days)  # type: ignore[return-value]
