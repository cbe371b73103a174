"""A byte that flips in a kept file is found, or does no harm: never another result in silence."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conductor.command_line.cli import main
from kd.seeds import derive_seed
from storage.files.layout import Layout
from tests.support.tiny import (
    assert_one_line,
    hasten,
    interrupt,
    refuse,
    results,
    run,
    succeed,
    trials_of,
    without_openings,
)

# written anew, or for others
NOT_READ = ("artifacts", "search.json", "report.html", "report.json", "trials.csv")


@pytest.fixture(autouse=True)
def _hastened(monkeypatch):
    hasten(monkeypatch)


def kept_files(root: Path) -> list[str]:
    """Return every file that holds something and is read again."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and not {path.name, path.relative_to(root).parts[0]} & set(NOT_READ)
        and path.suffix != ".lock"
    )


def flip(path: Path, *draw: int | str) -> str:
    """Flip a bit that depends on `draw`; return where, for the message of a failure."""
    content = bytearray(path.read_bytes())
    place = derive_seed(0, "flip", path.name, *draw) % (8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return f"bit {place} of {path.name}"


@pytest.fixture
def root(tiny_study, tmp_path) -> Path:
    return tmp_path / "root"


def restored(tiny_study: Path, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    return Path(shutil.copytree(tiny_study, root))


def check(root: Path, capsys: Any, wanted: dict[str, Any], where: str) -> bool:
    """Run the study; return whether the flip was found. Fails if it changed a result."""
    code, said = run(root, capsys)
    if code:
        assert_one_line(code, said)
        return True
    assert results(root) == wanted, where
    return False


def one_of_each_kind(names: list[str]) -> list[str]:
    """Return the first of the files whose paths differ only in numbers and fingerprints."""
    return list({re.sub(r"[0-9a-f]{16}|\d+", "", name): name for name in reversed(names)}.values())


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_flip_in_any_kept_file_is_found_or_harmless(tiny_study, root, capsys, every) -> None:
    wanted = results(tiny_study)
    names = kept_files(tiny_study)
    names = names if every else one_of_each_kind(names)
    found = set()
    for name in names:
        where = flip(restored(tiny_study, root) / name, name)
        if check(root, capsys, wanted, where):
            found.add(name)
    # The finalists are chosen anew by every run.
    assert {"studies.db", "digits/confirm/finalists.json", *found} >= set(names)


@pytest.mark.parametrize("flips", [8, pytest.param(32, marks=pytest.mark.thorough)])
def test_a_flip_in_the_database_is_found_or_harmless(tiny_study, root, capsys, flips) -> None:
    wanted = results(tiny_study)
    found = 0
    for draw in range(flips):
        where = flip(restored(tiny_study, root) / "studies.db", draw)
        found += check(root, capsys, wanted, where)
    assert found


@pytest.mark.parametrize("flips", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_a_flip_in_what_an_interrupted_search_left_is_found_or_harmless(
    tiny_study, root, capsys, monkeypatch, flips
) -> None:
    """Among it are a trial that runs, and its checkpoint: it goes on, or begins anew."""
    wanted = results(tiny_study)["trials"]
    interrupted = root.with_name("interrupted")
    monkeypatch.setattr("conductor.study.Confirmation.run", lambda *arguments, ablate: None)
    monkeypatch.setattr("conductor.study.Study._compare", lambda *arguments: None)
    monkeypatch.setattr("conductor.study.remember_command", lambda *arguments: None)
    monkeypatch.setattr("conductor.command_line.commands._conclude", lambda request, display: 0)
    interrupt(interrupted, capsys, monkeypatch)
    checkpoints = [name for name in kept_files(interrupted) if "checkpoint" in name]
    assert len(checkpoints) == 1
    succeed(restored(interrupted, root), capsys)
    assert trials_of(root) == wanted
    for name in (*checkpoints, "studies.db"):
        for draw in range(flips):
            where = flip(restored(interrupted, root) / name, draw)
            code, said = run(root, capsys)
            if code:
                assert_one_line(code, said)
            else:
                assert trials_of(root) == wanted, where


MADE_AGAIN = (
    "listings/*.json",
    "data/*/train.safetensors",
    "teachers/*/weights.safetensors",
    "shards/*/projections.safetensors",
    "shards/*/view-00001/manifest.json",
    "shards/*/view-00001/reading.safetensors",
    "costs.json",
    "confirm/selection/plain/00001-1/result.json",
    "confirm/plain-00000/00/result.json",
    "confirm/plain-00000/00/student.safetensors",
    "confirm/plain-00000/00/test.safetensors",
    "confirm/teacher/test.safetensors",
)


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.thorough)])
def test_what_a_message_states_to_delete_is_made_again(tiny_study, root, capsys, step) -> None:
    wanted = without_openings(tiny_study)
    for pattern in MADE_AGAIN[::step]:
        path = next(iter(sorted(restored(tiny_study, root).rglob(pattern))))
        flip(path)
        said = refuse(root, capsys).strip()
        assert said.endswith("to have it made again"), said
        named = said.rpartition("delete ")[2].removesuffix(" to have it made again")
        place = path if named == "it" else Path(named)
        assert path.is_relative_to(place), said
        assert place.is_relative_to(root), said
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        succeed(root, capsys)
        assert without_openings(root) == wanted, pattern


