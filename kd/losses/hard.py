"""The hard loss: cross-entropy of a student's logits with the labels."""

from torch import Tensor
from torch.nn import functional


def hard(student_logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of logits [B, C] with labels [B], averaged over the batch, in nats.

    `label_smoothing` in [0, 1) is the share of the target that is spread evenly over all classes.
    """
    return functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)
