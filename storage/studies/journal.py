"""Optuna's journal file, made robust against kills within a line and against a full disk.

Optuna's own file backend appends to an incomplete last line, after which the whole journal is
unreadable. Its lock is a symbolic link, which a killed process leaves behind for half a minute.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import JournalFileBackend

from kd.errors import StudyError
from storage.files.artifacts import CONTINUES, locked
from storage.studies.retrying import RESTORE


class JournalFile(JournalFileBackend):
    """A journal whose lines are written whole or not at all. Errors of the file are StudyError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the records from number `log_number_from` on, without an incomplete last line."""
        try:
            yield from super().read_logs(log_number_from)
        except (OSError, ValueError) as error:
            raise StudyError(
                f"the journal {self.path} cannot be read ({error}); {RESTORE}"
            ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, after removing the rest of an interrupted write."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            with locked(self.path.with_name(f"{self.path.name}.lock"), wait=True):
                self._append(lines)
        except OSError as error:
            raise StudyError(
                f"the journal {self.path} cannot be written: {error.strerror}; {CONTINUES}"
            ) from None

    def _append(self, lines: bytes) -> None:
        with self.path.open("rb+", buffering=0) as file:
            end = _end_of_lines(file)
            file.truncate(end)
            file.seek(end)
            try:
                if file.write(lines) != len(lines):
                    raise OSError(0, "only a part was written")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def _end_of_lines(file: BinaryIO) -> int:
    """Return the offset after the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
