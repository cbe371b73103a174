"""SGD with Nesterov momentum 0.9."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kd.optimizers import Range

if TYPE_CHECKING:
    import torch

LR = Range(low=0.01, high=0.3, default=0.1)
WEIGHT_DECAY = Range(low=1e-4, high=2e-3, default=5e-4)
MOMENTUM = 0.9


def make(
    parameters: Sequence["torch.nn.Parameter"],
    lr: float,
    weight_decay: float,
    device: "torch.device",
) -> "torch.optim.Optimizer":
    """Return SGD with a momentum buffer of zeros for every parameter, including frozen ones.

    The fused step fails if only some parameters have a buffer, such as when one receives its first
    gradient later.
    """
    import torch

    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.SGD(
        parameters, lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay, fused=fused
    )
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())
    return optimizer
