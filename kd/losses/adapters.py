"""Feature losses over the taps of a network, and what some of them train with the student."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kd.errors import ProtocolError
from kd.losses.features import FeatureLoss, load
from kd.models.taps import TapReading, matched
from kd.seeds import derive_seed

Start = Callable[[int, torch.Generator], Mapping[str, Tensor]]


class Adapters(nn.Module):
    """One 1x1 convolution per tap, from the student's channels to those of the teacher's reading.

    They are trained with the student but are not part of it. `student_channels` and
    `reading_channels` map the same taps to numbers of channels; both are empty for a loss without
    adapters. Each layer is initialised like `nn.Conv2d` (uniform within 1 / sqrt(channels)) from
    its own seed, so that its weights do not depend on which other taps are used. `trained` has, by
    tap, the tensors of a loss whose `start` this is (see `FeatureLoss`).
    """

    def __init__(
        self,
        student_channels: Mapping[str, int],
        reading_channels: Mapping[str, int],
        seed: int,
        start: Start | None = None,
    ) -> None:
        super().__init__()
        _check_taps(student_channels, reading_channels)
        self.layers = nn.ModuleDict(
            {
                tap: _adapter(channels, reading_channels[tap], derive_seed(seed, "adapter", tap))
                for tap, channels in student_channels.items()
            }
        )
        self.trained = nn.ModuleDict()
        if start:
            for tap, channels in reading_channels.items():
                generator = torch.Generator().manual_seed(derive_seed(seed, "trained", tap))
                self.trained[tap] = nn.ParameterDict(start(channels, generator))

    @classmethod
    def of(
        cls,
        kind: str,
        student_channels: Mapping[str, int],
        reading_channels: Mapping[str, int],
        seed: int,
    ) -> "Adapters":
        """Return what the feature loss `kind`, or none, trains at these taps; it may be nothing."""
        if kind == "none" or not (member := load(kind)).ADAPTED:
            return cls({}, {}, seed)
        return cls(student_channels, reading_channels, seed, getattr(member, "start", None))

    def forward(self, tap: str, features: Tensor) -> Tensor:
        """Project a student's map [B, C, h, w] to [B, k, h, w]."""
        projected: Tensor = self.layers[tap](features)
        return projected


def _adapter(student_channels: int, reading_channels: int, seed: int) -> nn.Conv2d:
    # Made on the meta device, since nn.Conv2d would draw its weights from the global generator.
    layer = nn.Conv2d(student_channels, reading_channels, kernel_size=1, device="meta")
    layer.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    bound = student_channels**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def feature_loss(
    loss: FeatureLoss,
    student_features: Mapping[str, Tensor],
    readings: Mapping[str, TapReading],
    adapters: Adapters,
) -> Tensor:
    """Return the mean over the taps of one feature loss, a scalar.

    `student_features` and `readings` name the same taps; maps are [B, C, h, w] with the student's
    own channels. `adapters` has a layer for each tap where the loss needs one (`ADAPTED`).
    """
    _check_taps(student_features, readings)
    losses: list[Tensor] = []
    for tap, reading in readings.items():
        student = student_features[tap]
        if loss.ADAPTED:
            # A 1x1 convolution and averaging commute; pooling first leaves fewer positions.
            student = adapters(tap, matched(student, reading.features)[0])
        trained = dict(adapters.trained[tap].named_parameters()) if adapters.trained else {}
        losses.append(loss.loss(student, reading, **trained))
    return torch.stack(losses).mean() if len(losses) > 1 else losses[0]


def _check_taps(student: Mapping[str, object], teacher: Mapping[str, object]) -> None:
    if student.keys() != teacher.keys():
        raise ProtocolError(
            f"student and teacher must be read at the same taps, got {sorted(student)} and "
            f"{sorted(teacher)}"
        )
