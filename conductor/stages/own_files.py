"""The user's own files: named by their content, and copied into the root.

A study continues with the copies, even if the files change; workers on other machines read the
copies too.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kd.names import DIGEST_LENGTH, WEIGHTS
from kd.own_files import OwnFile, read_own
from storage.files.artifacts import sha256, write_files
from storage.files.layout import Layout, whole_path


def pin_functions(chosen: Mapping[str, Any]) -> tuple[dict[str, Any], list[OwnFile]]:
    """Add a digest to the names of own data, models and losses: `mine.py:small@1a2b3c4d5e6f`.

    Returns the protocol fields with these names, and the files to copy. Other names, and those with
    a digest, are unchanged. Raises ProtocolError for a file that cannot be read.
    """
    pinned, files = dict(chosen), list[OwnFile]()
    for name in ("dataset", "loss"):
        if name in chosen:
            pinned[name] = _pin(chosen[name], files)
    for models in ("teachers", "students"):
        if models in chosen:
            pinned[models] = tuple(_pin(name, files) for name in chosen[models])
    return pinned, files


def pin_sampler(name: str | None) -> tuple[dict[str, str], list[OwnFile]]:
    """Add a digest to the name of an own sampler: `mine.py:make@1a2b3c4d5e6f`.

    Returns the option, empty without a name, and the files to copy. See `pin_functions`.
    """
    files: list[OwnFile] = []
    return {"sampler": _pin(name, files)} if name else {}, files


def pin_weights(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest to the file that a student starts from: `/data/small.pth@1a2b3c4d5e6f`.

    So all that depends on the protocol depends on the content of the file, which is not copied.
    """
    weights = chosen.get("student_weights", "")
    if not weights.endswith(WEIGHTS):
        return dict(chosen)
    path = whole_path(weights)
    return {**chosen, "student_weights": f"{path}@{sha256(path)[:DIGEST_LENGTH]}"}


def _pin(name: str, files: list[OwnFile]) -> str:
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or re.search(r"@[0-9a-f]+$", function):
        return name
    files.append(own := read_own(whole_path(path)))
    return f"{own.path.name}:{function}@{own.digest}"


def keep_own(layout: Layout, files: Iterable[OwnFile]) -> None:
    """Copy files to the folder that workers import them from."""
    for own in files:
        write_files(layout.own / own.folder, own.files)
