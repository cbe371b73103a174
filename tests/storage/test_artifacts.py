"""Files are written whole or not at all, and an artifact that is not as it was made is refused."""

import fcntl
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.errors import ArtifactError
from storage.files import artifacts
from storage.files.artifacts import (
    MANIFEST,
    fingerprint,
    finish,
    is_finished,
    locked,
    read_json,
    read_manifest,
    replacing,
    sha256,
    write_json,
)

IDENTITY: dict[str, Any] = {"teacher": "a", "taps": ["last1"], "seed": 1}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished artifact of two files."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(64)))
    (folder / "notes.txt").write_text("as made")
    finish(folder, "teacher", IDENTITY, {"accuracy": 0.5})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Writing.


def test_replacing_makes_folders_and_writes_the_file(tmp_path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure: type) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_full_disk_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"state": "old"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(ArtifactError, match="cannot be written: No space left"):
        write_json(path, {"state": "new"})
    assert read_json(path) == {"state": "old"}
    assert names(tmp_path) == ["file.json"]


def test_temporary_names_are_new_each_time_and_hidden(tmp_path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
        assert one.parent == other.parent == tmp_path
        assert one.name.startswith(".")
    assert path.read_text() == "one"


def test_what_a_crash_left_behind_blocks_nobody(tmp_path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        left = temporary.with_name(temporary.name + "x")
        left.write_text("of a crash")
    with replacing(path) as temporary:
        temporary.write_text("next")
    assert path.read_text() == "next"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": -float("inf")}]])
def test_json_refuses_what_is_no_number(tmp_path, value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"value": value})
    assert names(tmp_path) == []


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.floats(allow_nan=False).filter(lambda number: abs(number) < 1e300),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )
)
def test_json_survives_the_disk(tmp_path_factory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "survives.json"
    write_json(path, {"value": value})
    assert read_json(path) == {"value": value}


def test_a_changed_digit_is_found(tmp_path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"accuracy": 0.91, "seeds": [1, 2]})
    path.write_text(path.read_text().replace("0.91", "0.97"))
    with pytest.raises(ArtifactError, match="its content differs from its checksum"):
        read_json(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"[1,]", id="not JSON"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"a": 1} x', id="more than JSON"),
        pytest.param(b'{"a": 1}', id="no checksum"),
        pytest.param(b"[1]", id="not an object"),
    ],
)
def test_damaged_json_states_what_to_do(tmp_path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"file.json is damaged \(.+\); restore it") as raised:
        read_json(path)
    assert "\n" not in str(raised.value)


def test_missing_json_is_named(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"none.json is missing"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="is damaged"):
        read_json(tmp_path)


def test_json_that_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch) -> None:
    """Nobody is told to delete it."""

    def forbidden(path: Path, **given: str) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(ArtifactError, match=r"file.json cannot be read: Permission denied$"):
        read_json(tmp_path / "file.json")


# Fingerprints and checksums.


def test_a_fingerprint_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert fingerprint(IDENTITY) == fingerprint(dict(reversed(IDENTITY.items())))
    assert len(fingerprint(IDENTITY)) == 16
    for key, value in {"teacher": "b", "taps": ["last2"], "seed": 2}.items():
        assert fingerprint({**IDENTITY, key: value}) != fingerprint(IDENTITY)


def test_checksums_are_sha256_and_a_missing_file_is_named(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ArtifactError, match=r"none cannot be read: No such file"):
        sha256(tmp_path / "none")


# Manifests.


def test_a_finished_artifact_reads_as_it_was_made(folder: Path) -> None:
    assert is_finished(folder)
    manifest = read_manifest(folder, "teacher", IDENTITY)
    assert (manifest.identity, manifest.info) == (IDENTITY, {"accuracy": 0.5})
    assert set(manifest.files) == {"weights.bin", "notes.txt"}
    manifest.verify()


def test_what_is_hidden_and_the_manifest_itself_are_no_part_of_an_artifact(folder: Path) -> None:
    (folder / ".left.tmp").write_text("of a crash")
    (folder / "inner").mkdir()
    again = finish(folder, "teacher", IDENTITY, {})
    assert set(again.files) == {"weights.bin", "notes.txt"}


def test_a_folder_without_a_manifest_is_unfinished(tmp_path) -> None:
    assert not is_finished(tmp_path)
    with pytest.raises(ArtifactError, match=rf"{MANIFEST} is missing"):
        read_manifest(tmp_path, "teacher")


@pytest.mark.parametrize("place", [0, 31, 63])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_a_file_is_found(folder: Path, place: int, bit: int) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[place] ^= 1 << bit
    (folder / "weights.bin").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights.bin differs from its manifest; delete"):
        read_manifest(folder, "teacher").verify()


@pytest.mark.parametrize("name", ["weights.bin", "notes.txt"])
def test_every_file_is_verified(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"!")
    with pytest.raises(ArtifactError, match=f"{name} differs"):
        read_manifest(folder, "teacher").verify()
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing; delete {folder} to have"):
        read_manifest(folder, "teacher").verify()


