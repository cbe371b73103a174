"""Losses on logits against a teacher: each file is one, and offers what `LogitLoss` lists.

To add one is to add a file here; a recipe then takes its name as `soft_kind`. The first line of its
docstring is its description.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from kd.names import LOGIT_LOSSES

if TYPE_CHECKING:
    from torch import Tensor


class LogitLoss(Protocol):
    """What a logit loss's file defines.

    A loss with parameters of its own, as `dkd`, defines a frozen dataclass `Parameters`, in which
    each has a default, and whose `__post_init__` raises ProtocolError for a value out of range. A
    recipe gives them by name as `soft_parameters`; `loss` then takes an object of the class as its
    argument `parameters`. The class is also run without its file, `Kind.parameters`.
    """

    def loss(
        self,
        student_logits: "Tensor",
        teacher_logits: "Tensor",
        labels: "Tensor",
        temperature: float,
    ) -> "Tensor":
        """Return the loss of a batch, a scalar.

            student_logits  [B, C] float
            teacher_logits  [B, C] float, raw: neither standardised nor divided by a temperature
            labels          [B] int64, class numbers in 0 … C - 1 (only `dkd` reads them)
            temperature     above 0

        Summed over the classes, averaged over the batch, and multiplied by the temperature squared,
        so that the size of its gradient does not fall as the temperature rises (Hinton et al. 2015,
        section 2). Value and gradient are finite for finite logits. Nothing is detached: a caller
        who wants no gradient in the teacher passes logits that carry none.
        """
        ...


def load(name: str, parameters: Mapping[str, Any] = MappingProxyType({})) -> LogitLoss:
    """Return a logit loss by name, with these parameters. Raises ProtocolError for an unknown one.

    Those left out have the loss's defaults.
    """
    return cast(LogitLoss, LOGIT_LOSSES.bind(name, "loss", parameters))
