"""Locks that allow one supervisor per study, and checks of the files in its root."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from kd.errors import StudyError
from storage.files.artifacts import locked, replacing


def remove_traces(root: Path) -> None:
    """Remove the files of a study that could not begin from a new root.

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

    Shared folders (cache, database, artifacts) may be links to another disk, because their content
    is identified by digests.
    """
    inside = os.path.realpath(root)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            raise StudyError(
                f"{path} is a symbolic link that leaves {root}; remove it, or use another --root"
            )


def holder() -> str:
    """Return a description of this process, which other supervisors show."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


def refusal(study: str, who: str) -> StudyError:
    """Return the error for a second supervisor; `who` describes the first, empty if unknown."""
    who = who or "a process that has just started"
    return StudyError(f"study {study} is being run by {who}; stop it, or wait for it")


@contextmanager
def study_lock(file: Path | None, study: str) -> Iterator[None]:
    """Lock a study whose Optuna database is `file`, for the block; None locks nothing.

    The lock file is beside the database. Raises StudyError, naming the other process, if a
    supervisor holds the lock.
    """
    if file is None:
        yield
        return
    lock = file.with_name(f"{file.name}.{study}.lock")
    owner = lock.with_suffix(".owner")
    with locked(lock, wait=False) as taken:
        if not taken:
            who = ""
            with suppress(FileNotFoundError):  # the other has just started, or is about to end
                who = owner.read_text().strip()
            raise refusal(study, who)
        with replacing(owner) as temporary:
            temporary.write_text(f"{holder()}\n")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
