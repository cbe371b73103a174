"""The protocol: everything that is fixed for a study, as a validated, hashed frozen dataclass."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated

from kd.errors import ProtocolError, require
from kd.json_data import JsonData, plain
from kd.names import (
    AUGMENTATIONS,
    FAMILIES,
    METRICS,
    OPTIMIZERS,
    PRECISIONS,
    SOURCES,
    STEMS,
    augment_text,
    is_downloaded,
    parse_augment,
    parse_dataset,
    parse_model,
)
from kd.registry import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol(JsonData):
    """Settings that all trials of a study share. Each field has a flag of the same name.

    The text of a field is the help of its flag. Shares (`*_fraction`, `warmup`) lie in 0-1.
    The properties `view_count` and `confirm_horizon` resolve the value 0 of `views` (one view per
    epoch of the horizon) and of `confirm_epochs` (the horizon).
    """

    dataset: Annotated[
        str,
        "source of the data, as in digits, folder:PATH, or cifar10:PATH if its files are there",
        SOURCES,
    ]
    image_size: Annotated[int, "side in pixels that images are resized to"]
    train_size: Annotated[
        int,
        "number of training images to keep, spread evenly over the classes; at most as many are "
        "drawn for validation (0: all)",
    ] = 0
    validation_fraction: Annotated[
        float,
        "share of the images outside of the test split that search and pruning use for validation, "
        "where the data has no validation split",
    ] = 0.1
    test_fraction: Annotated[
        float, "share that is sealed for the test, where the data has no test split"
    ] = 0.2
    augment: Annotated[
        str,
        "augmentations of training images in the order of application, as in "
        "crop=4,flip,cutout=8, or none",
        AUGMENTATIONS,
    ] = "crop=4,flip"
    teacher: Annotated[
        str,
        "model that teaches, as in resnet20 or, with a width factor, resnet8-w0.5, or a function "
        "in a file as in mine.py:large (see docs/guide.md); families",
        FAMILIES,
    ]
    teacher_weights: Annotated[
        str, "initial weights of the teacher: none, imagenet, or a .safetensors file"
    ] = "none"
    teacher_epochs: Annotated[int, "epochs of the teacher's fine-tuning (0: use it as it is)"]
    teacher_lr: Annotated[float, "learning rate of the teacher"] = 0.1
    teacher_weight_decay: Annotated[float, "weight decay of the teacher"] = 5e-4
    students: Annotated[
        tuple[str, ...],
        "model that learns; repeat the flag, or separate by commas, and each trial chooses one",
    ]
    max_params: Annotated[int, "largest number of parameters of a student (0: no limit)"] = 0
    max_latency_ms: Annotated[
        float, "largest median time in ms of a student for one image (0: no limit)"
    ] = 0.0
    stem: Annotated[
        str, "first layers of torchvision models: cifar for small images, or imagenet"
    ] = "cifar"
    taps: Annotated[
        tuple[str, ...], "where features are read, deepest first, as in last1,last2"
    ] = ("last1", "last2", "last3")
    epochs: Annotated[int, "the horizon: epochs that every trial is planned for"]
    views: Annotated[
        int,
        "augmentations of the training set that are cached; epochs cycle through them "
        "(0: one an epoch)",
    ] = 0
    confirm_epochs: Annotated[int, "epochs of a confirmation run (0: the horizon)"] = 0
    batch_size: Annotated[int, "images a training step"] = 128
    warmup: Annotated[float, "share of the training in which the learning rate warms up"] = 0.1
    optimizer: Annotated[str, "optimizer of the students; teachers use sgd", OPTIMIZERS] = "sgd"
    metric: Annotated[str, "metric that ranks trials and compares recipes", METRICS] = "accuracy"
    margin: Annotated[
        float,
        "largest difference at which two recipes count as equivalent, in the metric's unit, such "
        "as points of accuracy (default: the metric's own)",
    ] = 0.5
    seed: Annotated[int, "seed of the study: the same seed gives the same study"] = 0
    threads: Annotated[int, "CPU threads of a worker; the bits of a result depend on it"] = 1
    precision: Annotated[
        str, "number type of the training forward pass: float32, or bfloat16 if supported"
    ] = "float32"
    compile: Annotated[
        bool, "compile training steps; takes minutes, pays off on a GPU or with many epochs"
    ] = False

    def __post_init__(self) -> None:
        self.check_types()
        parse_dataset(self.dataset)
        for rule, low, high, names in _RANGES:
            for name in names:
                received = getattr(self, name)
                require(f"{name} must {rule}", low <= received <= high, received)
        require("teacher_lr must be above 0", self.teacher_lr > 0, self.teacher_lr)
        require("validation_fraction must be above 0", self.validation_fraction > 0, 0.0)
        require("test_fraction must be above 0", self.test_fraction > 0, 0.0)
        check_name("stem", self.stem, STEMS)
        METRICS.check(self.metric)
        check_name("precision", self.precision, PRECISIONS)
        OPTIMIZERS.check(self.optimizer)
        augment = augment_text(parse_augment(self.augment, self.image_size))
        object.__setattr__(self, "augment", augment)  # one spelling, so that hashes are equal
        self._check_models()

    def _check_models(self) -> None:
        weights = self.teacher_weights
        known = weights in ("none", "imagenet") or weights.endswith(".safetensors")
        require("teacher_weights must be none, imagenet or a .safetensors file", known, weights)
        if weights == "imagenet" and not parse_model(self.teacher).pretrained:
            raise ProtocolError(
                f"there are no ImageNet weights for {self.teacher}; use --teacher-weights none"
            )
        for field in ("students", "taps"):
            names = getattr(self, field)
            require(f"{field} must name at least one", bool(names), names)
            require(f"{field} must not repeat a name", len(set(names)) == len(names), names)
        for name in (self.teacher, *self.students):
            model = parse_model(name)
            if not model.is_known:
                continue  # a job tries the model out, with `kd.models.tryout`
            for tap in self.taps:
                if tap not in model.taps:
                    raise ProtocolError(
                        f"{name} has no tap {tap!r}; use --taps {','.join(model.taps)}"
                    )

    @property
    def student(self) -> str:
        """The first student: the one that learns unless a recipe names another."""
        return self.students[0]

    @property
    def has_budget(self) -> bool:
        """Whether there is a limit that a student may exceed (see infeasible in the design)."""
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
        """64 bits of SHA-256, as 16 hexadecimal digits, over the fields that are not the default.

        So a new field with a default does not change the hashes of older studies.
        """
        text = json.dumps(plain(self, defaults=False), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: "Protocol") -> list[str]:
        """Return the fields that differ from `other`, such as `epochs: 12 -> 30`."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{key}: {mine[key]} -> {theirs[key]}" for key in mine if mine[key] != theirs[key]]


def dataset_slug(dataset: str) -> str:
    """Return a data set's name as part of a file name: `folder:/a/My photos` gives `My-photos`,
    `cifar10:/a/data` gives `cifar10`.

    It has at most 40 characters, and begins and ends with a letter or digit.
    """
    source, _, path = dataset.partition(":")
    if source in SOURCES.names and is_downloaded(source):
        path = ""  # a folder for its files, not what they show
    last = re.split(r"[:/\\]", (path or source).rstrip("/\\"))[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")
    return plain[:40].rstrip("-._") or "study"


_RANGES: tuple[tuple[str, float, float, tuple[str, ...]], ...] = (
    ("lie in 4-1024", 4, 1024, ("image_size",)),
    ("lie in 0-1000000000", 0, 10**9, ("train_size", "max_params", "max_latency_ms")),
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
