"""The protocol: all that is fixed for a study. Frozen, validated, hashed, JSON both ways."""

import hashlib
import json
import math
import re
import typing
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from kd.errors import ProtocolError
from kd.names import (
    DATASETS,
    METRICS,
    PRECISIONS,
    STEMS,
    TORCHVISION_MODELS,
    parse_model,
)
from kd.recipe import check_keys, require, require_number
from kd.registry import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What every trial of a study has in common.

    Sizes of images are in pixels; shares (`*_fraction`, `warmup`) lie in 0-1; `margin` is in
    the metric's unit. `views` of 0 stands for one view an epoch of the horizon, `confirm_epochs` of
    0 for the horizon; the properties `view_count` and `confirm_horizon` resolve them.
    """

    dataset: str  # digits, cifar10, cifar100, fashion-mnist, or folder:PATH
    image_size: int
    train_size: int = 0  # training images kept, spread evenly over the classes; 0 keeps all
    validation_fraction: float = 0.1  # of what is not test
    test_fraction: float = 0.2  # of everything, only where the source has no test split of its own
    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0  # side of the erased square; 0 erases nothing
    teacher: str
    teacher_weights: str = "none"  # where fine-tuning starts: none, imagenet or a .safetensors file
    teacher_epochs: int
    teacher_lr: float = 0.1
    teacher_weight_decay: float = 5e-4
    students: tuple[str, ...]  # models that learn; with several, the recipe says which
    max_params: int = 0  # a student with more is infeasible; 0 sets no budget
    max_latency_ms: float = 0.0  # so is one that takes longer for a batch of 1; 0 sets no budget
    stem: str = "cifar"
    taps: tuple[str, ...] = ("last1", "last2", "last3")  # what the teacher cache keeps
    epochs: int  # the horizon
    views: int = 0
    confirm_epochs: int = 0
    batch_size: int = 128
    warmup: float = 0.1
    metric: str = "accuracy"  # what trials are searched, chosen, compared and reported by
    margin: float = 0.5  # differences within it count as equivalent
    seed: int = 0
    threads: int = 1  # of every job; on a CPU the bits of a result depend on it
    precision: str = "float32"  # of the forward pass in training; bfloat16 is for accelerators
    compile: bool = False  # training steps with torch.compile

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name, hint in hints.items():
            _check_type(name, getattr(self, name), hint)
        kind, _, path = self.dataset.partition(":")
        if kind == "folder":
            require("folder: takes a path, as in folder:photos", bool(path), self.dataset)
        else:
            check_name("dataset", self.dataset, (*DATASETS, "folder:PATH"))
        for rule, low, high, names in _RANGES:
            for name in names:
                received = getattr(self, name)
                require(f"{name} must {rule}", low <= received <= high, received)
        require("teacher_lr must be above 0", self.teacher_lr > 0, self.teacher_lr)
        require("validation_fraction must be above 0", self.validation_fraction > 0, 0.0)
        require("test_fraction must be above 0", self.test_fraction > 0, 0.0)
        for name in (name for name, hint in hints.items() if hint is float):
            # 1 and 1.0, 0.0 and -0.0 are equal: written alike, equal protocols have equal hashes.
            object.__setattr__(self, name, getattr(self, name) + 0.0)
        check_name("stem", self.stem, STEMS)
        METRICS.check(self.metric)
        check_name("precision", self.precision, PRECISIONS)
        for field, received in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            rule = f"{field} must be at most the image size of {self.image_size}"
            require(rule, received <= self.image_size, received)
        self._check_models()

    def _check_models(self) -> None:
        weights = self.teacher_weights
        known = weights in ("none", "imagenet") or weights.endswith(".safetensors")
        require("teacher_weights must be none, imagenet or a .safetensors file", known, weights)
        if weights == "imagenet" and parse_model(self.teacher).base not in TORCHVISION_MODELS:
            raise ProtocolError(
                f"no ImageNet weights exist for {self.teacher}; use --teacher-weights none"
            )
        for field in ("students", "taps"):
            names = getattr(self, field)
            require(f"{field} must name at least one", bool(names), names)
            require(f"{field} must not repeat a name", len(set(names)) == len(names), names)
        for name in (self.teacher, *self.students):
            model = parse_model(name)
            if model.digest:
                continue  # what its file makes is tried out by a job, `kd.models.own.try_out`
            for tap in self.taps:
                if tap not in model.taps:
                    raise ProtocolError(
                        f"{name} has no tap {tap!r}; take --taps {','.join(model.taps)}"
                    )

    @property
    def student(self) -> str:
        """The first student: the one that learns unless a recipe names another."""
        return self.students[0]

    @property
    def has_budget(self) -> bool:
        """Whether a student may be infeasible."""
        return self.max_params > 0 or self.max_latency_ms > 0

    @property
    def view_count(self) -> int:
        """Number of distinct augmentations of the training set; longer runs cycle through them."""
        return self.views or self.epochs

    @property
    def confirm_horizon(self) -> int:
        """Epochs of a confirmation run."""
        return self.confirm_epochs or self.epochs

    @property
    def hash(self) -> str:
        """64 bits of SHA-256 over the canonical JSON, as 16 hexadecimal digits."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "students": list(self.students), "taps": list(self.taps)}

    @classmethod
    def from_json(cls, given: Any) -> Self:
        """Read what `to_json` wrote. Raises ProtocolError for unknown, missing or absurd values."""
        check_keys("protocol", given, tuple(field.name for field in fields(cls)))
        values = dict(given)
        for name in ("students", "taps"):
            if isinstance(values[name], list):
                values[name] = tuple(values[name])
        return cls(**values)

    def differences(self, other: "Protocol") -> list[str]:
        """Say field by field where `other` differs, as `epochs: 12 -> 30`."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{key}: {mine[key]} -> {theirs[key]}" for key in mine if mine[key] != theirs[key]]


def dataset_slug(dataset: str) -> str:
    """Return a data set's name fit for a file name: `folder:/a/My photos` gives `My-photos`.

    At most 40 characters, of which the first and last are letters or digits.
    """
    last = re.split(r"[:/\\]", dataset.rstrip("/\\"))[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")
    return plain[:40].rstrip("-._") or "study"


def _check_type(name: str, received: Any, hint: Any) -> None:
    """Raise ProtocolError unless the value has the field's type: str, bool, int, float or names."""
    if hint is float:
        require_number(name, received)
    elif hint is int:
        whole = isinstance(received, int) and not isinstance(received, bool)
        require(f"{name} must be a whole number", whole, received)
    elif hint is bool:
        require(f"{name} must be true or false", isinstance(received, bool), received)
    elif hint is str:
        require(f"{name} must be a text", isinstance(received, str), received)
    else:
        names = isinstance(received, tuple) and all(isinstance(item, str) for item in received)
        require(f"{name} must be a list of names", names, received)


_RANGES: tuple[tuple[str, float, float, tuple[str, ...]], ...] = (
    ("lie in 4-1024", 4, 1024, ("image_size",)),
    ("lie in 0-1000000000", 0, 10**9, ("train_size", "max_params", "max_latency_ms")),
    ("be at least 0", 0, math.inf, ("cutout", "crop_padding")),
    ("lie in 0-100", 0, 100, ("margin",)),
    ("lie in 0-9223372036854775807", 0, 2**63 - 1, ("seed",)),
    ("lie in 0-0.9", 0, 0.9, ("validation_fraction", "test_fraction", "warmup")),
    ("lie in 1-100000", 1, 100_000, ("epochs",)),
    ("lie in 0-100000", 0, 100_000, ("views", "confirm_epochs", "teacher_epochs")),
    ("lie in 2-65536", 2, 65_536, ("batch_size",)),
    ("lie in 1-1024", 1, 1024, ("threads",)),
    ("lie in 0-10", 0, 10, ("teacher_lr",)),
    ("lie in 0-1", 0, 1, ("teacher_weight_decay",)),
)
