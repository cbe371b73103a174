"""The early signal: how good a run will be, from its first epochs.

It is the likelihood of validation images, with two corrections. The running statistics of BatchNorm
lag behind weights that change fast, and in the first hundred steps scores measured with them may
rank recipes hardly better than chance: so images are normalised by the statistics of their own
batch. And recipes differ in how confident they make a student (label smoothing, soft targets),
which says little about its accuracy: so logits are scaled by one temperature, the best for these
images (Guo et al. 2017, section 4.2). docs/early-signal.md has where the signal ranks recipes
early, and where nothing does. Statistics recomputed over training batches (PreciseBN, Wu and
Johnson 2021, arXiv 2105.07576) rank hardly better, and cost more.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kd.data.examples import Examples
from kd.models.network import Network
from kd.seeds import derive_seed
from kd.training.scoring import example_weights

BATCH = 128  # images that are normalised together, at most; fewer if they are large, for memory
LEAST_BATCH = 32
BATCH_PIXELS = BATCH * 96 * 96
SHARE = 8  # as many times more images are trained on, at least, so that it costs 3 % of an epoch


SHARPEST = 64.0  # of the factors that logits are scaled by; the smallest is its inverse
HALVINGS = 16  # of the range of their logarithm: far below what a rank could show


def early_nll(
    network: Network, validation: Examples, trained: int, predicted: Tensor, metric: str
) -> float:
    """Return the mean negative log-likelihood, nats, of images of the validation split.

    `trained` is the number of training images. `predicted` [N, classes] are the logits of the whole
    split, which serve where there is no batch normalisation. Images have the weights of `metric`.
    It is not finite where a logit is not.
    """
    logits, labels = batch_logits(network, validation, trained) or (
        predicted,
        validation.labels,
    )
    logits, labels = logits.cpu().double(), labels.cpu()
    weights = torch.from_numpy(example_weights(metric, labels.numpy()))
    return scaled_nll(logits, labels, weights)


def scaled_nll(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Return the least weighted mean NLL over all factors that scale the logits [N, classes].

    It is convex in the factor, so that halving its range by the sign of the slope finds it.
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    share = weights / weights.sum()
    low, high = -math.log(SHARPEST), math.log(SHARPEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((logits * math.exp(middle)).softmax(1) * logits).sum(1)
        rises = float(share @ (expected - right)) > 0
        low, high = (low, middle) if rises else (middle, high)
    scaled = logits * math.exp((low + high) / 2)
    return float(share @ (scaled.logsumexp(1) - right * math.exp((low + high) / 2)))


@torch.inference_mode()
def batch_logits(
    network: Network, validation: Examples, trained: int
) -> tuple[Tensor, Tensor] | None:
    """Return logits [N, classes] double and labels [N] of images spread over a validation split.

    They are normalised in batches of nearly equal size. They are the same for each network, and
    drawn at random, since a split may be in the order of its classes. None if that changes nothing.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    count = min(len(validation), max(2, trained // SHARE))
    if not layers or count < 2:
        return None
    generator = torch.Generator().manual_seed(derive_seed(0, "early"))
    chosen = torch.randperm(len(validation), generator=generator)[:count]
    size = min(BATCH, max(LEAST_BATCH, BATCH_PIXELS // network.inputs.places))
    logits, labels = [], []
    was_training = network.training
    network.eval()
    try:
        with _own_statistics(layers):
            for part in chosen.tensor_split(-(-count // size)):
                images = validation.at(part)
                logits.append(network(images.values).double())
                labels.append(images.labels)
    finally:
        network.train(was_training)
    return torch.cat(logits), torch.cat(labels)


@contextmanager
def _own_statistics(layers: list[_BatchNorm]) -> Iterator[None]:
    """Normalise each batch by its own statistics, and leave the running ones as they are."""
    tracked = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, before in zip(layers, tracked, strict=True):
            layer.training, layer.track_running_stats = False, before
