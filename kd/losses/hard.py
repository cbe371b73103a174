"""The hard loss: cross-entropy of a student's logits with the labels."""

from torch import Tensor
from torch.nn import functional

from kd.data.labels import Labels


def hard(
    student_logits: Tensor, labels: Labels, label_smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits [B, C] with labels [B], averaged over the batch, in nats.

    `weights` [C], if there are any, multiply the loss of the examples of each class. The mean is
    over the examples of the batch, whatever their weights, so that a batch without rare classes
    does not count more for it.

    `label_smoothing` in [0, 1) is the share of the target that is spread evenly over all classes.
    The loss of a mixed image is share * CE(label) + (1 - share) * CE(label of its partner), as in
    mixup (1710.09412) and CutMix (1905.04899).
    """
    if isinstance(labels, Tensor) and weights is None:
        return functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)
    if isinstance(labels, Tensor):
        return _each(student_logits, labels, label_smoothing, weights).mean()
    own, partners = (
        _each(student_logits, part, label_smoothing, weights)
        for part in (labels.labels, labels.partners)
    )
    return (labels.share * own + (1 - labels.share) * partners).mean()


def balanced_weights(labels: Tensor) -> Tensor:
    """Return weights [C] with which all classes of `labels` [N] weigh the same: N / (C count).

    Their mean over the labels is 1. Every class has a label, as in a training split.
    """
    counts = labels.bincount()
    return len(labels) / (len(counts) * counts).float()


def _each(
    student_logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor | None
) -> Tensor:
    found = functional.cross_entropy(
        student_logits, labels, label_smoothing=label_smoothing, reduction="none"
    )
    return found if weights is None else found * weights[labels]
