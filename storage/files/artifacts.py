"""Write files and folders so that an interrupted write is never taken for a complete one.

A folder artifact is a set of files and a `manifest.json`, which is written last. The manifest has
the kind of the files, what they were made from (`identity`), further facts about them (`info`), and
their SHA-256. A folder without a manifest is unfinished, and is created again.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kd import VERSION
from kd.errors import ArtifactError, ProtocolError
from kd.json_data import JsonData

CONTINUES = "run the same command again to continue"
MANIFEST = "manifest.json"
CHECKSUM = "sha256"  # key of a JSON file's checksum
WRITER = "retort"  # key of the version of Retort that wrote a JSON file

T = TypeVar("T", bound=JsonData)


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary name is random, so that leftovers of a crash are harmless. A link at `path` is
    replaced, not followed. Without `sync` the file survives the death of processes but perhaps not
    a power cut: use this for files that are verified when read and can be created again. Raises
    ArtifactError when the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if sync:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise _not_written(path, error) from None


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, by their path below `folder`, each atomically. Raises ArtifactError."""
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)


def sweep(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`. The caller must hold its lock."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def _not_written(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path} cannot be written: {error.strerror or error}; {CONTINUES}")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as JSON, atomically, with the version of Retort and a checksum.

    Raises ValueError for NaN and infinity, ArtifactError when the file cannot be written.
    """
    content = {**value, WRITER: VERSION}
    with replacing(path) as temporary:
        text = json.dumps({**content, CHECKSUM: checksum(content)}, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that `write_json` wrote.

    Raises ArtifactError when the file is missing, not JSON, or differs from its checksum.
    """
    return _read_content(path)[0]


def read_record(path: Path, kind: type[T]) -> T:
    """Return the protocol or record that `write_json` wrote.

    Raises ArtifactError, naming the file, when it is missing, damaged, of another kind, or has keys
    of a newer version of Retort.
    """
    content, writer = _read_content(path)
    try:
        return kind.from_json(content, writer)
    except ProtocolError as error:
        raise ArtifactError(f"{path} cannot be used: {error}") from None


def _read_content(path: Path) -> tuple[dict[str, Any], str]:
    """Return the object in a file, and the version of Retort that wrote it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        if value.pop(CHECKSUM, None) != checksum(value):
            raise ValueError("its content differs from its checksum")
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run the study again to have it made") from None
    except PermissionError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); restore it, or delete it to have it made again"
        ) from None
    return value, str(value.pop(WRITER, ""))


def checksum(value: Mapping[str, Any]) -> str:
    """Return SHA-256 over an object's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal. Raises ArtifactError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return 64 bits of SHA-256 over the canonical JSON of what an artifact is made from."""
    return checksum(identity)[:16]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a finished folder artifact."""

    folder: Path
    kind: str
    identity: dict[str, Any]
    info: dict[str, Any]
    files: dict[str, str]  # name: SHA-256

    def verify(self) -> None:
        """Compare every file with its checksum. Raises ArtifactError for the first that differs."""
        for name, expected in self.files.items():
            path = self.folder / name
            if not path.exists() or sha256(path) != expected:
                how = "differs from its manifest" if path.exists() else "is missing"
                raise ArtifactError(f"{path} {how}; delete {self.folder} to have it made again")


def finish(folder: Path, kind: str, identity: dict[str, Any], info: dict[str, Any]) -> Manifest:
    """Write the manifest of all files in `folder`, which completes the artifact; return it."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    kept = [name for name in names if name != MANIFEST and not name.startswith(".")]
    files = {name: sha256(folder / name) for name in kept}
    manifest = Manifest(folder, kind, identity, info, files)
    content = {"kind": kind, "identity": identity, "info": info, "files": files}
    write_json(folder / MANIFEST, content)
    return manifest


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path, kind: str, identity: Mapping[str, Any] | None = None) -> Manifest:
    """Return the manifest of a finished artifact of this kind and identity.

    Raises ArtifactError when it is missing, damaged, of another kind, or (if `identity` is given)
    made from something else; the message names the fields that differ.
    """
    path = folder / MANIFEST
    content = read_json(path)
    keys = {"kind": str, "identity": dict, "info": dict, "files": dict}
    if {key: type(value) for key, value in content.items()} != keys:
        raise ArtifactError(f"{path} is not a manifest; delete {folder} to have it made again")
    if not all(_is_plain(name) for name in content["files"]):
        raise ArtifactError(f"{path} names files outside its folder")
    if content["kind"] != kind:
        raise ArtifactError(f"{folder} holds a {content['kind']}, not a {kind}")
    if identity is not None and content["identity"] != dict(identity):
        made, wanted = content["identity"], dict(identity)
        every = {*made, *wanted}
        fields = sorted(key for key in every if made.get(key, ...) != wanted.get(key, ...))
        raise ArtifactError(
            f"{folder} was made for another {', '.join(fields)}: delete it, or use another --root"
        )
    return Manifest(folder, **content)


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock on `path` in the block; the kernel releases it if the process dies.

    Yields whether the lock was acquired; with `wait` it always is. Raises ArtifactError when the
    file cannot be created, or is a link.
    """
    descriptor, taken = _lock(path, wait)
    try:
        yield taken
    finally:
        os.close(descriptor)


def _lock(path: Path, wait: bool) -> tuple[int, bool]:
    """Open and lock `path`; try again if another process has replaced the file meanwhile."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise _not_written(path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            taken = True
        except BlockingIOError:
            taken = False
        except BaseException:
            os.close(descriptor)
            raise
        if not taken or _is_at(path, descriptor):
            return descriptor, taken
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
