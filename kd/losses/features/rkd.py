"""Relational: distances and angles between the images of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kd.errors import require
from kd.models.taps import TapReading, matched, unit

ADAPTED = False

# Vectors that differ by rounding alone have no direction between them: dividing by their distance
# would amplify it. The bound is that of `kd.losses.logits._shared`.
ROUNDING_UNITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The weights of distances and angles, in 0-1000 and not both 0.

    The defaults are those of mdistiller and RepDistiller for image classifiers; their ratio is the
    authors' (1 and 2).
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0

    def __post_init__(self) -> None:
        weights = self.distance_weight, self.angle_weight
        fits = all(0 <= weight <= 1000 for weight in weights) and any(weights)
        require("the weights of rkd must lie in 0-1000, one above 0", fits, weights)


def loss(student: Tensor, reading: TapReading, parameters: Parameters) -> Tensor:
    """Weight · Huber of distances + weight · Huber of the cosines of angles.

    Park et al., "Relational knowledge distillation", CVPR 2019 (arXiv 1904.05068). An image is the
    mean of its map over the positions, a vector. Distances between two images are divided by their
    mean over the pairs that differ; an angle is that of three images, at the middle one. Means are
    over all B² pairs and B³ triples, as in the authors' code, and the cosines of a network take 8
    MiB for a batch of 128 in float32, 512 MiB for one of 512. The teacher's vectors are projected
    onto at most 64 orthonormal directions and scaled, which changes neither, up to the energy that
    is left out.

    Equal images have distance 0, no direction and no gradient: so a batch of 1 has the loss 0.
    """
    student, teacher = matched(student, reading.features)
    ours, theirs = (_differences(maps.mean(dim=(2, 3))) for maps in (student, teacher))
    distance = functional.smooth_l1_loss(_distances(ours), _distances(theirs))
    angle = functional.smooth_l1_loss(_cosines(ours), _cosines(theirs))
    return parameters.distance_weight * distance + parameters.angle_weight * angle


def _differences(vectors: Tensor) -> Tensor:
    """Return the differences [B, B, C] of vectors [B, C]; those that are rounding become 0."""
    differences = vectors[:, None] - vectors[None]
    with torch.no_grad():
        longest = vectors.abs().amax()
        rounding = ROUNDING_UNITS * torch.finfo(vectors.dtype).eps * longest
        equal = differences.abs().amax(dim=2, keepdim=True) <= rounding
    return differences.masked_fill(equal, 0.0)


def _distances(differences: Tensor) -> Tensor:
    """Return the distances [B, B], divided by the mean of those above 0."""
    lengths: Tensor = torch.linalg.vector_norm(differences, dim=2)
    mean = lengths.sum() / (lengths > 0).sum().clamp(min=1)
    return lengths / torch.where(mean > 0, mean, 1.0)


def _cosines(differences: Tensor) -> Tensor:
    """Return the cosines [B, B, B] of the angles at the first image."""
    directions = unit(differences.flatten(end_dim=1)).view_as(differences)
    return directions @ directions.transpose(1, 2)
