"""A machine's faults end a study in one clear line, and the same command goes on afterwards."""

import datetime
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.files.artifacts import MANIFEST
from tests.support.tiny import (
    assert_one_line,
    hasten,
    interrupt,
    refuse,
    results,
    run,
    succeed,
    without_openings,
)


@pytest.fixture(autouse=True)
def _hastened(monkeypatch):
    hasten(monkeypatch)


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


@contextmanager
def full_from(place: Path, owner: str, name: str) -> Iterator[None]:
    """Fill a disk to its last byte just before the first call of `owner.name`; empty it after."""
    ballast = place / "ballast"
    target = import_module(owner)
    real = getattr(target, name)

    def filled(*arguments: Any, **named: Any) -> Any:
        if not ballast.exists():
            fill(ballast)
        return real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, filled)
        yield
    assert ballast.exists(), f"{owner}.{name} was not called"
    ballast.unlink()


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


# What is about to be written when the disk becomes full, in the order in which a study comes to
# it, and the end of the path that the message names.
STAGES = (
    ("storage.files.datasets", "_write_part", "train.safetensors"),
    ("conductor.stages.provenance", "write_json", "protocol.json"),
    ("workers.runners.training", "write_checkpoint", "checkpoint.safetensors"),
    ("workers.runners.preparing", "finish", MANIFEST),
    ("storage.files.shards", "write_tensors", "projections.safetensors"),
    ("storage.files.shards", "finish", MANIFEST),
    ("conductor.study", "open_study", "studies.db"),
    ("workers.runners.training", "write_checkpoint", "checkpoint.safetensors"),
    ("storage.files.records", "write_json", "study.json"),
    ("conductor.search.loop", "run_record", "result.json"),
    ("workers.runners.training", "open_test", "seal.json"),
    ("workers.runners.training", "predict", "student.safetensors"),
    ("workers.runners.measuring", "write_tensors", "test.safetensors"),
    ("workers.runners.measuring", "write_json", "result.json"),
    ("workers.runners.measuring", "Costs", "costs.json"),
    ("reports.write.report", "render_page", "trials.csv"),
)


def assert_full(said: str, name: str) -> None:
    """The message names the file, what it lacks, and that nothing is lost."""
    assert re.search(rf"/{re.escape(name)} (cannot be written|fails|does not answer): ", said), said
    assert re.search("No space left on device|disk is full|disk I/O error", said), said
    assert said.endswith("; run the same command again to continue\n"), said


def test_a_full_disk_ends_the_study_in_one_line_at_every_stage(
    tiny_study, tmp_path, capsys
) -> None:
    """And the same command goes on from there, to what an undisturbed study finds."""
    place = tmp_path / "disk"
    with disk(place, "16m"):
        for owner, name, file in STAGES:
            with full_from(place, owner, name):
                said = refuse(place / "root", capsys)
            assert_full(said, file)
        succeed(place / "root", capsys)
        assert without_openings(place / "root") == without_openings(tiny_study)


def test_a_study_gets_as_far_as_a_small_disk_lets_it(tiny_study, tmp_path, capsys) -> None:
    """Each session meets the end of the disk somewhere, until the disk has grown enough."""
    place, failed = tmp_path / "disk", 0
    with disk(place, "64k"):
        for size in range(64, 2048, 72):
            remount(place, f"size={size}k")
            code, said = run(place / "root", capsys)
            if not code:
                break
            failed += 1
            assert_one_line(code, said)
            assert_full(said, re.findall(r"/([\w.-]+) (?:cannot|fails|does)", said)[0])
        assert failed > 5
        assert without_openings(place / "root") == without_openings(tiny_study)


def test_a_disk_that_may_only_be_read_ends_the_study_in_one_line(
    tiny_study, tmp_path, capsys
) -> None:
    place = tmp_path / "disk"
    with disk(place, "16m"):
        remount(place, "ro")
        assert "Read-only file system" in refuse(place / "root", capsys)
        remount(place, "rw")
        root = Path(shutil.copytree(tiny_study, place / "root"))
        remount(place, "ro")
        assert "Read-only file system" in refuse(root, capsys)
        remount(place, "rw")
        succeed(root, capsys)
        assert results(root) == results(tiny_study)


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
    assert "the storage must be a file, got the folder " in refuse(tmp_path, capsys)


# Truncated files.

# What a study reads again: those that are made again once they are deleted, as the message says,
# and those that have to be restored.
KINDS = (
    "cache/data/listings/*.json",
    "cache/data/openings.json",
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
def test_a_truncated_file_is_named(tiny_study, tmp_path, capsys, pattern: str) -> None:
    root = Path(shutil.copytree(tiny_study, tmp_path / "root"))
    path = next(iter(sorted(root.glob(pattern))))
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    said = refuse(root, capsys)
    assert str(path.parent) in said or "database disk image is malformed" in said
    path.write_bytes(whole)
    succeed(root, capsys)
    assert results(root) == results(tiny_study)


@pytest.mark.parametrize("pattern", KINDS)
def test_an_empty_file_is_named(tiny_study, tmp_path, capsys, pattern: str) -> None:
    if pattern == "studies.db":
        pytest.skip("an empty file is an empty database: all trials run again")
    root = Path(shutil.copytree(tiny_study, tmp_path / "root"))
    path = next(iter(sorted(root.glob(pattern))))
    os.truncate(path, 0)
    assert str(path.parent) in refuse(root, capsys)


def test_with_an_empty_database_all_trials_run_again(tiny_study, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(tiny_study, tmp_path / "root"))
    os.truncate(root / "studies.db", 0)
    succeed(root, capsys)
    assert results(root) == results(tiny_study)


# Clocks.


class BackwardClock(datetime.datetime):
    """Each look at it shows a time a day before that of the last look."""

    days = 0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "BackwardClock":
        cls.days += 1
        return super().now(tz) - datetime.timedelta(days=cls.days)  # type: ignore[return-value]


CLOCKS = (
    "storage.files.seal",
    "storage.files.ownership",
    "conductor.stages.provenance",
    "optuna.storages._rdb.storage",
    "optuna.storages._in_memory",
)


def test_a_clock_that_runs_backward_changes_no_result(
    tiny_study, tmp_path, capsys, monkeypatch
) -> None:
    """Neither within a session, nor from one to the next."""
    root = tmp_path / "root"
    for owner in CLOCKS:
        monkeypatch.setattr(import_module(owner), "datetime", BackwardClock)
    frozen = SimpleNamespace(datetime=BackwardClock)
    monkeypatch.setattr("optuna.trial._frozen.datetime", frozen)
    interrupt(root, capsys, monkeypatch)
    looked = BackwardClock.days
    succeed(root, capsys)
    assert BackwardClock.days > looked > 5
    assert results(root) == results(tiny_study)
