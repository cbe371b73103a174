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
    """Make it with a momentum of 0 for every parameter, also for a frozen one.

    The fused step cannot have a momentum for some parameters alone, as when the first gradient of
    one comes late.
    """
    import torch

    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.SGD(
        parameters, lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay, fused=fused
    )
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())
    return optimizer
