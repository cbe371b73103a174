"""Keep tracebacks in files, so that an error message is one line."""

import os
import traceback
from datetime import UTC, datetime

from kd.errors import ArtifactError
from storage.files.artifacts import replacing
from storage.files.layout import Layout


def keep_traceback(layout: Layout, error: BaseException) -> str:
    """Write the traceback of `error` under the root; return a clause that names the file."""
    path = layout.log(f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S-%f}-{os.getpid()}")
    try:
        with replacing(path, sync=False) as temporary:
            temporary.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except ArtifactError as lost:
        return f"the traceback could not be kept: {lost}"
    return f"the traceback is in {path}"
