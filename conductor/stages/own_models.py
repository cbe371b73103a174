"""Models of the user's own: their files, named by what is in them and copied to where workers look.

A study goes on with the copy, whatever becomes of the file; and the workers of other machines find
it under the root that all of them see.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.errors import ProtocolError
from kd.names import DIGEST_LENGTH, parse_model
from storage.files.artifacts import replacing
from storage.files.layout import Layout, whole_path


def pin_models(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Name the content of every file among teacher and students: `mine.py:small@1a2b3c4d5e6f`.

    Returns the fields of the protocol, and the content by the name of the copy to be kept. A name
    that has its digest stays, and so do names of the catalogue. Raises ProtocolError for a file
    that cannot be read, or a name that is not plain.
    """
    pinned, contents = dict(given), {}
    for key in ("teacher", "students"):
        if key not in given:
            continue
        names = []
        for name in [given[key]] if key == "teacher" else given[key]:
            found, content = _pin(name)
            names.append(found)
            if content is not None:
                contents[parse_model(found).file] = content
        pinned[key] = names[0] if key == "teacher" else tuple(names)
    return pinned, contents


def _pin(name: str) -> tuple[str, bytes | None]:
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or re.search(r"@[0-9a-f]+$", function):
        return name, None
    try:
        content = whole_path(path).read_bytes()
    except OSError as error:
        raise ProtocolError(f"the model {name} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]
    return f"{Path(path).name}:{function}@{digest}", content


def keep_models(layout: Layout, contents: Mapping[str, bytes]) -> None:
    """Copy the files to where workers look for them."""
    for name, content in contents.items():
        with replacing(layout.models / name) as temporary:
            temporary.write_bytes(content)
