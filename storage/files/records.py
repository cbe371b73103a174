"""The JSON records of a study: its runs, settings, finalists and costs.

`conductor` writes them, `conductor` and `reports` read them; none of them needs torch.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kd.errors import require
from kd.json_data import JsonData
from kd.models.latency import Latency
from kd.recipe import Recipe
from kd.training.history import EpochMetrics
from storage.files.artifacts import read_record, write_json

OUTCOMES = ("complete", "pruned", "paused", "diverged", "failed")
ROLES = ("default", "tuned", "ablation")
MOST_SEEDS = 1_000_000
CACHE_MODES = ("all", "logits", "none", "")  # empty before the teacher exists


class Record(JsonData):
    """A record that is one JSON file."""

    __slots__ = ()

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ArtifactError, naming the file, when it is missing, damaged or another record."""
        return read_record(path, cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(Record):
    """How one training run ended: a trial, a selection run or a confirmation run.

    `seconds` is training and validation time over all attempts; `test` holds objective (the
    study's metric), accuracy, nll and ece on the test split, for confirmation runs alone.
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
            whole = {"objective", "accuracy", "nll", "ece"} <= set(self.test)
            require("a test has objective, accuracy, nll and ece", whole, sorted(self.test))
            accuracy = self.test["accuracy"]
            require("accuracy must lie in 0-1", 0 <= accuracy <= 1, accuracy)

    @property
    def last(self) -> EpochMetrics | None:
        """The last epoch trained; None where there is none, and for a diverged run."""
        return self.history[-1] if self.history and self.outcome != "diverged" else None

    def objective(self, worst: float) -> float:
        """Return the study's metric on the validation split after the last epoch, or else worst.

        Higher is better: see `kd.training.scoring.scores`.
        """
        return self.last.objective if self.last else worst


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSource(JsonData):
    """Where an arm's search space comes from: a built-in name or a file's, as in
    `mine.py@1a2b3c4d5e6f` (see `kd.own_files`); `digest` covers what it does.
    """

    source: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmTrial(JsonData):
    """The trial of another study's tuned recipe; `space` is the digest of its search space."""

    number: int
    space: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart(JsonData):
    """What a study took from another at its begin: the trials of the tuned recipes, by arm.

    `dataset` is the other study's, `tested` whether it had read its test split by then, and `fix`
    has the parameters that it fixed.
    """

    dataset: str
    tested: bool
    fix: list[str]
    trials: dict[str, WarmTrial]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings(Record):
    """How a study is run, apart from its protocol; it does not change, except that arms are added.

    `spaces` has the search space of each arm; `dataset`, and `teachers` and `shards` of each
    teacher, are fingerprints in the cache; `cache` is how much of the teachers is cached: all,
    logits or none. `taps` has the modules of each tap in use, those of each teacher by
    `Protocol.teacher_roles` and of each student by name. `fix`, `range` and
    `warm_start` are the flags that changed the search spaces; `warm` is what the last one found.
    """

    arms: list[str]
    spaces: dict[str, SpaceSource]
    sampler: str
    pruner: str
    lag: int
    storage: str
    dataset: str
    teachers: tuple[str, ...]
    shards: tuple[str, ...]
    cache: str
    created: str  # ISO 8601, UTC
    command: list[str]
    versions: dict[str, str]
    machine: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, over all sessions
    passed_over: str = ""  # what of the data was not read, in words
    timeout: float = 0.0  # seconds, if the last search was ended by time; else 0
    planned: int = 0  # trials of each arm that such a search was to run
    taps: dict[str, dict[str, str]] | None = None  # None if a version wrote it that kept none
    fix: tuple[str, ...] = ()
    range: tuple[str, ...] = ()
    warm_start: str = ""
    warm: WarmStart | None = None

    def __post_init__(self) -> None:
        _check_name("cache", self.cache, CACHE_MODES)
        for name in filter(None, (self.dataset, *self.teachers, *self.shards)):
            _check_folder(name)
        pairs = sorted(self.arms) == sorted(self.spaces)
        require("each arm has one search space", pairs, [self.arms, [*self.spaces]])
        for arm in self.arms:
            _check_folder(arm)
            _check_source(arm, self.spaces[arm].source)
        for tap, modules in (self.taps or {}).items():
            whole = bool(re.fullmatch("last[1-9][0-9]*", tap)) and "teacher" in modules
            rule = "a tap, such as last1, has a module of the teacher and of each student"
            require(rule, whole and len(modules) > 1, {tap: modules})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane(JsonData):
    """What a search expects of two parameters together, over random values of all others.

    `values` are those of each of `names`; `means` [second, first] the expected metric, as a share
    if it is one, else on the search's own scale.
    """

    names: list[str]
    values: list[list[Any]]
    means: list[list[float]]

    def __post_init__(self) -> None:
        whole = len(self.names) == len(self.values) == 2 and all(self.values)
        require("a plane has values of two parameters", whole, [self.names, self.values])
        across, up = map(len, self.values)
        sizes = [len(row) for row in self.means]
        require("a plane has a mean of each pair of values", sizes == up * [across], sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt(JsonData):
    """What the surrogate of an arm's search has learnt.

    `importances` has for each parameter the share of the variance over random recipes that it
    explains alone, 0-1, and the ends of its 90 % interval, the largest share first; `trials` is the
    number of trials that the surrogate has seen, `trusted` whether it uses their early signals.
    """

    importances: dict[str, list[float]]
    trials: int
    trusted: bool
    plane: Plane | None = None

    def __post_init__(self) -> None:
        triples = all(len(one) == 3 for one in self.importances.values())
        require("an importance is a share and its interval", triples, self.importances)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord(Record):
    """What a study's search by promotion has learnt, by arm, when it last ended."""

    arms: dict[str, Learnt]  # those with enough runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist(JsonData):
    """A recipe that is confirmed on fresh seeds.

    `name` is its folder under `confirm/`; `title` its name in reports; `trial` the number of
    the trial it comes from; `searched` the study's metric on the validation split in the search:
    the mean over the recipe's runs at the horizon, with a sampler the value of `trial`, None where
    it has none;
    `selection` the same on the seeds of the selection (empty where there are none).
    """

    name: str
    title: str
    arm: str
    role: str
    recipe: Recipe
    trial: int
    searched: float | None
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
        require(f"seeds must lie in 0-{MOST_SEEDS:,}", 0 <= self.seeds <= MOST_SEEDS, self.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(JsonData):
    """What one model costs to run: `bytes` on disk as safetensors, `macs` for one image."""

    model: str
    parameters: int
    macs: int
    bytes: int
    latency: list[Latency]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs(Record):
    """Costs of `teacher`, `distilled` and `plain`, measured interleaved, with nothing else running.

    `distilled` and `plain` are both the protocol's first student: their difference is the noise
    of the clock. Where there are more students, each has an entry under its own name.
    """

    device: str
    threads: int
    models: dict[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSize(JsonData):
    """A student's limited figures: `latency_ms` is a median at batch 1, None if not limited."""

    parameters: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSizes(Record):
    """The students of the protocol with the hash `protocol`, measured once, before any training.

    `dataset` is the fingerprint of the data, which have the shape of the inputs and the classes.
    """

    protocol: str
    dataset: str
    device: str
    threads: int
    models: dict[str, StudentSize]


def _check_name(what: str, received: str, known: tuple[str, ...]) -> None:
    require(f"{what} must be one of {', '.join(known)}", received in known, received)


def _check_folder(name: str) -> None:
    """Raise ProtocolError unless a name is that of a folder, without a path."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name)
    require("a part of the study is named by its folder", bool(plain), name)


def _check_source(arm: str, source: str) -> None:
    """Raise ProtocolError unless a search space is a built-in one, or a kept file of the user's."""
    kept = re.fullmatch(rf"{re.escape(arm)}\.py@[0-9a-f]{{12}}", source)
    require(f"the search space {arm} is a name or a kept file", source == arm or bool(kept), source)