def test_a_database_that_cannot_be_read_is_made_again_once_it_is_deleted(
    tiny_study, root, capsys
) -> None:
    change(
        restored(tiny_study, root),
        "UPDATE trial_params SET distribution_json = CAST(x'ff' AS TEXT)",
    )
    assert "delete it and run the study again: all of its trials run again" in refuse(root, capsys)
    (root / "studies.db").unlink()
    succeed(root, capsys)
    assert results(root) == results(tiny_study)


def change(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "studies.db")) as connection:
        connection.execute(statement)
        connection.commit()


def test_predictions_that_are_gone_are_missed_and_made_again(tiny_study, root, capsys) -> None:
    """A run without them is no run: the report neither averages over the others in silence."""
    runs = Layout(restored(tiny_study, root)).study("digits")
    runs.confirmation("plain-00000", 0).predictions.unlink()
    assert report(root, capsys) == (0, "")
    missing = results(root)["report"]["study"]["missing"]
    assert any(line.startswith("1 of 1 runs of") for line in missing)
    runs.teacher_test().predictions.unlink()
    succeed(root, capsys)
    assert without_openings(root) == without_openings(tiny_study)


def test_predictions_of_another_run_are_refused(tiny_study, root, capsys) -> None:
    study = Layout(restored(tiny_study, root)).study("digits")
    shutil.copy(
        study.confirmation("scheduled-00000", 0).predictions,
        study.confirmation("plain-00000", 0).predictions,
    )
    code, said = report(root, capsys)
    assert_one_line(code, said)
    assert "test.safetensors is of another run than result.json beside it; delete " in said


def test_the_record_of_a_trial_that_is_gone_is_missed(tiny_study, root, capsys) -> None:
    Layout(restored(tiny_study, root)).study("digits").trial("plain", 0).result.unlink()
    assert report(root, capsys) == (0, "")
    missing = results(root)["report"]["study"]["missing"]
    assert missing == ["the records (recipe, every epoch) of 1 trials of plain"]


def report(root: Path, capsys: Any) -> tuple[int, str]:
    """Write the report anew; return the exit code and what was said on standard error."""
    capsys.readouterr()
    return main(["report", "--root", str(root)]), capsys.readouterr().err


def test_the_report_alone_finds_a_flip_in_what_it_reads(tiny_study, root, capsys) -> None:
    study = Layout(tiny_study).study("digits")
    for pattern in ("confirm/*/00/*.safetensors", "confirm/teacher/*", "trials/plain/*/result*"):
        for path in sorted(study.folder.glob(pattern)):
            flip(restored(tiny_study, root) / path.relative_to(tiny_study))
            assert_one_line(*report(root, capsys))


def test_the_report_alone_finds_a_value_that_was_changed(tiny_study, root, capsys) -> None:
    changes = (
        "UPDATE trial_values SET value = 0.99 WHERE trial_id = 1",
        "UPDATE trials SET study_id = 3 - study_id WHERE number = 1",
        "UPDATE trials SET study_id = 99 WHERE trial_id = (SELECT MAX(trial_id) FROM trials)",
        "UPDATE study_directions SET direction = 'MINIMIZE'",
        "UPDATE studies SET study_name = 'digits.plaim' WHERE study_name = 'digits.plain'",
    )
    for statement in changes:
        change(restored(tiny_study, root), statement)
        assert_one_line(*report(root, capsys))
