"""Parse the names in a protocol: models, losses, augmentations. No torch is imported."""

import math
import re
from dataclasses import dataclass
from functools import cache

from kd.errors import ProtocolError, require
from kd.registry import Kind, check_name

AUGMENTATIONS = Kind("augmentation", "kd.augmentations")
METRICS = Kind("metric", "kd.metrics")
STEMS = ("cifar", "imagenet")
PRECISIONS = ("float32", "bfloat16")
CLASS_WEIGHTS = ("none", "balanced")
ALL_LOGITS = ("float32", "float16")  # all of them, as these numbers

# Kinds whose members are files; each folder's `__init__` defines the interface of a member.
OPTIMIZERS = Kind("optimizer", "kd.optimizers")
LOGIT_LOSSES = Kind("logit loss", "kd.losses.logits")
FEATURE_LOSSES = Kind("feature loss", "kd.losses.features")
FAMILIES = Kind("model family", "kd.models.families")
LIBRARIES = Kind("library of models", "kd.models.libraries")

OWN_NAME = re.compile(r"([A-Za-z]\w{0,30}\.py:[A-Za-z_]\w{0,60})@([0-9a-f]{12})", re.ASCII)
LIBRARY_MODEL = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)  # behind `timm:`
DIGEST_LENGTH = 12
WEIGHTS = (".safetensors", ".pth", ".pt")  # suffixes of files of weights
WEIGHTS_FILE = re.compile(r"(.+\.(?:safetensors|pth|pt))(?:@([0-9a-f]{12}))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OwnFunction:
    """A function in a file of the user's own: its `base` is `mine.py:small`, and `digest`
    identifies the content of the file (see `kd.own_files`).
    """

    base: str
    digest: str

    @property
    def file(self) -> str:
        return self.base.partition(":")[0]

    @property
    def function(self) -> str:
        return self.base.partition(":")[2]


def parse_own(name: str, what: str, example: str) -> OwnFunction:
    """Parse `mine.py:small@1a2b3c4d5e6f`. Raises ProtocolError, with `what` the function is and an
    `example`, for any other text.
    """
    own = OWN_NAME.fullmatch(name)
    if own is None:
        raise ProtocolError(
            f"{what} of your own must be FILE.py:FUNCTION, both of letters, digits and _, "
            f"got {name!r}; for example {example}"
        )
    return OwnFunction(own[1], own[2])


def parse_loss(name: str) -> OwnFunction | None:
    """Return the user's function that is a soft loss; None for the name of a logit loss.

    Raises ProtocolError for any other name.
    """
    if ".py" in name:
        return parse_own(name, "a loss", "--loss mine.py:squared")
    LOGIT_LOSSES.check(name)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about a model that need no torch: those in its family's `MODELS`, or the defaults."""

    family: str = ""  # empty outside of the catalogue
    pretrained: bool = False  # whether there are ImageNet weights
    taps: int = 0  # their number
    scalable: bool = False  # whether it takes a width factor
    # Measured on a CPU with `python -m tests.benchmarks --only formats`, see docs/benchmarks.md.
    # `channels_last`: the smallest width factor at which the model trains faster in channels last.
    # `narrow`: the largest at which PyTorch's own kernels compute the gradients of convolutions
    # faster than oneDNN's, which are made for 8 or 16 channels at once: with 2 channels and 3x3
    # weights, oneDNN takes up to nine times as long for the gradient of the input.
    channels_last: float = math.inf
    narrow: float = 0.0


@cache
def catalogue() -> dict[str, ModelFacts]:
    """Return all models of the families, by name."""
    return {
        name: ModelFacts(family=family, **facts)
        for family in FAMILIES.names
        for name, facts in FAMILIES.literals(family)["MODELS"].items()
    }


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model of the catalogue and its width factor, of a library, or of the user's own.

    A model of a library, such as `timm:resnet26t`, has the `base` resnet26t. One of the user's own
    is a function in a Python file, such as `mine.py:small`, and `digest` identifies the content of
    that file (see `kd.own_files`). `library` and `digest` are empty for all others.
    """

    base: str
    width: float = 1.0
    digest: str = ""
    library: str = ""

    @property
    def function(self) -> str:
        """The function that returns a model of the user's own."""
        return self.base.partition(".py:")[2]

    @property
    def file(self) -> str:
        """The file of a model of the user's own: `mine.py`."""
        return self.base.partition(":")[0]

    @property
    def in_catalogue(self) -> bool:
        """Whether it is in the catalogue: others are tried out before a study trains them."""
        return not (self.digest or self.library)

    @property
    def facts(self) -> ModelFacts:
        return catalogue()[self.base] if self.in_catalogue else ModelFacts()

    @property
    def pretrained(self) -> bool:
        """Whether ImageNet weights exist; of a library's model, whether they may."""
        return bool(self.library) or (self.facts.pretrained and self.width == 1)

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the taps of a model of the catalogue: `last1` is the deepest."""
        return tuple(f"last{depth}" for depth in range(1, self.facts.taps + 1))


def parse_model(name: str) -> ModelName:
    """Parse `resnet8`, `resnet8-w0.125` (a width factor for all numbers of channels),
    `timm:resnet26t`, a library's model, or `mine.py:small@1a2b3c4d5e6f`, a function in the user's
    file and the file's digest.

    Raises ProtocolError for an unknown model or library, or a width that the model does not
    support. Whether a library has the model is known once it is built.
    """
    if ".py" in name:
        own = parse_own(name, "a model", "--student mine.py:small")
        return ModelName(own.base, digest=own.digest)
    library, colon, base = name.partition(":")
    if colon:
        LIBRARIES.check(library)
        if not LIBRARY_MODEL.fullmatch(base):
            raise ProtocolError(f"{library}: requires a model of {library}, got {name!r}")
        return ModelName(base, library=library)
    match = re.fullmatch(r"(.+?)(?:-w([0-9]+(?:\.[0-9]+)?))?", name)
    base, width = (match[1], match[2]) if match else (name, None)
    models = catalogue()
    check_name("model", base, models)
    if width is None:
        return ModelName(base)
    if not models[base].scalable:
        raise ProtocolError(
            f"{base} has no width factor, got {name}; models that have one: "
            + ", ".join(other for other, known in models.items() if known.scalable)
        )
    if not 0.01 <= float(width) <= 16:
        raise ProtocolError(f"a width factor must lie in 0.01-16, got {width} in {name}")
    return ModelName(base, float(width))


def parse_cache_logits(cache_logits: str, classes: int | None = None) -> int:
    """Return how many logits of an image `top32` keeps; 0 for float32 and float16, which keep all.

    Raises ProtocolError for any other text and, where the number of classes is known, for as many
    logits as classes.
    """
    match = re.fullmatch("top([1-9][0-9]{0,6})", cache_logits, re.ASCII)
    rule = "cache_logits must be float32, float16 or a number of the largest, as in top32"
    require(rule, cache_logits in ALL_LOGITS or match is not None, cache_logits)
    count = int(match[1]) if match else 0
    rule = f"cache_logits must keep fewer logits than the {classes} classes (float16 keeps all)"
    require(rule, classes is None or count < classes, cache_logits)
    return count


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights, and the beginning of its SHA-256 where a study is bound to its content."""

    path: str
    digest: str = ""


def parse_weights(weights: str) -> WeightsFile | None:
    """Parse `large.pth`, or `large.pth@1a2b3c4d5e6f`; None for `none` and `pretrained`.

    Raises ProtocolError for any other text.
    """
    if weights in ("none", "pretrained"):
        return None
    match = WEIGHTS_FILE.fullmatch(weights)
    if match is None:
        raise ProtocolError(
            f"weights must be none, pretrained or a .safetensors, .pth or .pt file, got {weights!r}"
        )
    return WeightsFile(match[1], match[2] or "")


def parse_augment(text: str, image_size: int) -> tuple[tuple[str, float | None], ...]:
    """Parse `crop=4,flip` into names and values, in the order given; `none` into an empty tuple.

    An omitted value becomes the augmentation's default, or None if it takes no value.

    Raises ProtocolError for an unknown or repeated name, a value out of range, and an augmentation
    that follows one that mixes images.
    """
    if text.strip() == "none":
        return ()
    values: dict[str, float | None] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        AUGMENTATIONS.check(name)
        if name in values:
            raise ProtocolError(f"augment must not repeat a name, got {text!r}")
        if not _mixes(name) and (before := [other for other in values if _mixes(other)]):
            raise ProtocolError(
                f"augment must name {', '.join(before)} last, which mixes images that are "
                f"augmented already, got {text!r}"
            )
        values[name] = _augment_value(name, value if equals else None, image_size)
    return tuple(values.items())


def mixes(augment: str) -> bool:
    """Return whether an augmentation that a protocol names mixes each image with another one."""
    names = () if augment == "none" else augment.split(",")
    return any(_mixes(name.partition("=")[0]) for name in names)


def refusing_deep(augment: str) -> list[str]:
    """Return the augmentations of a protocol that take no images of more than 8 bits."""
    names = [] if augment == "none" else [part.partition("=")[0] for part in augment.split(",")]
    return [name for name in names if not AUGMENTATIONS.literals(name).get("DEEP", False)]


def needs_one_label(loss: str) -> bool:
    """Return whether a soft loss is undefined for images that are mixed of two."""
    return loss in LOGIT_LOSSES.names and bool(LOGIT_LOSSES.literals(loss).get("ONE_LABEL"))


def check_loss(loss: str, augment: str) -> None:
    """Raise ProtocolError for a protocol's soft loss that is unknown, or undefined where mixed."""
    if loss:
        parse_loss(loss)
    if needs_one_label(loss) and mixes(augment):
        raise ProtocolError(
            f"--loss {loss} needs one label for each image, and --augment {augment} mixes images: "
            "use another --loss, or an --augment without mixup and cutmix"
        )


def _mixes(name: str) -> bool:
    return bool(AUGMENTATIONS.literals(name).get("MIXES", False))


def augment_text(parts: tuple[tuple[str, float | None], ...]) -> str:
    """Return the text that `parse_augment` parses to `parts`, with every value written out."""
    texts = (
        name if value is None else f"{name}={value!r}".removesuffix(".0") for name, value in parts
    )
    return ",".join(texts) or "none"


def _augment_value(name: str, text: str | None, image_size: int) -> float | None:
    """Return the value after `name=`, or the default. Raises ProtocolError if it is invalid."""
    constants = AUGMENTATIONS.literals(name)
    default = constants.get("DEFAULT")
    if default is None:
        if text is not None:
            raise ProtocolError(f"augmentation {name} takes no value, got {name}={text!r}")
        return None
    low, high = (
        image_size if bound == "image_size" else bound
        for bound in constants.get("RANGE", (-math.inf, math.inf))
    )
    kind = int if isinstance(default, int) else float
    try:
        value: float = min(default, high) if text is None else kind(text)
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        what = "whole number" if kind is int else "number"
        raise ProtocolError(
            f"augmentation {name} takes a {what} in {low}-{high}, as in {name}={default}, "
            f"got {name}={text!r}"
        )
    return value
