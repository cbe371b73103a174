"""Ownership of a study: one process at a time, and no files outside of its root."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from kd.errors import StudyError
from storage.files.artifacts import locked, replacing
from storage.files.layout import StudyLayout


def remove_traces(root: Path) -> None:
    """Remove what a study that could not begin has left under a new root.

    Removed are locks, a database without studies and empty folders. Data and teacher stay.
    """
    for path in sorted(root.rglob("*"), reverse=True):
        if path.suffix == ".lock" or path.name.startswith("studies.db"):
            path.unlink()
        elif path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()


def check_inside(root: Path, folder: Path) -> None:
    """Raise StudyError if a study's folder is, or contains, a link that leads out of the root.

    What studies share (cache, database, artifacts) may lie on another disk: there the user has made
    the link, and its content is named by digests.
    """
    inside = os.path.realpath(root)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            raise StudyError(
                f"{path} is a symbolic link that leaves {root}; remove it, or name another --root"
            )


@contextmanager
def owned(paths: StudyLayout, file: Path | None) -> Iterator[None]:
    """Own a study, whose storage is `file`, for the block; without a file nothing is locked.

    The lock lies beside that file, which two supervisors must not both write. Raises StudyError,
    naming the owner, if the study has one.
    """
    if file is None:
        yield
        return
    lock = file.with_name(f"{file.name}.{paths.name}.lock")
    owner = lock.with_suffix(".owner")
    with locked(lock, wait=False) as taken:
        if not taken:
            who = owner.read_text().strip() if owner.exists() else "a process that has just begun"
            raise StudyError(f"study {paths.name} is being run by {who}; end it, or wait for it")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with replacing(owner) as temporary:
            temporary.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
