"""What the command line asks for, and the rules that one flag alone cannot break."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conductor.search.names import BUILT_IN_ARMS, PRUNERS, SAMPLERS
from kd.errors import ProtocolError
from kd.protocol import Protocol
from kd.recipe import require
from kd.registry import check_name
from workers.pools.cluster import Cluster

MOST = 1_000_000  # trials, seeds, runs at once: more is a slip of the finger
BEGINNINGS = ("dataset", "teacher", "students", "epochs", "metric")  # of announced lines
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of `python study.py run`. `spaces` are names of built-in arms or paths."""

    name: str
    root: Path
    protocol: Protocol
    trials: int
    seeds: int
    ablate: bool
    spaces: list[str]
    sampler: str
    pruner: str
    lag: int
    workers: str
    storage: str  # empty for the default under the root
    data_dir: str  # empty for the default under the root
    cache_budget: int  # bytes
    command: list[str]
    models: Mapping[str, bytes] = field(default_factory=dict)  # see `conductor.stages.own_models`
    ray_address: str = ""  # empty for a Ray of our own on this machine
    gpus_per_trial: float | None = None  # None for a whole GPU where there are any

    def __post_init__(self) -> None:
        for flag in ("trials", "seeds", "lag"):
            received = getattr(self, flag)
            require(f"--{flag} must be at least 1", received >= 1, received)
            require(f"--{flag} must be at most {MOST:,}", received <= MOST, received)
        check_workers(self.workers, self.ray_address, self.gpus_per_trial)
        check_name("sampler", self.sampler, SAMPLERS)
        check_name("pruner", self.pruner, PRUNERS)
        if self.sampler == "gp" and self.pruner != "none":
            raise ProtocolError(
                f"the gp sampler ignores pruned trials: use --pruner none, not {self.pruner}"
            )
        if self.sampler == "gp" and self.protocol.has_budget and len(self.protocol.students) > 1:
            raise ProtocolError(
                "the gp sampler learns from completed trials alone, and would ask for a student "
                "over the budget again and again: use --sampler tpe, or leave that student out"
            )
        for space in self.spaces:
            if not space.endswith(".py"):
                check_name("arm", space, BUILT_IN_ARMS)
        names = [Path(space).stem for space in self.spaces]
        require("an arm is named once", len(set(names)) == len(names), names)

    @property
    def cluster(self) -> Cluster:
        """What the workers take of Ray, where they run on it."""
        return Cluster(
            root=self.root,
            threads=self.protocol.threads,
            address=self.ray_address,
            gpus_per_trial=self.gpus_per_trial,
        )


def check_workers(workers: str, ray_address: str, gpus_per_trial: float | None) -> None:
    """Raise ProtocolError unless the flags that say what trains fit together."""
    known = workers in ("auto", "inline", "ray") or bool(re.fullmatch(r"[1-9]\d*", workers))
    require("--workers must be auto, inline, ray or a number", known, workers)
    if gpus_per_trial is not None:
        require("--gpus-per-trial must lie in (0, 1]", 0 < gpus_per_trial <= 1, gpus_per_trial)
    if workers != "ray" and (ray_address or gpus_per_trial):
        raise ProtocolError(f"--ray-address and --gpus-per-trial need --workers ray, not {workers}")


def choose_spaces(arms: list[str] | None, space: str | None) -> list[str]:
    """Return the arms to run: a space of the user's own takes the place of `scheduled`."""
    if space is None:
        return arms or ["scheduled", "plain"]
    if not space.endswith(".py"):
        raise ProtocolError(f"--space takes a Python file (.py), got {space}")
    if Path(space).stem in (arms or []):
        raise ProtocolError(f"{space} joins by itself: leave {Path(space).stem} out of --arms")
    return [space, *(arms or ["plain"])]


def parse_size(text: str) -> int:
    """Read a number of bytes such as 20GB or 512 MB (decimal). Raises ProtocolError."""
    match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]?B?)\s*", text.upper())
    unit = match and (match[2] if match[2].endswith("B") or not match[2] else match[2] + "B")
    if match is None or unit not in UNITS:
        raise ProtocolError(f"a size is a number and a unit, such as 20GB or 512MB, got {text!r}")
    return int(float(match[1]) * UNITS[unit])


def show_size(count: int) -> str:
    """Write bytes as 9.3 GB."""
    for unit in ("TB", "GB", "MB", "KB"):
        if count >= UNITS[unit]:
            return f"{count / UNITS[unit]:.1f} {unit}"
    return f"{count} B"


def announced(request: Request) -> list[str]:
    """Say what is about to run: the study, and every field of its protocol under its name.

    A field whose 0 stands for another is given the value of that one.
    """
    protocol = request.protocol
    values = {
        **protocol.to_json(),
        "views": protocol.view_count,
        "confirm_epochs": protocol.confirm_horizon,
    }
    lines: list[list[str]] = []
    for name, value in values.items():
        if name in BEGINNINGS:
            lines.append([])
        lines[-1].append(f"{name} {_told(value)}")
    arms = ", ".join(Path(space).stem for space in request.spaces)
    tactics = f"sampler {request.sampler}, pruner {request.pruner}, lag {request.lag}"
    head = f"study {request.name} in {request.root}: arms {arms}; trials {request.trials}, "
    return [
        f"{head}seeds {request.seeds}, {tactics}",
        *(f"  {', '.join(line)}" for line in lines),
    ]


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "+".join(value) if isinstance(value, list) else str(value)
