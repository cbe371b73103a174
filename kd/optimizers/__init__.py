"""Optimizers: each file is one, and offers what `Optimizer` lists.

To add one is to add a file here: `--optimizer`, its help, the search spaces' ranges and the model
card find it. The first line of its docstring is what they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from kd.errors import ProtocolError
from kd.names import FAMILIES, OPTIMIZERS, parse_model

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a parameter in search spaces, on a log scale, and its first value.

    Raises ProtocolError unless 0 < low <= default <= high.
    """

    low: float
    high: float
    default: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.default <= self.high:
            raise ProtocolError(f"a range needs 0 < low <= default <= high, got {self}")

    def joined(self, other: "Range") -> "Range":
        """Return the smallest range that contains both, with the default of this one."""
        return Range(min(self.low, other.low), max(self.high, other.high), self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """The ranges of what every optimizer has."""

    lr: Range
    weight_decay: Range

    def joined(self, other: "Ranges") -> "Ranges":
        """Return the smallest ranges that contain both, with the defaults of this one."""
        return Ranges(
            lr=self.lr.joined(other.lr), weight_decay=self.weight_decay.joined(other.weight_decay)
        )


class Optimizer(Protocol):
    """What an optimizer's file defines.

    `LR` and `WEIGHT_DECAY` are the ranges for training from random weights; `ranges` derives all
    others. They are read by the supervisor, which has no torch: import it in `make`.
    """

    LR: Range
    WEIGHT_DECAY: Range

    def make(
        self,
        decayed: Sequence["nn.Parameter"],
        spared: Sequence["nn.Parameter"],
        lr: float,
        weight_decay: float,
        device: "torch.device",
    ) -> "torch.optim.Optimizer":
        """Return the optimizer of all parameters, which are on `device`; some may be frozen.

        `spared` are those that `divided` spares from weight decay; an optimizer may decay all.
        Training sets `lr` of every group at each step. For checkpoints, the optimizer must keep
        its whole state between steps as tensors in `state`, from the start or from a parameter's
        first step.
        """
        ...


def load(name: str) -> Optimizer:
    """Return an optimizer by name. Raises ProtocolError for an unknown one."""
    return cast(Optimizer, OPTIMIZERS.load(name))


def ranges(optimizer: str, model: str = "", *, pretrained: bool = False) -> Ranges:
    """Return the ranges of an optimizer for a model that starts from random or pretrained weights.

    A family may have its own for an optimizer (`RANGES` of its file). Weights that have been
    trained take a tenth of the learning rate: with SGD 1e-4 to 0.1 (the grid of Kornblith et al.
    2019, "Do better ImageNet models transfer better?"), with AdamW some 5e-5 where training began
    with 1e-3 or more (ConvNeXt, Liu et al. 2022, appendix A).
    Without a `model`, they are the optimizer's own. Raises ProtocolError for an unknown optimizer
    or model.
    """
    member = load(optimizer)
    own = _family_ranges(model).get(optimizer, {})
    lr = Range(*own["lr"]) if "lr" in own else member.LR
    decay = Range(*own["weight_decay"]) if "weight_decay" in own else member.WEIGHT_DECAY
    if pretrained:
        lr = Range(lr.low / 10, lr.high / 10, lr.default / 10)
    return Ranges(lr=lr, weight_decay=decay)


@cache  # every suggestion of a search space asks, and a file would be parsed
def _family_ranges(model: str) -> dict[str, Any]:
    """Return what the `RANGES` of a model's family has for the beginning of the model's name."""
    if not model or not (parsed := parse_model(model)).in_catalogue:
        return {}
    known = FAMILIES.literals(parsed.facts.family).get("RANGES", {})
    return next((own for start, own in known.items() if parsed.base.startswith(start)), {})


def divided(*modules: "nn.Module") -> tuple[list["nn.Parameter"], list["nn.Parameter"]]:
    """Return the parameters to decay, and those to spare from weight decay.

    Spared are those with at most one dimension, which are biases and the scales of normalisations,
    and those that a module or one inside it names in `no_weight_decay()`, as timm's models do for
    embeddings of positions (the rule of timm's `param_groups_weight_decay`).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in modules:
        patterns = _not_decayed(module)
        for name, parameter in module.named_parameters():
            listed = any(fnmatchcase(name, pattern) for pattern in patterns)
            (spared if parameter.ndim <= 1 or listed else decayed).append(parameter)
    return decayed, spared


def _not_decayed(module: "nn.Module") -> set[str]:
    """Return all names, or patterns of names, in `no_weight_decay()` of a module and its parts."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, inner in module.named_modules()
        if callable(listed := getattr(inner, "no_weight_decay", None))
        for name in listed()
    }
