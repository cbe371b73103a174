"""What a machine offers and what Retort will use of it, as pairs of a name and a text."""

import platform
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conductor.request import Request
from conductor.stages.preparing import DISK_SHARE
from reports.wording import show_size
from storage.studies.urls import shown
from workers.machine import installed_memory, usable_cores, usable_memory

PACKAGES = ("retort", "torch", "torchvision", "optuna", "optuna-dashboard", "plotly")
EXTRAS = {  # extra of pyproject.toml: the modules that it brings
    "postgresql": ("psycopg",),
    "mysql": ("pymysql",),
    "ray": ("ray",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}
SHARED_MEMORY = Path("/dev/shm")
UNKNOWN = "not known, since no worker answers"
Lines = list[tuple[str, str]]


def offered(root: Path) -> Lines:
    """Describe what is known without torch: cores, memory, disk, installed packages."""
    lines = [
        ("system", f"{platform.platform()}, Python {platform.python_version()}"),
        ("cores", f"{usable_cores()} that may be used"),
        ("memory", _memory()),
        ("free disk", f"{show_size(free_disk(root))} under {root.absolute()}"),
    ]
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        lines.append(
            (str(SHARED_MEMORY), f"{show_size(usage.free)} free of {show_size(usage.total)}")
        )
    lines.append(("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)))
    return [*lines, ("extras", _extras())]


def computing(found: Mapping[str, Any] | None) -> Lines:
    """Describe accelerators and torchvision's weights from `found`, the result of `MachineJob`."""
    if found is None:
        return [("GPUs", UNKNOWN), ("weights", UNKNOWN)]
    gpus = [_accelerator(each) for each in found["accelerators"]]
    kept = ", ".join(found["weights"]) or "none of ImageNet's"
    return [
        ("GPUs", "; ".join(gpus) or "none"),
        ("weights", f"{kept} in {found['weights_folder']}"),
    ]


def used(request: Request, found: Mapping[str, Any] | None, workers: int | None) -> Lines:
    """Describe what Retort will use; `workers` is their number, None if none answers."""
    threads = f"{request.protocol.threads} thread{'s' * (request.protocol.threads != 1)} each"
    count = UNKNOWN if workers is None else f"{workers} (--workers {request.workers}), {threads}"
    return [
        ("device", _devices(found) if found else UNKNOWN),
        ("workers", count),
        ("studies", shown(request.url)),
        ("cache", _cache(request.cache_budget, free_disk(request.root))),
    ]


def _devices(found: Mapping[str, Any]) -> str:
    several = len(found["accelerators"]) > 1
    text = f"{found['device']}{' and the others, in turn' * several}"
    share = 100 * found["memory_share"]
    return text if share == 100 else f"{text}; a worker may allocate {share:.0f} % of its memory"


def free_disk(root: Path) -> int:
    """Return the free bytes where `root` is, or will be."""
    there = (folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(next(there)).free


def _memory() -> str:
    usable, installed = usable_memory(), installed_memory()
    return show_size(usable) + (f" of {show_size(installed)}" if usable < installed else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _extras() -> str:
    there = [extra for extra, modules in EXTRAS.items() if all(map(find_spec, modules))]
    return f"{_listed(there)}; not installed: {_listed(set(EXTRAS) - set(there))}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _accelerator(found: Mapping[str, Any]) -> str:
    """Write one as `NVIDIA A100, 42.4 GB, capability 8.0, bfloat16`."""
    parts = [str(found["name"])]
    if found["memory"]:
        parts.append(show_size(found["memory"]))
    if found["capability"]:
        parts.append(f"capability {found['capability']}")
    if found["bf16"] is not None:
        parts.append("bfloat16" if found["bf16"] else "no bfloat16")
    return ", ".join(parts)


def _cache(budget: int, free: int) -> str:
    """Compare the budget of the teacher cache with the disk; over it the live teacher is used."""
    room = int(DISK_SHARE * free)
    text = f"at most {show_size(budget)} (--cache-budget)"
    if budget <= room:
        return f"{text}, which the disk has free"
    return f"{text}, of which the disk has room for {show_size(room)}"
