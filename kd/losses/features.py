"""Losses on feature maps, and the adapters that bring a student's map to the teacher's channels.

What a student's map meets is the teacher's reading of a tap as the teacher cache keeps it: reduced
to few channels and positions, so that shards stay small. Maps of different size are pooled, by
averages, to the smaller of the two. Every loss is a mean over the batch and finite for any map,
also where it is 0, and each is normalised so that one range of weights serves all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.errors import ProtocolError
from kd.seeds import derive_seed

ADAPTED_KINDS = ("hint", "cosine")  # the losses that compare channel by channel
SHORTEST = 1e-12  # a vector of at most this length has no direction

# Brings `similarity` to where the other losses start. As the mean over three taps it was 0.05-0.16
# between untrained students (resnet8-w0.125 to resnet18) and trained teachers (resnet20 and
# resnet8-w0.5 on digits, resnet20 on CIFAR-10; batches of 64 and 128), and below 0.01 between
# random single layers. mdistiller's weight, 3000 over B² at a batch of 64, is then one of 4.7.
SIMILARITY_SCALE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TapReading:
    """What the teacher says at one tap of a batch; it carries no gradient.

    `features` [B, k, h, w] float, projected and scaled; `attention` [B, H, W] float, of length 1
    per image; `variance`, the teacher's total variance of `features` (summed over the k channels)
    on the images that the projection was fitted on. Raises ProtocolError unless it is above 0.
    """

    features: Tensor
    attention: Tensor
    variance: float

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ProtocolError(
                f"the variance of a tap must be above 0, got {self.variance}: the teacher says the "
                "same of every image there; leave the tap out"
            )

    def to(self, device: torch.device) -> "TapReading":
        return replace(self, features=self.features.to(device), attention=self.attention.to(device))


class Adapters(nn.Module):
    """One 1x1 convolution a tap, from the student's channels to those of the teacher's reading.

    They train with the student and are no part of it. `student_channels` and `reading_channels` go
    from tap to number of channels and name the same taps; none for a loss that needs no adapter.
    Each layer starts as `nn.Conv2d` does (uniform within 1 / sqrt(channels)), from its own seed:
    what a tap starts with does not depend on which others are used.
    """

    def __init__(
        self, student_channels: Mapping[str, int], reading_channels: Mapping[str, int], seed: int
    ) -> None:
        super().__init__()
        _check_taps(student_channels, reading_channels)
        self.layers = nn.ModuleDict(
            {
                tap: _adapter(channels, reading_channels[tap], derive_seed(seed, "adapter", tap))
                for tap, channels in student_channels.items()
            }
        )

    def forward(self, tap: str, features: Tensor) -> Tensor:
        """Project a student's map [B, C, h, w] to [B, k, h, w]."""
        projected: Tensor = self.layers[tap](features)
        return projected


def _adapter(student_channels: int, reading_channels: int, seed: int) -> nn.Conv2d:
    # Made without memory, since nn.Conv2d would draw its start from the global generator.
    layer = nn.Conv2d(student_channels, reading_channels, kernel_size=1, device="meta")
    layer.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    bound = student_channels**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def attention_map(features: Tensor) -> Tensor:
    """Return the attention map [B, H, W] of features [B, C, H, W], of length 1 per image.

    The mean over the channels of the squares (Zagoruyko and Komodakis 2017, with power 2), in
    float32 at least, since squares leave the range of float16. A map of zeros stays one.
    """
    precise = features.to(torch.promote_types(features.dtype, torch.float32))
    return _unit_map(precise.square().mean(dim=1))


