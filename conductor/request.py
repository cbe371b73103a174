"""The request of a run: its options, and the rules between them."""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from conductor.search.pruners import PRUNERS
from conductor.search.samplers import SAMPLERS, check_sampler
from kd.errors import ProtocolError, require
from kd.names import parse_model
from kd.own_files import OwnFile
from kd.protocol import Protocol
from reports.wording import parse_size, parse_time
from search_spaces import SPACES
from search_spaces.changes import read_changes, written
from storage.files.layout import Layout
from storage.files.records import StudySettings, WarmStart

if TYPE_CHECKING:
    from workers.pools.worker_pool import Pool

MOST = 1_000_000  # trials, seeds, lag: more is a typing mistake
BEGINNINGS = ("dataset", "teachers", "students", "epochs", "metric")  # start a line of `announced`
# Fresh seeds of each finalist by name. At a deviation of 0.15 points between seeds, differences of
# about 0.3, 0.2 and 0.1 points can be shown with them, apart from what the test images add.
EVIDENCE = {"quick": 6, "standard": 10, "strong": 29}
METHOD = ("sampler", "pruner", "lag")  # options that choose how an arm is searched
CHANGES = ("fix", "range", "warm_start")  # options that change the search spaces
KEPT = (*METHOD, "storage", *CHANGES)  # options that belong to a study: their defaults are its own


def _checked_url(url: str) -> str:
    """Return the URL. Raises StudyError if no study can be stored there."""
    from storage.studies.urls import check_url  # which imports SQLAlchemy

    if url:
        check_url(url)
    return url


@dataclass(frozen=True, slots=True)
class Flag:
    """The flag of an option: the group that it is listed in, and its help."""

    group: str
    help: str
    read: Callable[[str], Any] | None = None  # the text of the flag; by its type where None
    metavar: str = ""  # its value in the help, for a flag that may be repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The options of a command's workers."""

    workers: Annotated[
        str,
        Flag(
            "workers",
            "processes that train: a number, auto (one an accelerator, else one a core), ray "
            "(see docs/machines.md), or inline (this process, for debugging)",
        ),
    ] = "auto"
    ray_address: Annotated[
        str,
        Flag(
            "workers",
            "a Ray cluster, as in auto or HOST:6379; all nodes must see --root "
            "(default: Ray is started on this machine)",
        ),
    ] = ""
    gpus_per_trial: Annotated[
        float | None,
        Flag(
            "workers",
            "share of a GPU, and of its memory, for each worker on Ray (default: 1 where there "
            "are GPUs)",
        ),
    ] = None

    def __post_init__(self) -> None:
        number, share = re.fullmatch(r"[1-9]\d*", self.workers), self.gpus_per_trial
        known = self.workers in ("auto", "inline", "ray") or bool(number)
        require("--workers must be auto, inline, ray or a number", known, self.workers)
        if share is not None:
            require("--gpus-per-trial must lie in (0, 1]", 0 < share <= 1, share)
        if self.workers != "ray" and (self.ray_address or share):
            raise ProtocolError(
                f"--ray-address and --gpus-per-trial need --workers ray, not {self.workers}"
            )

    def pool(self, root: Path, threads: int) -> "Pool":
        """Return the pool, not started; each worker computes with `threads` threads."""
        from workers.pools.cluster import Cluster
        from workers.pools.worker_pool import make_pool

        share = self.gpus_per_trial
        cluster = Cluster(
            root=root, threads=threads, address=self.ray_address, gpus_per_trial=share
        )
        return make_pool(self.workers, cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Workers):
    """One call of `python study.py run`. An option with a `Flag` has a flag of the same name.

    `spaces` are names of built-in arms or paths; `own` are the files of models and of the sampler;
    `warm` is what `warm_start` names.
    """

    name: str
    root: Path
    protocol: Protocol
    spaces: list[str]
    command: list[str]
    own: Sequence[OwnFile] = ()
    began: float = field(default_factory=time.monotonic)  # seconds, of the monotonic clock
    warm: WarmStart | None = None
    storage: Annotated[
        str,
        Flag("study", "URL of the Optuna studies (default: SQLite in the root)", _checked_url),
    ] = ""
    trials: Annotated[
        int,
        Flag(
            "search",
            "budget of each arm, in trainings to the horizon: as many epochs are spent; with "
            "--sampler, in trials. Repeating the command spends the rest, or does nothing",
        ),
    ] = 20
    timeout: Annotated[
        float | None,
        Flag(
            "search",
            "time, as in 2h, 90m or 1h30m, from the start of this command, after which no further "
            "trial begins, except to give all arms the same budget; then follows the confirmation. "
            "Repeating the command continues to --trials (default: no limit)",
            parse_time,
        ),
    ] = None  # seconds
    sampler: Annotated[
        str,
        Flag(
            "search",
            "search by an Optuna sampler in place of promotion: a name, or a function of your own "
            "that returns one, as in mine.py:make (see docs/guide.md). Names",
        ),
        SAMPLERS,
    ] = ""
    pruner: Annotated[
        str,
        Flag(
            "search",
            "search by an Optuna pruner in place of promotion: how it ends trials early (default "
            "with --sampler: median, or none for gp)",
        ),
        PRUNERS,
    ] = ""
    lag: Annotated[
        int,
        Flag(
            "search",
            "a decision on trial n uses trials up to n - lag; an arm runs at most lag at once",
        ),
    ] = 4
    fix: Annotated[
        tuple[str, ...],
        Flag(
            "search",
            "a parameter that every arm which has it does not search, as in lr=0.05 or "
            "feature_kind=none; temperature and alpha are both ends of a schedule; repeatable",
            metavar="NAME=VALUE",
        ),
    ] = ()
    range: Annotated[
        tuple[str, ...],
        Flag(
            "search",
            "other ends of a parameter's range, as in temperature=2:6, for every arm that has it; "
            "repeatable",
            metavar="NAME=LOW:HIGH",
        ),
    ] = ()
    warm_start: Annotated[
        str,
        Flag(
            "search",
            "another study under --root, whose tuned recipes are tried after each arm's own first "
            "recipes",
        ),
    ] = ""
    seeds: Annotated[int, Flag("comparison", "fresh seeds of each finalist, at least")] = 6
    ablate: Annotated[
        bool,
        Flag("comparison", "also confirm the winner without each of its parts, on the same seeds"),
    ] = False
    cache_budget: Annotated[
        int,
        Flag(
            "cache",
            "largest size of the teacher cache; above it the live teacher is used (default: 20GB)",
            parse_size,
        ),
    ] = 20 * 10**9  # bytes

    def __post_init__(self) -> None:
        for flag in ("trials", "seeds", "lag"):
            received = getattr(self, flag)
            require(f"--{flag} must be at least 1", received >= 1, received)
            require(f"--{flag} must be at most {MOST:,}", received <= MOST, received)
        Workers.__post_init__(self)
        if self.pruner and not self.sampler:
            object.__setattr__(self, "sampler", "tpe")
        if self.sampler and not self.pruner:
            pruner = "none" if self.sampler == "gp" else "median"
            object.__setattr__(self, "pruner", pruner)
        if self.sampler:
            check_sampler(self.sampler)
            PRUNERS.check(self.pruner)
        if self.sampler == "gp" and self.pruner != "none":
            raise ProtocolError(
                f"the gp sampler ignores pruned trials: use --pruner none, not {self.pruner}"
            )
        if self.sampler == "gp" and self.protocol.has_budget and len(self.protocol.students) > 1:
            raise ProtocolError(
                "the gp sampler learns from completed trials alone, so it would choose a student "
                "over the budget for ever: use --sampler tpe, or name one --student"
            )
        for space in self.spaces:
            if not space.endswith(".py"):
                SPACES.check(space)
        names = [Path(space).stem for space in self.spaces]
        require("each arm must be named once", len(set(names)) == len(names), self.spaces)
        fix, ranges = written(read_changes(self.fix, self.range))
        object.__setattr__(self, "fix", fix)
        object.__setattr__(self, "range", ranges)

    @property
    def deadline(self) -> float:
        """When the time of the search ends, on the monotonic clock; infinite without a limit."""
        return math.inf if self.timeout is None else self.began + self.timeout

    @property
    def url(self) -> str:
        """The URL of the Optuna studies' storage."""
        return self.storage or Layout(self.root).studies_url


