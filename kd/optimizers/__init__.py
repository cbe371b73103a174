"""Optimizers: each file is one, and offers what `Optimizer` lists.

To add one is to add a file here: `--optimizer`, its help, the search spaces' ranges and the model
card find it. The first line of its docstring is what they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from kd.errors import ProtocolError
from kd.names import OPTIMIZERS

if TYPE_CHECKING:
    import torch


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


class Optimizer(Protocol):
    """What an optimizer's file defines.

    `LR` and `WEIGHT_DECAY` are read by the supervisor, which has no torch: import it in `make`.
    """

    LR: Range
    WEIGHT_DECAY: Range

    def make(
        self,
        parameters: Sequence["torch.nn.Parameter"],
        lr: float,
        weight_decay: float,
        device: "torch.device",
    ) -> "torch.optim.Optimizer":
        """Return the optimizer of all parameters, which are on `device`; some may be frozen.

        Training sets `lr` of every group at each step. For checkpoints, the optimizer must keep
        its whole state between steps as tensors in `state`, from the start or from a parameter's
        first step.
        """
        ...


def load(name: str) -> Optimizer:
    """Return an optimizer by name. Raises ProtocolError for an unknown one."""
    return cast(Optimizer, OPTIMIZERS.load(name))