def test_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="holds a teacher, not a shard"):
        read_manifest(folder, "shard")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"seed": 2}, "seed"),
        ({"taps": ["last2"], "teacher": "b"}, "taps, teacher"),
        ({"new": 1}, "new"),
        ({"new": None}, "new"),
    ],
)
def test_an_artifact_made_from_something_else_is_refused_with_the_fields_named(
    folder: Path, changes: dict[str, Any], fields: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"was made for another {fields}: delete it"):
        read_manifest(folder, "teacher", {**IDENTITY, **changes})
    shorter = {key: value for key, value in IDENTITY.items() if key != "seed"}
    with pytest.raises(ArtifactError, match="was made for another seed"):
        read_manifest(folder, "teacher", shorter)


@pytest.mark.parametrize(
    "name", ["../weights.bin", "/etc/passwd", "inner/file", "..", ".", "", "a\0b"]
)
def test_names_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    content = read_json(folder / MANIFEST)
    content["files"][name] = "0" * 64
    write_json(folder / MANIFEST, content)
    with pytest.raises(ArtifactError, match="names files outside its folder"):
        read_manifest(folder, "teacher")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"kind": "teacher", "identity": {}, "info": {}},
        {"kind": 1, "identity": {}, "info": {}, "files": {}},
        {"kind": "teacher", "identity": [], "info": {}, "files": {}},
        {"kind": "teacher", "identity": {}, "info": None, "files": {}},
        {"kind": "teacher", "identity": {}, "info": {}, "files": ["weights.bin"]},
        {"kind": "teacher", "identity": {}, "info": {}, "files": {}, "more": 1},
    ],
    ids=repr,
)
def test_what_is_no_manifest_is_refused(folder: Path, content: Any) -> None:
    write_json(folder / MANIFEST, content)
    with pytest.raises(ArtifactError, match="is not a manifest; delete"):
        read_manifest(folder, "teacher")


# Locks.

HOLD = (
    "import sys; from pathlib import Path; from storage.files.artifacts import locked\n"
    "with locked(Path(sys.argv[1]), wait=False) as taken:\n"
    "    print(taken, flush=True); sys.stdin.read()"
)


def holder(path: Path) -> subprocess.Popen:
    """Start a process that holds the lock until its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def try_lock(path: Path) -> bool:
    with locked(path, wait=False) as taken:
        return taken


def test_a_lock_keeps_another_process_out_until_it_dies(tmp_path) -> None:
    path = tmp_path / "folder" / "owner.lock"
    with holder(path) as process:
        assert process.stdout.readline() == "True\n"
        assert not try_lock(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert try_lock(path)


def test_another_process_finds_that_the_lock_is_held(tmp_path) -> None:
    path = tmp_path / "owner.lock"
    with locked(path, wait=True) as taken:
        assert taken
        with holder(path) as process:
            assert process.communicate()[0] == "False\n"


def test_who_waits_gets_the_lock_once_it_is_free(tmp_path) -> None:
    path = tmp_path / "owner.lock"
    with holder(path) as process:
        assert process.stdout.readline() == "True\n"
        process.stdin.close()  # the holder now ends, soon or later
        with locked(path, wait=True) as taken:
            assert taken


def test_a_lock_is_given_back_after_the_block_and_after_an_error(tmp_path) -> None:
    path = tmp_path / "owner.lock"
    assert try_lock(path)
    assert try_lock(path)
    with pytest.raises(ValueError, match="within"), locked(path, wait=False):
        raise ValueError("within")
    assert try_lock(path)


def test_a_lock_is_one_of_the_file_that_is_there(tmp_path) -> None:
    """Who cleans up may remove it while it is held: a lock on the old one keeps nobody out."""
    path = tmp_path / "owner.lock"
    with locked(path, wait=True):
        path.unlink()
        with locked(path, wait=False) as taken:
            assert taken
            assert not try_lock(path)


def test_a_lock_on_a_file_that_was_removed_is_taken_again(tmp_path, monkeypatch) -> None:
    path, lock, calls = tmp_path / "owner.lock", fcntl.flock, []

    def slow(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()

    monkeypatch.setattr(artifacts.fcntl, "flock", slow)
    with locked(path, wait=True) as taken:
        assert taken
        assert len(calls) == 2
        assert not try_lock(path)


def test_a_link_is_neither_locked_nor_written_through(tmp_path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    with pytest.raises(ArtifactError, match="link cannot be written: "):
        try_lock(link)
    write_json(link, {"a": 1})
    assert victim.read_text() == "mine"
    assert read_json(link) == {"a": 1}
    assert not link.is_symlink()


@pytest.mark.parametrize("act", [lambda path: write_json(path, {}), lambda path: try_lock(path)])
def test_a_place_that_cannot_be_written_is_named_in_one_line(tmp_path, act) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(
        ArtifactError, match=r"x.json cannot be written: .+; run the same"
    ) as raised:
        act(tmp_path / "a file" / "x.json")
    assert "\n" not in str(raised.value)


def test_a_lock_is_kept_from_this_process_too(tmp_path) -> None:
    """Two jobs of one process must not share a folder either."""
    path = tmp_path / "owner.lock"
    with locked(path, wait=True):
        assert not try_lock(path)
