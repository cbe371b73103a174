"""The hard loss: cross-entropy of a student's logits with the labels."""

from torch import Tensor
from torch.nn import functional

from kd.data.labels import Labels


def hard(student_logits: Tensor, labels: Labels, label_smoothing: float) -> Tensor:
    """Cross-entropy of logits [B, C] with labels [B], averaged over the batch, in nats.

    `label_smoothing` in [0, 1) is the share of the target that is spread evenly over all classes.
    The loss of a mixed image is share * CE(label) + (1 - share) * CE(label of its partner), as in
    mixup (1710.09412) and CutMix (1905.04899).
    """
    if isinstance(labels, Tensor):
        return functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)
    own, partners = (
        functional.cross_entropy(
            student_logits, part, label_smoothing=label_smoothing, reduction="none"
        )
        for part in (labels.labels, labels.partners)
    )
    return (labels.share * own + (1 - labels.share) * partners).mean()
