"""Which device a worker computes on; chosen once, when it starts."""

import torch


def accelerator_count() -> int:
    """Return the number of accelerators (CUDA, ROCm, XPU, MPS); no context is created."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def choose_device(slot: int) -> torch.device:
    """Give worker `slot` an accelerator, in turn, or the CPU where there is none."""
    count = accelerator_count()
    kind = torch.accelerator.current_accelerator() if count else None
    return torch.device(kind.type, slot % count) if kind else torch.device("cpu")
