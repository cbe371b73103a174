"""AdamW, Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kd.optimizers import Range

if TYPE_CHECKING:
    import torch

LR = Range(low=1e-4, high=1e-2, default=1e-3)
WEIGHT_DECAY = Range(low=1e-3, high=0.5, default=0.05)


def make(
    parameters: Sequence["torch.nn.Parameter"],
    lr: float,
    weight_decay: float,
    device: "torch.device",
) -> "torch.optim.Optimizer":
    """Return AdamW with PyTorch's default betas, 0.9 and 0.999."""
    import torch

    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=fused)