def choose_spaces(arms: Sequence[str] | None, own: Sequence[str] | None) -> list[str]:
    """Return the arms to run: search spaces of the user's own take the place of `scheduled`."""
    if not own:
        return list(arms or ("scheduled", "plain"))
    for space in own:
        if not space.endswith(".py"):
            raise ProtocolError(f"--space takes a Python file (.py), got {space}")
        if Path(space).stem in (arms or []):
            raise ProtocolError(
                f"--space {space} adds its arm: omit {Path(space).stem} from --arms"
            )
    return [*own, *(arms or ("plain",))]


def searched_by(options: Request | StudySettings) -> dict[str, Any]:
    """Return how arms are searched, by name: promotion, or sampler and pruner; and the lag."""
    chosen = {name: getattr(options, name) for name in METHOD}
    return chosen if options.sampler else {"search": "promotion", "lag": options.lag}


def announced(request: Request, taps: Sequence[str]) -> list[str]:
    """Return the lines that announce a run: the study, and every field of its protocol.

    A field whose 0 means "as another field" is shown with that field's value, and `taps` are those
    in use.
    """
    protocol = request.protocol
    values = {
        **protocol.to_json(),
        "teacher_size": protocol.teacher_size or protocol.image_size,
        "views": protocol.view_count,
        "confirm_epochs": protocol.confirm_horizon,
        "taps": [*(protocol.taps or taps)] or "none",
        "loss": protocol.loss or "searched",
    }
    lines: list[list[str]] = []
    for name, value in values.items():
        if name in BEGINNINGS:
            lines.append([])
        lines[-1].append(f"{name} {_shown(value)}")
    arms = ", ".join(Path(space).stem for space in request.spaces)
    method = ", ".join(f"{name} {value}" for name, value in searched_by(request).items())
    head = f"study {request.name} in {request.root}: arms {arms}; trials {request.trials}, "
    return [
        f"{head}seeds {request.seeds}, {method}",
        *(f"  {', '.join(line)}" for line in lines),
        *_compilation(protocol),
    ]


def _compilation(protocol: Protocol) -> list[str]:
    """Return the line on models that are not compiled as one graph, if there are any."""
    models = dict.fromkeys(protocol.models)
    others = [name for name in models if not parse_model(name).in_catalogue]
    if not (protocol.compile and others):
        return []
    return [
        "compile: graphs may break, which is slower, in models that are not of the catalogue: "
        f"{', '.join(others)}"
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "+".join(value) if isinstance(value, list) else str(value)
