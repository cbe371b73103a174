"""The early signal: how good a run will be, from its first epochs.

The running statistics of BatchNorm lag behind weights that change fast, and in the first hundred
steps scores measured with them may rank recipes hardly better than chance. This is the likelihood
of some validation images, normalised by the statistics of their own batch; docs/early-signal.md has
where it ranks recipes early, and where nothing does. Statistics recomputed over training batches
(PreciseBN, Wu and Johnson 2021, arXiv 2105.07576) rank hardly better, and cost more.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from kd.data.inputs import Examples
from kd.models.network import Network

IMAGES = 128  # of the validation split, at most
SHARE = 8  # at least as many times more images are trained on, so that it costs 3 % of an epoch


@torch.inference_mode()
def early_nll(network: Network, validation: Examples, trained: int) -> float | None:
    """Return the mean negative log-likelihood, nats, of a batch of the validation split.

    The images are spread evenly over it; `trained` is the number of training images. Returns None
    for a network without batch normalisation, for which it would be that of all validation images,
    but for noise.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    count = min(IMAGES, len(validation), max(2, trained // SHARE))
    if not layers or count < 2:
        return None
    chosen = torch.arange(count) * len(validation) // count
    values, labels = (
        part[chosen.to(part.device)] for part in (validation.values, validation.labels)
    )
    was_training = network.training
    network.eval()
    try:
        with _own_statistics(layers):
            logits = network(values).double()
    finally:
        network.train(was_training)
    return float(functional.cross_entropy(logits, labels))


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
