"""The flags of the command line, in groups, each explained by what it is for."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from typing import Any

from conductor.search.names import BUILT_IN_ARMS, CACHE_BUDGET, EVIDENCE, PRUNERS, SAMPLERS
from kd.names import METRICS

# field of the protocol: what its flag says. The order is that of the help.
PROTOCOL_HELP = {
    "dataset": "digits, cifar10, cifar100, fashion-mnist, or folder:PATH with one folder a class",
    "image_size": "side in pixels that images are brought to",
    "train_size": "keep so many training images, evenly over the classes, and at most as many for "
    "validation (0: all)",
    "validation_fraction": "share of what is not test that validates, for search and pruning",
    "test_fraction": "share that is sealed for the test, where the data has no test split",
    "crop_padding": "pixels of padding before a random crop",
    "flip": "flip images left to right at random",
    "cutout": "side of a square erased at random (0: none)",
    "teacher": "model that teaches; a width factor as in resnet8-w0.5, or a function in a file as "
    "in mine.py:large (see docs/guide.md)",
    "teacher_weights": "where the teacher starts: none, imagenet, or a .safetensors file",
    "teacher_epochs": "epochs of its fine-tuning (0: use it as it is)",
    "teacher_lr": "its learning rate",
    "teacher_weight_decay": "its weight decay",
    "students": "model that learns; given again, or several with commas: each trial chooses one",
    "max_params": "parameters that a student may have (0: any number)",
    "max_latency_ms": "median time in ms that a student may take for one image (0: any)",
    "stem": "first layers of torchvision models: cifar for small images, or imagenet",
    "taps": "where features are read, deepest first, as in last1,last2",
    "epochs": "the horizon: epochs that every trial is planned for",
    "views": "augmentations of the training set that are cached; epochs cycle through them "
    "(0: one an epoch)",
    "confirm_epochs": "epochs of a confirmation run (0: the horizon)",
    "batch_size": "images a training step",
    "warmup": "share of the training in which the learning rate warms up",
    "metric": "what trials are searched and compared by: " + ", ".join(METRICS.names),
    "margin": "how far two recipes may lie apart and still count as equivalent, in the metric's "
    "unit, as in points of accuracy (default: the metric's own)",
    "seed": "the study's seed: the same gives the same study",
    "threads": "CPU threads of a worker; a result's bits depend on it",
    "precision": "of the forward pass in training: float32, or bfloat16 where the device has it",
    "compile": "compile training steps; worth its minutes on a GPU, or with many epochs",
}
PROTOCOL_TYPES: dict[str, Any] = {
    **dict.fromkeys(
        (
            "image_size",
            "train_size",
            "crop_padding",
            "cutout",
            "teacher_epochs",
            "max_params",
            "epochs",
            "views",
            "confirm_epochs",
            "batch_size",
            "seed",
            "threads",
        ),
        int,
    ),
    **dict.fromkeys(
        (
            "validation_fraction",
            "test_fraction",
            "teacher_lr",
            "teacher_weight_decay",
            "max_latency_ms",
            "warmup",
            "margin",
        ),
        float,
    ),
}

REPEATABLE = ("students",)  # fields whose flag may be given again, each time with further values


def add_study_flags(parser: ArgumentParser) -> None:
    """Add the flags that say which study is meant, and where."""
    group = parser.add_argument_group("which study")
    group.add_argument("--name", help="the study's name (default: that of its preset or data)")
    add_place_flags(group)


def add_place_flags(group: Any) -> None:
    """Add the flags that say where studies are."""
    group.add_argument("--root", default="runs", help="folder of all studies (default: runs)")
    group.add_argument(
        "--storage", type=_storage, help="URL of the Optuna studies (default: SQLite in the root)"
    )


def _storage(url: str) -> str:
    """Raises StudyError for a URL that holds no study, before a lock is made beside it."""
    from storage.studies.databases import check_url

    if url:
        check_url(url)
    return url


def add_run_flags(parser: ArgumentParser) -> None:
    """Add the flags that say how a study is run."""
    group = parser.add_argument_group("search")
    group.add_argument(
        "--trials",
        type=int,
        default=20,
        help="total number of trials an arm; the same line again finishes, or does nothing "
        "(default: 20)",
    )
    group.add_argument(
        "--arms",
        type=comma_separated,
        help=f"arms, separated by commas: {', '.join(BUILT_IN_ARMS)} (default: scheduled,plain)",
    )
    group.add_argument("--space", help="a Python file with a search space of your own, as an arm")
    group.add_argument("--sampler", help=f"{', '.join(SAMPLERS)} (default: {SAMPLERS[0]})")
    group.add_argument("--pruner", help=f"{', '.join(PRUNERS)} (default: {PRUNERS[0]})")
    group.add_argument(
        "--lag",
        type=int,
        help="how many trials behind decisions look, and how many of an arm run at once "
        "(default: 4)",
    )
    group = parser.add_argument_group("comparison")
    add_comparison_flags(group)
    group = parser.add_argument_group("machine")
    add_machine_flags(group)
    add_cache_flag(group)


def add_comparison_flags(group: Any) -> None:
    """Add the flags that say how much evidence the comparison rests on."""
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--seeds", type=int, default=6, help="fresh seeds of each finalist, at least (default: 6)"
    )
    levels = ", ".join(f"{level} for {seeds}" for level, seeds in EVIDENCE.items())
    either.add_argument(
        "--evidence",
        dest="seeds",
        type=_evidence,
        metavar="LEVEL",
        help=f"the same by name: {levels}",
    )
    group.add_argument(
        "--ablate",
        action="store_true",
        help="also run the winner without each of its parts, on the same seeds",
    )


def _evidence(level: str) -> int:
    if level not in EVIDENCE:
        raise ArgumentTypeError(f"takes {', '.join(EVIDENCE)}, got {level!r}")
    return EVIDENCE[level]


def add_cache_flag(group: Any) -> None:
    group.add_argument(
        "--cache-budget",
        default=CACHE_BUDGET,
        help="most that the teacher cache may hold; over it the live teacher is asked "
        f"(default: {CACHE_BUDGET})",
    )


def add_machine_flags(group: Any) -> None:
    add_worker_flags(group)
    group.add_argument("--data-dir", help="where data sets are found, or downloaded to")


def add_worker_flags(group: Any) -> None:
    group.add_argument(
        "--workers",
        default="auto",
        help="processes that train: a number, auto (one an accelerator, else one a core), ray "
        "(see docs/machines.md), or inline (this process, for debugging)",
    )
    group.add_argument(
        "--ray-address",
        default="",
        help="a Ray cluster, as in auto or HOST:6379; all nodes must see --root "
        "(default: Ray is started on this machine)",
    )
    group.add_argument(
        "--gpus-per-trial",
        type=float,
        help="share of a GPU, and of its memory, for each worker on Ray (default: 1 where there "
        "are GPUs)",
    )


def add_export_flags(parser: ArgumentParser) -> None:
    """Add the flags that say which student is exported, where to, and how."""
    group = parser.add_argument_group("what is exported")
    group.add_argument(
        "--finalist",
        metavar="FINALIST",
        help="its folder's name, as in scheduled-00017 (default: the tuned recipe of the verdict)",
    )
    group.add_argument(
        "--out", metavar="DIR", help="a new folder (default: one in the study's, under export/)"
    )
    group.add_argument(
        "--format",
        choices=("safetensors", "onnx"),
        default="safetensors",
        help="onnx adds student.onnx; it takes the extra `export` (default: safetensors)",
    )


def add_reproduce_flags(parser: ArgumentParser) -> None:
    """Add the flags that say which run is trained again."""
    group = parser.add_argument_group("which run")
    either = group.add_mutually_exclusive_group(required=True)
    either.add_argument("--trial", type=int, help="number of a trial of the search")
    either.add_argument("--finalist", help="a finalist, as in scheduled-00017")
    group.add_argument("--arm", help="the trial's arm (default: the first that distils)")
    group.add_argument(
        "--replicate", type=int, default=0, help="the finalist's run, from 0 (default: 0)"
    )


def add_protocol_flags(parser: ArgumentParser) -> None:
    """Add a flag for every field of the protocol; without it the preset's value holds."""
    group = parser.add_argument_group("protocol, fixed for the whole study")
    group.add_argument("--preset", help="protocol to begin with; see: python study.py presets")
    for field, text in PROTOCOL_HELP.items():
        flag = f"--{field.replace('_', '-')}"
        if field in ("flip", "compile"):
            group.add_argument(flag, action=BooleanOptionalAction, default=None, help=text)
        elif field == "taps":
            group.add_argument(flag, type=comma_separated, help=text)
        elif field in REPEATABLE:
            group.add_argument(
                "--student",
                flag,
                dest=field,
                action="extend",
                type=comma_separated,
                metavar="MODEL",
                help=text,
            )
        else:
            group.add_argument(flag, type=PROTOCOL_TYPES.get(field, str), help=text)


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the names in a flag's value. Raises ArgumentTypeError where there are none."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ArgumentTypeError(f"takes names separated by commas, got {text!r}")
    return names