def hint(projected: Tensor, reading: TapReading) -> Tensor:
    """The share of the teacher's variance that the student leaves unexplained (1 for its mean).

    Squared error of `projected` [B, k, h, w], summed over the channels, averaged over batch and
    positions, divided by the total variance. Romero et al., "FitNets", 2015 (arXiv 1412.6550).
    """
    student, teacher = _matched(projected, reading.features)
    squares = functional.mse_loss(student, teacher, reduction="sum")
    return squares / (student.numel() // student.shape[1]) / reading.variance


def cosine(projected: Tensor, reading: TapReading) -> Tensor:
    """1 - cosine of student [B, k, h, w] and teacher at each position, averaged: 0 to 2.

    A vector of zeros has cosine 0 with everything, and gets no gradient.
    """
    student, teacher = _matched(projected, reading.features)
    return 1 - (_unit(student) * _unit(teacher)).sum(dim=1).mean()


def attention(features: Tensor, reading: TapReading) -> Tensor:
    """Squared distance of the attention maps, summed over positions, averaged over the batch: 0-2.

    Zagoruyko and Komodakis, "Paying more attention to attention", ICLR 2017 (arXiv 1612.03928).
    Maps of different size are pooled to the smaller and brought to length 1 again. A map of one
    position is 1 for every image: there the loss is 0.
    """
    student, teacher = _matched(attention_map(features)[:, None], reading.attention[:, None])
    difference = _unit_map(student[:, 0]) - _unit_map(teacher[:, 0])
    return difference.square().sum(dim=(1, 2)).mean()


def similarity(features: Tensor, reading: TapReading) -> Tensor:
    """Squared Frobenius distance of the row-normalised Gram matrices [B, B], over B, times 10.

    Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019 (arXiv 1907.09682), who
    divide by B²; each row has length 1, so that B makes it a mean over rows, whatever the batch.
    At most 40, and 20 for maps of one sign.
    """
    student, teacher = _matched(features, reading.features)
    difference = _unit(_gram(student)) - _unit(_gram(teacher))
    return SIMILARITY_SCALE * difference.square().sum() / len(features)


def feature_loss(
    kind: str,
    student_features: Mapping[str, Tensor],
    readings: Mapping[str, TapReading],
    adapters: Adapters,
) -> Tensor:
    """Return the mean over the taps of one feature loss, a scalar.

    `student_features` and `readings` name the same taps; maps are [B, C, h, w] with the student's
    own channels. `adapters` has a layer for each tap where `kind` is one of ADAPTED_KINDS.
    """
    _check_taps(student_features, readings)
    loss = FEATURE_LOSSES[kind]
    losses: list[Tensor] = []
    for tap, reading in readings.items():
        student = student_features[tap]
        if kind in ADAPTED_KINDS:
            # A 1x1 convolution and averaging commute; pooled first, it has fewer positions to do.
            student = adapters(tap, _matched(student, reading.features)[0])
        losses.append(loss(student, reading))
    return torch.stack(losses).mean() if len(losses) > 1 else losses[0]


def _matched(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Pool two maps [B, C, H, W] to the smaller of their heights and widths, in student's dtype."""
    height, width = map(min, student.shape[2:], teacher.shape[2:])
    return _pooled(student, height, width), _pooled(teacher.to(student.dtype), height, width)


def _pooled(features: Tensor, height: int, width: int) -> Tensor:
    if features.shape[2:] == (height, width):
        return features
    return functional.adaptive_avg_pool2d(features, (height, width))


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(start_dim=1)
    return flat @ flat.T


def _unit_map(maps: Tensor) -> Tensor:
    return _unit(maps.flatten(start_dim=1)).view_as(maps)


def _unit(vectors: Tensor) -> Tensor:
    """Bring vectors along dimension 1 to length 1; one without a direction becomes 0.

    It passes no gradient back, which would be of the order of 1 / SHORTEST: a map may be 0 at a
    position, or for an image, as soon as all of a narrow student's ReLUs are off there.
    """
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    directed = vectors.masked_fill(length <= SHORTEST, 0.0)
    return directed / length.clamp(min=SHORTEST)


def _check_taps(student: Mapping[str, object], teacher: Mapping[str, object]) -> None:
    if student.keys() != teacher.keys():
        raise ProtocolError(
            f"student and teacher must be read at the same taps, got {sorted(student)} and "
            f"{sorted(teacher)}"
        )


FeatureLoss = Callable[[Tensor, TapReading], Tensor]

FEATURE_LOSSES: dict[str, FeatureLoss] = {
    "hint": hint,
    "cosine": cosine,
    "attention": attention,
    "similarity": similarity,
}
