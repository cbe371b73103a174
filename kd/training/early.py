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
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from kd.data.inputs import Examples
from kd.models.network import Network

BATCH = 128  # images that are normalised together, at most
SHARE = 8  # as many times more images are trained on, at least, so that it costs 3 % of an epoch


def early_nll(network: Network, validation: Examples, trained: int) -> float | None:
    """Return the mean negative log-likelihood, nats, of images of the validation split.

    `trained` is the number of training images. Returns None for a network without batch
    normalisation, for which it would be that of all validation images, but for noise.
    """
    found = early_logits(network, validation, trained)
    return None if found is None else float(functional.cross_entropy(*found))


@torch.inference_mode()
def early_logits(
    network: Network, validation: Examples, trained: int
) -> tuple[Tensor, Tensor] | None:
    """Return logits [N, classes] double and labels [N] of images spread over a validation split.

    They are normalised in batches of nearly equal size. None if that changes nothing.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    count = min(len(validation), max(2, trained // SHARE))
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
            logits = [network(batch).double() for batch in values.chunk(-(-count // BATCH))]
    finally:
        network.train(was_training)
    return torch.cat(logits), labels


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
