"""Losses on feature maps: each file is one, and offers what `FeatureLoss` lists.

To add one is to add a file here; a recipe then takes its name as `feature_kind`. The first line of
its docstring is its description.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from kd.names import FEATURE_LOSSES

if TYPE_CHECKING:
    from torch import Tensor

    from kd.models.taps import TapReading


class FeatureLoss(Protocol):
    """What a feature loss's file defines.

    `ADAPTED` says whether the loss compares channel by channel: its `student` then has the
    teacher's number of channels, through a 1x1 convolution that trains with the student. A loss
    may have `Parameters`, as a logit loss; a recipe gives them as `feature_parameters`.

    An adapted loss may have tensors of its own at each tap that train with the student, as `vid`:
    `start(channels, generator)` returns their first values by name, for the k channels of the
    reading, and `loss` takes them as arguments of these names. `generator` has their own seed.
    """

    ADAPTED: bool

    def loss(self, student: "Tensor", reading: "TapReading", **trained: "Tensor") -> "Tensor":
        """Return the loss of one tap, a scalar: a mean over the batch, in the dtype of `student`.

        `student` is [B, C, H, W] float; `reading` holds the teacher's features [B, k, h, w] and
        attention map [B, H', W'], whose sizes may differ: `kd.models.taps.matched` pools them.
        Finite, with a finite gradient, for any map, also where it is 0; of the order of 0.01-10
        for an untrained student, so that one range of weights serves all.
        """
        ...


def load(name: str, parameters: Mapping[str, Any] = MappingProxyType({})) -> FeatureLoss:
    """Return a feature loss by name, with these parameters, as `kd.losses.logits.load` does."""
    return cast(FeatureLoss, FEATURE_LOSSES.bind(name, "loss", parameters))
