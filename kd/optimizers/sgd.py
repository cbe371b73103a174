"""SGD with Nesterov momentum 0.9.

Weight decay holds for all parameters, as in the papers of the catalogue's models.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kd.optimizers import Range

if TYPE_CHECKING:
    import torch
    from torch import nn

LR = Range(low=0.01, high=0.5, default=0.1)
WEIGHT_DECAY = Range(low=1e-5, high=5e-3, default=5e-4)
MOMENTUM = 0.9


def make(
    decayed: Sequence["nn.Parameter"],
    spared: Sequence["nn.Parameter"],
    lr: float,
    weight_decay: float,
    device: "torch.device",
) -> "torch.optim.Optimizer":
    """Return SGD with a momentum buffer of zeros for every parameter, including frozen ones.

    The fused step fails if only some parameters have a buffer, such as when one receives its first
    gradient later.
    """
    import torch

    parameters = [*decayed, *spared]
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.SGD(
        parameters, lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay, fused=fused
    )
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())
    return optimizer
