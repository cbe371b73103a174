"""Presets: one small file each, that opens with its command and expected running time.

Each has `PROTOCOL`, the fields that differ from the defaults of `kd.protocol.Protocol`.
"""

from importlib import import_module
from typing import Any

from kd.catalogue import check_name

PRESETS = {
    "digits": "digits",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "fashion-mnist": "fashion_mnist",
    "folder": "folder",
}


def preset(name: str) -> dict[str, Any]:
    """Return the protocol fields of a preset. Raises ProtocolError for an unknown name."""
    check_name("preset", name, PRESETS)
    fields: dict[str, Any] = import_module(f"conductor.presets.{PRESETS[name]}").PROTOCOL
    return dict(fields)
