"""A byte that flips in a kept file is found, or does no harm: never another result in silence."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conductor.cli import main
from kd.seeds import derive_seed
from storage.layout import Layout
from tests.tiny import (
    FLAGS,
    assert_one_line,
    hasten,
    refuse,
    results,
    run,
    succeed,
    trials_of,
)
from workers.inline import InlinePool

NOT_READ = ("artifacts", "report.html", "report.json", "trials.csv")  # written anew, or for others
DATABASE_FLIPS = 24
INTERRUPTED_FLIPS = 6


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
    settle(root)
    return root


def settle(root: Path) -> None:
    """Write SQLite's log into its file, as closing the last connection does."""
    with closing(sqlite3.connect(root / "studies.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


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
def root(finished, tmp_path) -> Path:
    return tmp_path / "root"


def restored(finished: Path, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    return Path(shutil.copytree(finished, root))


def check(root: Path, capsys: Any, wanted: dict[str, Any], where: str) -> bool:
    """Run the study; return whether the flip was found. Fails if it changed a result."""
    code, said = run(root, capsys)
    if code:
        assert_one_line(code, said)
        return True
    assert results(root) == wanted, where
    return False


def test_a_flip_in_any_kept_file_is_found_or_harmless(finished, root, capsys) -> None:
    wanted = results(finished)
    names = kept_files(finished)
    found = set()
    for name in names:
        where = flip(restored(finished, root) / name, name)
        if check(root, capsys, wanted, where):
            found.add(name)
    # What is made from nothing else but the study, or written at every run, heals by itself.
    healing = {name for name in names if name.endswith(("finalists.json", "student.safetensors"))}
    assert {"studies.db", *found, *healing} >= set(names)


def test_a_flip_in_the_database_is_found_or_harmless(finished, root, capsys) -> None:
    wanted = results(finished)
    found = 0
    for draw in range(DATABASE_FLIPS):
        where = flip(restored(finished, root) / "studies.db", draw)
        found += check(root, capsys, wanted, where)
    assert found


def test_a_flip_in_what_an_interrupted_search_left_is_found_or_harmless(
    finished, root, capsys, monkeypatch
) -> None:
    """Among it are a trial that runs, and its checkpoint: it goes on, or begins anew."""
    wanted = results(finished)["trials"]
    interrupted = root.with_name("interrupted")
    monkeypatch.setattr("conductor.study.Study._confirm", lambda *arguments: None)
    monkeypatch.setattr("conductor.study.Study._compare", lambda *arguments: None)
    monkeypatch.setattr("conductor.commands._conclude", lambda request, display: 0)
    interrupt(interrupted, capsys, monkeypatch)
    checkpoints = [name for name in kept_files(interrupted) if "checkpoint" in name]
    assert len(checkpoints) == 1
    succeed(restored(interrupted, root), capsys)
    assert trials_of(root) == wanted
    for name in (*checkpoints, "studies.db"):
        for draw in range(INTERRUPTED_FLIPS):
            where = flip(restored(interrupted, root) / name, draw)
            code, said = run(root, capsys)
            if code:
                assert_one_line(code, said)
            else:
                assert trials_of(root) == wanted, where


def interrupt(root: Path, capsys: Any, monkeypatch: Any) -> None:
    """Leave the study as a kill does after an epoch of its second trial."""

    class KilledError(BaseException):
        """Nothing in the project catches it."""

    events, epochs = InlinePool.events, iter(range(1000))

    def die(self: InlinePool, timeout: float | None = None) -> Any:
        heard = events(self, timeout)
        if heard and heard[0][1]["event"] == "epoch" and next(epochs) == 3:
            raise KilledError
        return heard

    with monkeypatch.context() as patch:
        patch.setattr(InlinePool, "events", die)
        with pytest.raises(KilledError):
            run(root, capsys)
    settle(root)


def test_what_a_message_says_to_delete_is_made_again(finished, root, capsys) -> None:
    """For each kind of file of the cache, and for the record of a run."""
    wanted = results(finished)
    kinds = ("train.safetensors", "weights.safetensors", "projections.safetensors", "view-00001/r")
    names = [next(name for name in kept_files(finished) if kind in name) for kind in kinds]
    for name in names:
        flip(restored(finished, root) / name)
        said = refuse(root, capsys)
        place = Path(said.partition("delete ")[2].split(" to have it made again")[0])
        assert place.is_relative_to(root)
        shutil.rmtree(place)
        succeed(root, capsys)
        assert results(root) == wanted


def test_the_report_alone_finds_a_flip_in_what_it_reads(finished, root, capsys) -> None:
    study = Layout(finished).study("digits")
    for pattern in ("confirm/*/00/test.safetensors", "confirm/teacher/*", "trials/plain/*/result*"):
        for path in sorted(study.folder.glob(pattern)):
            flip(restored(finished, root) / path.relative_to(finished))
            capsys.readouterr()
            assert_one_line(main(["report", "--root", str(root)]), capsys.readouterr().err)


def test_the_report_alone_finds_a_value_that_was_changed(finished, root, capsys) -> None:
    changes = (
        "UPDATE trial_values SET value = 0.99 WHERE trial_id = 1",
        "UPDATE trials SET study_id = 3 - study_id WHERE number = 1",
        "UPDATE trials SET study_id = 99 WHERE trial_id = (SELECT MAX(trial_id) FROM trials)",
        "UPDATE study_directions SET direction = 'MINIMIZE'",
    )
    for change in changes:
        with closing(sqlite3.connect(restored(finished, root) / "studies.db")) as connection:
            connection.execute(change)
            connection.commit()
        capsys.readouterr()
        assert_one_line(main(["report", "--root", str(root)]), capsys.readouterr().err)
