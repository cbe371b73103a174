"""The protocol: everything that is fixed for a study, as a validated, hashed frozen dataclass."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Annotated

from kd.dataset_names import FITS, SOURCES, parse_dataset, without_path
from kd.errors import require
from kd.json_data import JsonData, plain
from kd.model_rules import (
    DEFAULT_TAPS,
    check_students,
    check_teachers,
    checked_taps,
    one_spelling,
    tap_paths,
    teacher_labels,
    teacher_role,
)
from kd.names import (
    AUGMENTATIONS,
    CLASS_WEIGHTS,
    FAMILIES,
    LIBRARIES,
    LOGIT_LOSSES,
    METRICS,
    OPTIMIZERS,
    PRECISIONS,
    STEMS,
    augment_text,
    check_loss,
    parse_augment,
    parse_cache_logits,
)
from kd.registry import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol(JsonData):
    """Settings that all trials of a study share.

    Each field has a flag of the same name, and its text is the help of that flag.
    """

    dataset: Annotated[
        str,
        "source of the data, as in digits, folder:PATH, cifar10:PATH if its files are there, or "
        "mine.py:scans, a function of your own (see docs/guide.md)",
        SOURCES,
    ]
    image_size: Annotated[int, "side in pixels of the images that students receive"]
    fit: Annotated[
        str,
        "how images that are not square become so: crop (the centre square), pad (whole, on a "
        "black square) or stretch",
    ] = "crop"
    follow_links: Annotated[
        bool, "follow symbolic links of images and class folders, wherever they lead"
    ] = False
    skip_bad_images: Annotated[bool, "leave out images that cannot be read, and list them"] = False
    teacher_size: Annotated[
        int, "side in pixels of the images that the teacher receives (0: that of the students)"
    ] = 0
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
    split_seed: Annotated[int, "seed of the parts that are drawn: another draws other images"] = 0
    augment: Annotated[
        str,
        "augmentations of training images in the order of application, as in "
        "crop=4,flip,cutout=8, or none",
        AUGMENTATIONS,
    ] = "crop=4,flip"
    teachers: Annotated[
        tuple[str, ...],
        "model that teaches: of the catalogue, as in resnet20 or, with a width factor, "
        "resnet8-w0.5; of a library, as in timm:resnet26t; or a function in a file, as in "
        "mine.py:large (see docs/guide.md); repeat the flag, and each trial chooses one teacher or "
        "an average. Families of the catalogue",
        FAMILIES,
        ". Libraries",
        LIBRARIES,
    ]
    teacher_weights: Annotated[
        tuple[str, ...],
        "initial weights of the teacher: none, pretrained (its library's own), or a file of its "
        "state dict (.safetensors, .pth, .pt); once for all teachers, or once for each",
    ] = ("none",)
    teacher_epochs: Annotated[int, "epochs of the teacher's fine-tuning (0: use it as it is)"]
    teacher_optimizer: Annotated[str, "the teacher's optimizer, one of --optimizer's"] = "sgd"
    teacher_lr: Annotated[
        float,
        "learning rate of the teacher (default: that of its optimizer, a tenth for pretrained "
        "weights)",
    ] = 0.1
    teacher_weight_decay: Annotated[
        float, "weight decay of the teacher (default: that of its optimizer)"
    ] = 5e-4
    students: Annotated[
        tuple[str, ...],
        "model that learns; repeat the flag, or separate by commas, and each trial chooses one",
    ]
    student_weights: Annotated[
        str,
        "initial weights of the students, in every arm: none, pretrained, or a file of a single "
        "student's state dict",
    ] = "none"
    max_params: Annotated[int, "largest number of parameters of a student (0: no limit)"] = 0
    max_latency_ms: Annotated[
        float, "largest median time in ms of a student for one image (0: no limit)"
    ] = 0.0
    stem: Annotated[
        str, "first layers of torchvision models: cifar for small images, or imagenet"
    ] = "cifar"
    taps: Annotated[
        tuple[str, ...],
        "where features are read, deepest first, as in last1,last2, or as pairs of modules of "
        "teacher and student, as in layer4=blocks.5,layer3=blocks.4 (default: the last of each map "
        "size that teacher and students have in common, at most three)",
    ] = ()
    epochs: Annotated[int, "the horizon: epochs that every trial is planned for"]
    views: Annotated[
        int,
        "augmentations of the training set that are cached; epochs cycle through them "
        "(0: one an epoch)",
    ] = 0
    cache_logits: Annotated[
        str,
        "how the teacher's logits are kept: float32, float16, or of each image the largest alone, "
        "as in top32; see docs/guide.md",
    ] = "float32"
    confirm_epochs: Annotated[int, "epochs of a confirmation run (0: the horizon)"] = 0
    batch_size: Annotated[int, "images a training step"] = 128
    warmup: Annotated[float, "share of the training in which the learning rate warms up"] = 0.1
    optimizer: Annotated[str, "optimizer of the students", OPTIMIZERS] = "sgd"
    clip: Annotated[
        float,
        "largest norm of the gradient, of teacher and students; a longer gradient is scaled down "
        "to it (0: no limit)",
    ] = 0.0
    ema: Annotated[
        float,
        "decay of an exponential moving average of the students' weights, as in 0.99: the average "
        "is validated, tested and exported; teachers have none (0: none)",
    ] = 0.0
    loss: Annotated[
        str,
        "soft loss of every recipe that distils: a function of your own, as in mine.py:squared "
        "(see docs/guide.md), or a name (default: the search space chooses)",
        LOGIT_LOSSES,
    ] = ""
    class_weights: Annotated[
        str,
        "weights of the classes in the hard loss of teacher and students: none, or balanced, with "
        "which rare classes count as much as frequent ones",
    ] = "none"
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
        for low, high, names in _RANGES:
            for name in names:
                received = getattr(self, name)
                require(f"{name} must lie in {low}-{high}", low <= received <= high, received)
        size = self.teacher_size
        require("teacher_size must be 0 or lie in 4-1024", size == 0 or 4 <= size <= 1024, size)
        for name in ("teacher_lr", "validation_fraction", "test_fraction"):
            require(f"{name} must be above 0", getattr(self, name) > 0, getattr(self, name))
        check_name("stem", self.stem, STEMS)
        METRICS.check(self.metric)
        check_name("fit", self.fit, FITS)
        check_name("precision", self.precision, PRECISIONS)
        check_name("class_weights", self.class_weights, CLASS_WEIGHTS)
        parse_cache_logits(self.cache_logits)
        OPTIMIZERS.check(self.optimizer)
        OPTIMIZERS.check(self.teacher_optimizer)
        require("ema must be below 1", self.ema < 1, self.ema)
        augment = augment_text(parse_augment(self.augment, self.stored_size))
        object.__setattr__(self, "augment", augment)  # one spelling, so that hashes are equal
        check_loss(self.loss, augment)
        self._check_models()

    def _check_models(self) -> None:
        require("students must name at least one", bool(self.students), self.students)
        for field in ("students", "taps"):
            names = getattr(self, field)
            require(f"{field} must not repeat a name", len(set(names)) == len(names), names)
        weights = one_spelling(self.teachers, self.teacher_weights)
        object.__setattr__(self, "teacher_weights", weights)
        check_teachers(self.teachers, self.each_weights, self.teacher_epochs)
        check_students(self.students, self.student_weights)
        object.__setattr__(self, "taps", checked_taps(self.taps, self.models))

    @property
    def teacher_paths(self) -> tuple[str, ...]:
        """The teacher's modules of `taps` that are pairs; empty for names."""
        return tap_paths(self.taps)[0]

    @property
    def student_paths(self) -> tuple[str, ...]:
        """The students' modules of `taps` that are pairs; empty for names."""
        return tap_paths(self.taps)[1]

    @property
    def tap_names(self) -> tuple[str, ...]:
        """Names of the taps as far as known before models are built, when some may turn out to be
        missing. A pair has the name of its place: the first is `last1`.
        """
        if self.teacher_paths:
            return tuple(f"last{place}" for place, _ in enumerate(self.taps, start=1))
        return self.taps or DEFAULT_TAPS

    @property
    def teacher(self) -> str:
        """The first teacher: the only one where there are not several."""
        return self.teachers[0]

    @property
    def teacher_start(self) -> str:
        """The initial weights of the first teacher."""
        return self.teacher_weights[0]

    @property
    def each_weights(self) -> tuple[str, ...]:
        """The initial weights of each teacher."""
        return self.teacher_weights * (len(self.teachers) if len(self.teacher_weights) == 1 else 1)

    @property
    def teacher_labels(self) -> tuple[str, ...]:
        """The names of the teachers, those that repeat with a number: `resnet20#2`."""
        return teacher_labels(self.teachers)

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        """What the teachers are called in records of all models: `teacher`, `teacher 2`, …"""
        return tuple(map(teacher_role, range(len(self.teachers))))

    @property
    def models(self) -> tuple[str, ...]:
        """Teachers and students."""
        return *self.teachers, *self.students

    def with_teacher(self, place: int) -> "Protocol":
        """Return this protocol with one of its teachers alone, the first of which has place 0."""
        weights = (self.each_weights[place],)
        return replace(self, teachers=(self.teachers[place],), teacher_weights=weights)

    @property
    def student(self) -> str:
        """The first student: the one that learns unless a recipe names another."""
        return self.students[0]

    @property
    def has_budget(self) -> bool:
        """Whether there is a limit that a student may exceed (see infeasible in the design)."""
        return self.max_params > 0 or self.max_latency_ms > 0

    @property
    def stored_size(self) -> int:
        """Side in pixels of the stored images and their views: that of the larger network."""
        return max(self.image_size, self.teacher_size)

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

        So a new field with a default does not change the hashes of older studies. The path of the
        data set is no part of it, since data may be moved: their content has a fingerprint.
        """
        values = {**plain(self, defaults=False), "dataset": without_path(self.dataset)}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: "Protocol") -> list[str]:
        """Return the fields that differ from `other`, such as `epochs: 12 -> 30`."""
        taps = "the default"
        mine, theirs = ({**one.to_json(), "taps": [*one.taps] or taps} for one in (self, other))
        return [f"{key}: {mine[key]} -> {theirs[key]}" for key in mine if mine[key] != theirs[key]]


_RANGES: tuple[tuple[float, float, tuple[str, ...]], ...] = (
    (4, 1024, ("image_size",)),
    (0, 10**9, ("train_size", "max_params", "max_latency_ms")),
    (0, 100, ("margin",)),
    (0, 2**63 - 1, ("seed", "split_seed")),
    (0, 0.9, ("validation_fraction", "test_fraction", "warmup")),
    (1, 100_000, ("epochs",)),
    (0, 100_000, ("views", "confirm_epochs", "teacher_epochs")),
    (2, 65_536, ("batch_size",)),
    (1, 1024, ("threads",)),
    (0, 10, ("teacher_lr",)),
    (0, 1, ("teacher_weight_decay", "ema")),
    (0, 10**6, ("clip",)),
)
