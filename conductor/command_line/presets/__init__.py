"""Presets: one small file each, that opens with its command and expected running time.

Each has `PROTOCOL`, the fields that differ from the defaults of `kd.protocol.Protocol`.
"""

import math
from typing import Any

from kd.registry import Kind

PRESETS = Kind("preset", __name__)


def preset(name: str) -> dict[str, Any]:
    """Return the protocol fields of a preset. Raises ProtocolError for an unknown name."""
    return dict(PRESETS.load(name).PROTOCOL)


def shortened(fields: dict[str, Any], epochs: float) -> dict[str, Any]:
    """Return a preset's fields for a shorter horizon: teacher and confirmation shrink with it.

    Their epochs were chosen beside the preset's horizon; a look at one epoch should not train a
    teacher for thirty. A longer horizon leaves them as they are.
    """
    share = epochs / fields["epochs"]
    scaled = {
        name: math.ceil(fields[name] * share)
        for name in ("teacher_epochs", "confirm_epochs")
        if share < 1 and fields.get(name)
    }
    return {**fields, **scaled}
