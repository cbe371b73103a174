"""The teacher's output for a batch: logits, and feature maps reduced for the teacher cache.

A tap's feature map is average-pooled to at most 4x4, a sequence to at most 16 positions, and
projected onto the leading right singular vectors of its *uncentred* features, fitted once on
un-augmented training images: centring would change the Gram matrices of ReLU features, which the
`similarity` loss compares. It is then divided by one scale a tap, so that float16 holds it. The
attention map is normalised before float16, whose range raw maps exceed.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from kd.data.examples import Examples
from kd.errors import ArtifactError
from kd.models.build import Network
from kd.models.taps import TapReading, attention_map
from kd.training.cached_logits import as_cached
from kd.training.evaluation import batch_size

MAX_SIDE = 4  # of a pooled feature map
MAX_LENGTH = 16  # of a pooled map of height 1, a sequence
MAX_RANK = 64  # of a projection
FIT_IMAGES = 5000  # images that a projection is fitted on, spread over the training split


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How one tap is reduced: `vectors` [C, k] float32, orthonormal columns.

    `scale` divides the projected features; `variance` is the total variance that they then have
    (summed over the k channels); `energy` is the share, 0-1, of the uncentred second moment that
    the k directions hold.
    """

    vectors: Tensor
    scale: float
    variance: float
    energy: float

    def reduce(self, features: Tensor) -> Tensor:
        """Return a feature map [B, C, H, W] as [B, k, h, w] of the size `pooled_sides`."""
        projected = torch.einsum("bchw,ck->bkhw", _pool(features.float()), self.vectors)
        return projected / self.scale

    def to(self, device: torch.device) -> "Projection":
        return replace(self, vectors=self.vectors.to(device))


@dataclass(frozen=True, slots=True)
class TeacherReading:
    """The teacher's output for a batch: `logits` [B, classes] float32, a reading for each tap."""

    logits: Tensor
    taps: dict[str, TapReading]


class TeacherSource(typing.Protocol):
    """Where a training run gets its readings: from shards or from the live teacher."""

    validation_logits: Tensor

    def read(self, view: int, index: Tensor, images: Tensor, taps: Sequence[str]) -> TeacherReading:
        """Return the teacher's output for `images` [B, C, H, W] uint8.

        They are the rows `index` [B], on the CPU, of the training split, rendered as view `view`.
        """


class LiveTeacher:
    """A frozen teacher in eval mode that computes its output for every batch.

    Its logits are those that a cache with `cache_logits` contains; float32 leaves them exact.
    """

    def __init__(
        self,
        network: Network,
        projections: Mapping[str, Projection],
        validation_logits: Tensor,
        cache_logits: str = "float32",
    ) -> None:
        self.network = network.requires_grad_(False)
        self.projections = dict(projections)
        self.validation_logits = validation_logits
        self.cache_logits = cache_logits

    @torch.no_grad()
    def read(self, view: int, index: Tensor, images: Tensor, taps: Sequence[str]) -> TeacherReading:
        self.network.eval()  # each time: another holder of the network may have called train()
        logits, maps = self.network.forward_taps(images, taps)
        return TeacherReading(
            as_cached(logits.float(), self.cache_logits),
            {tap: self._read_tap(self.projections[tap], maps[tap]) for tap in taps},
        )

    @staticmethod
    def _read_tap(projection: Projection, features: Tensor) -> TapReading:
        """Return a reduced map, rounded to float16 so that it equals what a shard contains."""
        return TapReading(
            features=projection.reduce(features).half().float(),
            attention=attention_map(features).half().float(),
            variance=projection.variance,
        )


@torch.no_grad()
def fit_projections(network: Network, data: Examples, taps: Sequence[str]) -> dict[str, Projection]:
    """Fit each tap's projection on the un-augmented training images `data`.

    Raises ArtifactError for a tap at which the teacher's output is the same for all images.
    """
    network.eval()
    precise = widest_float(data.device)
    moments: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    rows: dict[str, int] = dict.fromkeys(taps, 0)
    some = data.every(-(-len(data) // FIT_IMAGES))
    for chunk in some.chunks(batch_size(network.inputs, data.device)):
        _, maps = network.forward_taps(chunk, taps)
        for tap in taps:
            flat = _pool(maps[tap].float()).movedim(1, -1).flatten(0, -2).to(precise)
            moments[tap] = moments.get(tap, 0) + flat.T @ flat
            means[tap] = means.get(tap, 0) + flat.sum(0)
            rows[tap] += len(flat)
    return {tap: _projection(tap, moments[tap] / rows[tap], means[tap] / rows[tap]) for tap in taps}


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for GPUs without it: all of Apple's, some of Intel's."""
    lacks = device.type == "mps" or (
        device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64
    )
    return torch.float32 if lacks else torch.float64


def _projection(tap: str, moment: Tensor, mean: Tensor) -> Projection:
    """Return the projection onto the leading eigenvectors of the second moment [C, C].

    They are the right singular vectors of the features. A solver may return either sign; here the
    entry with the largest magnitude is positive.
    """
    device = moment.device
    moment, mean = moment.cpu().double(), mean.cpu().double()
    values, vectors = torch.linalg.eigh(moment)
    rank = min(MAX_RANK, len(values))
    values, vectors = values.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    total = float(moment.trace())
    variance = float(values.sum() - (mean @ vectors).square().sum())
    if not variance > 1e-9 * total:
        raise ArtifactError(
            f"the teacher's output at {tap} is the same for all images; train it, or change --taps"
        )
    scale = (total / rank) ** 0.5
    return Projection(
        vectors=vectors.float().to(device),
        scale=scale,
        variance=variance / scale**2,
        energy=min(1.0, float(values.sum()) / total),
    )


def pooled_sides(height: int, width: int) -> tuple[int, int]:
    """Return height and width of a feature map in the teacher cache."""
    if height == 1:
        return 1, min(width, MAX_LENGTH)
    return min(height, MAX_SIDE), min(width, MAX_SIDE)


def _pool(features: Tensor) -> Tensor:
    height, width = features.shape[-2:]
    return functional.adaptive_avg_pool2d(features, pooled_sides(height, width))
