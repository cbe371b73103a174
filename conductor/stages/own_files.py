"""Files of the user's own, named on the command line by their content and copied into the root.

A study continues with the copies, whatever becomes of the files; and the workers of other machines
find them under the root that all of them see.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kd.own_files import OwnFile, read_own
from storage.files.artifacts import write_files
from storage.files.layout import Layout, whole_path


def pin_models(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[OwnFile]]:
    """Name the content of every file among teacher and students: `mine.py:small@1a2b3c4d5e6f`.

    Returns the fields of the protocol, and the files to be kept. A name that has its digest stays,
    and so do names of the catalogue. Raises ProtocolError for a file that cannot be read.
    """
    pinned, files = dict(given), list[OwnFile]()
    if "teacher" in given:
        pinned["teacher"] = _pin(given["teacher"], files)
    if "students" in given:
        pinned["students"] = tuple(_pin(name, files) for name in given["students"])
    return pinned, files


def _pin(name: str, files: list[OwnFile]) -> str:
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or re.search(r"@[0-9a-f]+$", function):
        return name
    files.append(own := read_own(whole_path(path)))
    return f"{own.path.name}:{function}@{own.digest}"


def keep_own(layout: Layout, files: Iterable[OwnFile]) -> None:
    """Copy files to where workers look for them."""
    for own in files:
        write_files(layout.own / own.folder, own.files)
