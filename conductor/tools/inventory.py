"""Describes the machine, and what Retort will use of it, in pairs of name and text."""

import platform
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conductor.request import Request
from conductor.stages.preparing import DISK_SHARE
from reports.wording import counted, show_size
from storage.studies.urls import shown
from workers.machine import installed_memory, usable_cores, usable_memory

PACKAGES = ("retort", "torch", "torchvision", "optuna", "optuna-dashboard", "plotly")
EXTRAS = {  # extra of pyproject.toml: the modules that it brings
    "postgresql": ("psycopg",),
    "mysql": ("pymysql",),
    "ray": ("ray",),
    "timm": ("huggingface_hub", "timm"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
}
SHARED_MEMORY = Path("/dev/shm")
UNKNOWN = "unknown, because no worker responds"
Lines = list[tuple[str, str]]


def offered(root: Path) -> Lines:
    """Describe what is known without torch: cores, memory, disk, installed packages."""
    lines = [
        ("system", f"{platform.platform()}, Python {platform.python_version()}"),
        ("cores", f"{usable_cores()} usable"),
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


def computing(machine: Mapping[str, Any] | None) -> Lines:
    """Describe accelerators and weights from `machine`, the result of `MachineJob`."""
    if machine is None:
        return [("GPUs", UNKNOWN), ("weights", UNKNOWN)]
    gpus = [_accelerator(gpu) for gpu in machine["accelerators"]]
    kept = ", ".join(machine["weights"]) or "none of ImageNet's"
    return [
        ("GPUs", "; ".join(gpus) or "none"),
        ("weights", f"{kept} in {machine['weights_folder']}"),
    ]


def used(request: Request, machine: Mapping[str, Any] | None, workers: int | None) -> Lines:
    """Describe what Retort will use; `workers` is their number, None if none responds."""
    threads = counted(request.protocol.threads, "thread")
    known = f"{workers} (--workers {request.workers}), {threads} each"
    return [
        ("device", _devices(machine) if machine else UNKNOWN),
        ("workers", UNKNOWN if workers is None else known),
        ("studies", shown(request.url)),
        ("cache", _cache(request.cache_budget, free_disk(request.root))),
    ]


def _devices(machine: Mapping[str, Any]) -> str:
    several = len(machine["accelerators"]) > 1
    text = f"{machine['device']}{' and the others, in turn' * several}"
    share = 100 * machine["memory_share"]
    return text if share == 100 else f"{text}; a worker may allocate {share:.0f} % of its memory"


def free_disk(root: Path) -> int:
    """Return the free bytes of the disk that `root` is on, or will be on."""
    folders = (folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(next(folders)).free


def _memory() -> str:
    usable, installed = usable_memory(), installed_memory()
    return show_size(usable) + (f" of {show_size(installed)}" if usable < installed else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _extras() -> str:
    installed = [extra for extra, modules in EXTRAS.items() if all(map(find_spec, modules))]
    return f"{_listed(installed)}; not installed: {_listed(set(EXTRAS) - set(installed))}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _accelerator(gpu: Mapping[str, Any]) -> str:
    """Write one as `NVIDIA A100, 42.4 GB, capability 8.0, bfloat16`."""
    parts = [str(gpu["name"])]
    if gpu["memory"]:
        parts.append(show_size(gpu["memory"]))
    if gpu["capability"]:
        parts.append(f"capability {gpu['capability']}")
    if gpu["bf16"] is not None:
        parts.append("bfloat16" if gpu["bf16"] else "no bfloat16")
    return ", ".join(parts)


def _cache(budget: int, free: int) -> str:
    """Compare the budget of the teacher cache with the disk; over it the live teacher is used."""
    room = int(DISK_SHARE * free)
    text = f"at most {show_size(budget)} (--cache-budget)"
    if budget <= room:
        return f"{text}, which fits on the disk"
    return f"{text}, but the disk has room for only {show_size(room)}"
