"""The processor, cores and memory that this process may use, within the limits of cgroups."""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
PROCESSORS = Path("/proc/cpuinfo")
MODEL = ("vendor_id", "cpu family", "model", "model name")  # what names a kind of processor
VECTORS = ("avx", "fma", "amx", "sse4")  # how the flags begin that choose between kernels


def processor() -> dict[str, str]:
    """Return what identifies this kind of processor: its model and its vector extensions.

    Where the kernel does not list them, the model is what Python knows.
    """
    lines = (line.partition(":") for line in _text(PROCESSORS).split("\n\n")[0].splitlines())
    known = {name.strip(): value.strip() for name, _, value in lines}
    flags = [flag for flag in known.get("flags", "").split() if flag.startswith(VECTORS)]
    found = {name: known[name] for name in MODEL if name in known}
    return {
        "machine": platform.machine(),
        **(found or {"model name": platform.processor()}),
        "vectors": " ".join(sorted(flags)),
    }


def usable_cores() -> int:
    """Return the cores that this process may use, at least 1.

    The cores of its affinity, or the quota of its container if that is less, rounded up. On macOS,
    all cores of the machine.
    """
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *map(_quota, _groups("cpu"))])))


def installed_memory() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def usable_memory() -> int:
    """Return the bytes of memory that this process may have: what its cgroups allow, if less."""
    return int(min([installed_memory(), *map(_memory_limit, _groups("memory"))]))


def _groups(controller: str) -> Iterator[Path]:
    """Yield this process's cgroup of a controller, and all above it; each may set a limit.

    Version 2 has one tree for all controllers, named 0 and without a name; version 1 one each.
    """
    for line in _text(OWN_GROUPS).splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = GROUPS / controller if names else GROUPS
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _quota(group: Path) -> float:
    """Return the cores' worth of time that a group has; infinite without a limit."""
    older = [_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    quota, period = (_text(group / "cpu.max").split() or older)[:2]
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else math.inf


def _memory_limit(group: Path) -> float:
    limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    return int(limit) if limit.isdecimal() else math.inf


def _text(path: Path) -> str:
    """Return the text of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
