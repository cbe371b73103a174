"""Labels of images that are mixed of two."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class MixedLabels:
    """The `labels` [B] int64 of images, those of their partners, and the share of the former.

    `share` [B] float32 lies in 0-1; the partner has the rest.
    """

    labels: Tensor
    partners: Tensor
    share: Tensor


Labels = Tensor | MixedLabels


def targets(labels: Labels, classes: int) -> Tensor:
    """Return the share of each class: [B, classes] float32, of which each row adds up to 1."""
    if isinstance(labels, Tensor):
        return functional.one_hot(labels, classes).float()
    own, partners = (functional.one_hot(part, classes) for part in (labels.labels, labels.partners))
    share = labels.share[:, None]
    return share * own + (1 - share) * partners
