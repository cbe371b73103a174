"""An exponential moving average of a student's weights, which is what a run then results in."""

import copy

import torch
from torch import Tensor

from kd.models.build import Network


class WeightAverage:
    """The average of a network's weights over its training steps: `network`, a copy of it.

    It begins as the initial weights. After each step, average = d * average + (1 - d) * weights,
    with d = min(decay, (1 + n) / (10 + n)) after n earlier steps, so that it soon forgets the
    initial weights (`num_updates` of TensorFlow's `tf.train.ExponentialMovingAverage`). Statistics
    of batch norm are averaged alike; buffers of whole numbers are copied.

    `torch.optim.swa_utils.AveragedModel` computes the same for a fixed d, but reads a counter from
    the device at each step, which waits for it.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Include the network's present weights; `steps` is the number of earlier updates."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        averages, weights = ([pair[side] for pair in self._averaged] for side in (0, 1))
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in self._copied:
            average.copy_(value)


def _tensors(network: Network) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
