"""The doctor: describes the machine and what Retort uses of it, and tests every part."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from conductor.display import Display
from conductor.request import Request
from conductor.tools.inventory import Lines, computing, offered, used
from conductor.tools.self_test import Part, disk_part, parts, scratch, worker_part
from conductor.tools.tiny_study import TinyStudy

LONGEST = 400  # letters of a reason
WIDTH = 11  # of the names in front of the lines


class Doctor:
    """One examination. It writes to folders of its own, which it removes."""

    def __init__(self, request: Request, display: Display) -> None:
        self._request = request
        self._display = display
        self._tried: dict[str, bool] = {}  # part: whether it works

    def run(self) -> bool:
        """Print every result as it comes; return whether every part works."""
        self._say("This machine", offered(self._request.root))
        first = self._try(disk_part(self._request.root))
        where = self._request.root if self._tried["disk"] else Path(tempfile.gettempdir())
        pool = self._request.pool(self._request.root, self._request.protocol.threads)
        try:
            with scratch(where) as folder:
                study = TinyStudy(pool, folder)
                second = self._try(worker_part(study))
                self._say_found(study.machine, pool.size if self._tried["worker"] else None)
                self._say("Self-test", [first, second])
                for part in parts(self._request, study, folder):
                    self._say("", [self._try(part)])
        finally:
            pool.close()
        return self._conclude()

    def _say_found(self, found: Mapping[str, Any] | None, workers: int | None) -> None:
        self._say("", computing(found))
        self._say("Retort will use", used(self._request, found, workers))

    def _try(self, part: Part) -> tuple[str, str]:
        """Test one part, and return the line of its result."""
        missing = [name for name in part.needs if not self._tried[name]]
        self._tried[part.name] = False
        if missing:
            return part.name, f"not tested, since {missing[0]} failed"
        try:
            text = f"ok      {part.check()}"
        except Exception as error:  # any error is a result here
            return part.name, f"FAILED  {_reason(error)}; {part.remedy}"
        self._tried[part.name] = True
        return part.name, text

    def _say(self, title: str, lines: Lines) -> None:
        if title:
            self._display.say(title)
        for name, text in lines:
            self._display.say(f"  {name:{WIDTH}} {text}")

    def _conclude(self) -> bool:
        count, works = len(self._tried), sum(self._tried.values())
        self._display.say(
            f"all {count} parts work" if works == count else f"{works} of {count} parts work"
        )
        return works == count


def _reason(error: Exception) -> str:
    """Return an error's message on one line, with its type where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return shorten(text, LONGEST, placeholder=" …")
