"""The machine that is measured on: processor, cores, memory, versions, and what else it did."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from conductor.tools.inventory import offered

PROCESSORS = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
SHARED = ("system", "cores", "memory", "packages")  # of what `study.py doctor` lists


def described() -> dict[str, str]:
    """Return what there is by name; to be asked for before anything is measured."""
    lines = dict(offered(Path()))
    return {
        "begun": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load before": f"{os.getloadavg()[0]:.2f}, the mean of one minute",
        "processor": _processor(),
        "governor": _governor(),
        **{name: lines[name] for name in SHARED},
    }


def _processor() -> str:
    """Return the model's name, where the kernel tells it."""
    try:
        text = PROCESSORS.read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor() or "unknown"


def _governor() -> str:
    """Return how the clock rate is governed; a virtual machine does not see it."""
    try:
        return GOVERNOR.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
