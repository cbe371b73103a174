"""What a study writes down about itself, as frozen records with JSON both ways.

Written by the conductor, read by the conductor and the reports; none of it needs torch.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kd.errors import ArtifactError, ProtocolError
from kd.recipe import Recipe, require_number
from kd.training.history import EpochMetrics
from storage.files.artifacts import read_json, write_json

OUTCOMES = ("complete", "pruned", "diverged", "failed")
ROLES = ("default", "tuned", "ablation")
MOST_SEEDS = 1_000_000
CACHE_MODES = ("all", "logits", "none", "")  # empty until the teacher is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record that is one JSON file."""

    def to_json(self) -> dict[str, Any]:
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, given: Any) -> Self:
        """Raises ArtifactError for unknown or missing keys, and values of another type."""
        names = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(given, dict) or set(given) != names:
            wrong = sorted(names ^ set(given)) if isinstance(given, dict) else given
            raise ArtifactError(f"not a {cls.__name__}: unknown or missing {wrong}")
        hints = typing.get_type_hints(cls)
        values = {}
        for name, value in given.items():
            try:
                values[name] = _restored(hints[name], value)
            except (ProtocolError, ArtifactError, TypeError, OverflowError) as error:
                raise ArtifactError(f"not a {cls.__name__}: {name}: {error}") from None
        return cls(**values)

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ArtifactError, naming the file, when it is missing, damaged or another record."""
        given = read_json(path)
        try:
            return cls.from_json(given)
        except ArtifactError as error:
            raise ArtifactError(f"{path} is damaged: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(Record):
    """How one training run ended: a trial, a selection run or a confirmation run.

    `seconds` is training and validation time over all attempts; `test` holds accuracy, nll, ece
    and (with a teacher) agreement on the test split, for confirmation runs alone.
    """

    recipe: Recipe
    seed: int
    horizon: int
    outcome: str
    reason: str = ""
    history: list[EpochMetrics]
    seconds: float
    test: dict[str, float] | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        _check_name("outcome", self.outcome, OUTCOMES)
        if self.test is not None:
            if not {"accuracy", "nll", "ece"} <= set(self.test):
                raise ArtifactError(f"a test has accuracy, nll and ece, got {sorted(self.test)}")
            _check_share("accuracy", self.test["accuracy"])

    @property
    def last(self) -> EpochMetrics | None:
        """The last epoch trained; None where there is none, and for a diverged run."""
        return self.history[-1] if self.history and self.outcome != "diverged" else None

    def objective(self, worst: float) -> float:
        """Return the study's metric on the validation split after the last epoch, or else worst."""
        return self.last.objective if self.last else worst


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSource(Record):
    """Where an arm's search space comes from: a built-in name or a file, and its SHA-256."""

    source: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings(Record):
    """How a study is run, beside its protocol; none of it may change but arms that are added.

    `spaces` has the search space of each arm; `dataset`, `teacher` and `shards` are fingerprints
    in the cache; `cache` says how much of the teacher is cached: all, logits or none.
    """

    arms: list[str]
    spaces: dict[str, SpaceSource]
    sampler: str
    pruner: str
    lag: int
    storage: str
    dataset: str
    teacher: str
    shards: str
    cache: str
    created: str  # ISO 8601, UTC
    command: list[str]
    versions: dict[str, str]
    machine: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, over all sessions
    passed_over: str = ""  # what of a folder of images was not read, in one sentence

    def __post_init__(self) -> None:
        _check_name("cache", self.cache, CACHE_MODES)
        for name in filter(None, (self.dataset, self.teacher, self.shards)):
            _check_folder(name)
        if set(self.arms) != set(self.spaces) or len(set(self.arms)) != len(self.arms):
            raise ArtifactError(
                f"each arm has one search space, got {self.arms} and {list(self.spaces)}"
            )
        for arm in self.arms:
            _check_folder(arm)
            _check_source(arm, self.spaces[arm].source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist(Record):
    """A recipe that is confirmed on fresh seeds.

    `name` is its folder under `confirm/`; `title` what a reader calls it; `trial` the number of
    the trial it comes from; `searched` the study's metric on the validation split that the
    search saw of that; `selection` the same on the seeds of the selection (empty where there are
    none).
    """

    name: str
    title: str
    arm: str
    role: str
    recipe: Recipe
    trial: int
    searched: float
    selection: list[float]

    def __post_init__(self) -> None:
        _check_name("role", self.role, ROLES)
        _check_folder(self.name)
        _check_folder(self.arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalists(Record):
    """What is confirmed, fixed before the seal is broken."""

    seeds: int
    finalists: list[Finalist]

    def __post_init__(self) -> None:
        if not 0 <= self.seeds <= MOST_SEEDS:
            raise ArtifactError(f"seeds must lie in 0-{MOST_SEEDS:,}, got {self.seeds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Record):
    batch_size: int
    median_ms: float
    p95_ms: float
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Record):
    """What one model costs to run: `bytes` on disk as safetensors, `macs` for one image."""

    model: str
    parameters: int
    macs: int
    bytes: int
    latency: list[Latency]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs(Record):
    """Costs of `teacher`, `distilled` and `plain`, measured interleaved, with nothing else running.

    `distilled` and `plain` are both the protocol's first student: what they differ by is the noise
    of the clock. Where there are more students, each has an entry under its own name.
    """

    device: str
    threads: int
    models: dict[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSize(Record):
    """What a budget asks of a student: `latency_ms` is a median at batch 1, None if not limited."""

    parameters: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSizes(Record):
    """The students of the protocol with the hash `protocol`, measured once, before any training."""

    protocol: str
    device: str
    threads: int
    models: dict[str, StudentSize]


def _check_name(what: str, received: str, known: tuple[str, ...]) -> None:
    if received not in known:
        raise ArtifactError(f"{what} must be one of {', '.join(known)}, got {received!r}")


def _check_share(what: str, received: float) -> None:
    if not 0 <= received <= 1:
        raise ArtifactError(f"{what} must lie in 0-1, got {received!r}")


def _check_folder(name: str) -> None:
    """Raise ArtifactError for a name that is not that of a folder within the one that holds it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ArtifactError(f"a part of the study is named by its folder, got {name!r}")


def _check_source(arm: str, source: str) -> None:
    """Raise ArtifactError unless a search space is a built-in one, or a file of the user's.

    Its file is run when the study goes on, so one that is named from wherever the study lies is
    refused: it may have come with the study.
    """
    if source != arm and not (Path(source).is_absolute() and Path(source).name == f"{arm}.py"):
        raise ArtifactError(f"the search space {arm} is a name or a whole path, got {source!r}")


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _restored(hint: Any, value: Any) -> Any:
    """Build what `hint` asks for out of plain JSON; TypeError when the value is of another type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "from_json"):
        return hint.from_json(value)
    if origin is list and isinstance(value, list):
        return [_restored(inner[0], item) for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: _restored(inner[1], item) for key, item in value.items()}
    if type(None) in inner:
        return None if value is None else _restored(inner[0], value)
    if hint is float:
        require_number("a number", value)
        return float(value)
    if type(value) is hint:  # exactly: to Python, true is an int
        return value
    raise TypeError(f"expected {getattr(hint, '__name__', hint)}, got {value!r}")
