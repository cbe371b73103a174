"""Evaluate a network on images: accuracy, likelihood, calibration, agreement with the teacher."""

import torch
from torch import Tensor
from torch.nn import functional

from kd.data.examples import Examples
from kd.data.inputs import Inputs
from kd.models.network import Network

# Pixels of an evaluation batch; fixed, since the last bits may depend on the batch size. On a CPU
# the maps of larger batches exceed its caches, and smaller batches are dominated by overhead. This
# size was the fastest, or within a third of it, for ResNets on images of 16 to 96 pixels
# (docs/benchmarks.md, formats).
BATCH_PIXELS = 128 * 32 * 32
LEAST_BATCH = 8
ACCELERATOR_BATCH = 1024
ECE_BINS = 15  # Guo et al. 2017


@torch.inference_mode()
def predict(network: Network, data: Examples) -> Tensor:
    """Return the logits [N, classes] float32, on the CPU, of unaugmented data in eval mode."""
    was_training = network.training
    network.eval()
    try:
        found, done = torch.empty(0), 0
        for chunk in data.chunks(batch_size(network.inputs, data.device)):
            logits = network(chunk).float()
            if not done:  # one table: small tensors between large ones would fragment the heap
                found = logits.new_empty(len(data), *logits.shape[1:])
            found[done : done + len(chunk)] = logits
            done += len(chunk)
    finally:
        network.train(was_training)
    return found.cpu()


def batch_size(inputs: Inputs, device: torch.device) -> int:
    """Return the number of examples in an evaluation batch."""
    if device.type != "cpu":
        return ACCELERATOR_BATCH
    return max(LEAST_BATCH, BATCH_PIXELS // inputs.places)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images, 0-1, whose largest logit is that of the label."""
    return float((logits.argmax(1) == labels).double().mean())


def ece(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error, 0-1, over equal bins (Guo et al. 2017, eq. 5)."""
    confidence, predicted = logits.double().softmax(1).max(1)
    gap = (predicted == labels).double() - confidence
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    sums = torch.zeros(ECE_BINS, dtype=torch.float64)
    return float(sums.index_add(0, bins, gap).abs().sum() / len(labels))


def teacher_kl(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Return the mean KL(teacher || student) at temperature 1, nats."""
    teacher = teacher_logits.double().log_softmax(1)
    student = student_logits.double().log_softmax(1)
    return float(functional.kl_div(student, teacher, reduction="batchmean", log_target=True))


def evaluate(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None
) -> dict[str, float | None]:
    """Return accuracy, nll, ece, agreement and teacher_kl; the last two None without a teacher.

    `nll` is the mean negative log-likelihood of the labels, nats; `agreement` the share of images,
    0-1, for which both networks predict the same class.
    """
    found: dict[str, float | None] = {
        "accuracy": accuracy(logits, labels),
        "nll": float(functional.cross_entropy(logits.double(), labels)),
        "ece": ece(logits, labels),
        "agreement": None,
        "teacher_kl": None,
    }
    if teacher_logits is not None:
        found["agreement"] = accuracy(logits, teacher_logits.argmax(1))
        found["teacher_kl"] = teacher_kl(logits, teacher_logits)
    return found
