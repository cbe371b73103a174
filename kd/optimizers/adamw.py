"""AdamW, Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

Biases and normalisations are not decayed, as in the recipes of BERT, DeiT and ConvNeXt.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kd.optimizers import Range

if TYPE_CHECKING:
    import torch
    from torch import nn

LR = Range(low=1e-4, high=1e-2, default=1e-3)
WEIGHT_DECAY = Range(low=1e-3, high=0.5, default=0.05)


def make(
    decayed: Sequence["nn.Parameter"],
    spared: Sequence["nn.Parameter"],
    lr: float,
    weight_decay: float,
    device: "torch.device",
) -> "torch.optim.Optimizer":
    """Return AdamW with PyTorch's default betas, 0.9 and 0.999, and no decay of `spared`."""
    import torch

    fused = device.type in ("cpu", "cuda")
    groups = [
        {"params": [*decayed], "weight_decay": weight_decay},
        {"params": [*spared], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, fused=fused)
