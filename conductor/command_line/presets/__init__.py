"""Presets, one file each, whose docstring has its command and expected running time.

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
    """Return a preset's fields with the epochs of teacher and confirmation scaled to the horizon.

    A trial run of one epoch should not train a teacher for thirty. A longer horizon does not
    change them.
    """
    share = epochs / fields["epochs"]
    scaled = {
        name: math.ceil(fields[name] * share)
        for name in ("teacher_epochs", "confirm_epochs")
        if share < 1 and fields.get(name)
    }
    return {**fields, **scaled}
