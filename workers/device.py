"""Choose the device that a worker computes on, and limit its share of the device's memory."""

import torch

from kd.training.kernels import set_known_limit

LIMITED = ("cuda", "xpu")  # devices whose allocators keep to a share; ROCm's are called cuda too


def accelerator_count() -> int:
    """Return the number of accelerators (CUDA, ROCm, XPU, MPS); no context is created."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def choose_device(slot: int, workers: int = 1) -> torch.device:
    """Give worker `slot` of `workers` an accelerator, in turn, or the CPU where there is none.

    It becomes the process's current one, so that nothing is allocated on another. Where several
    workers have the same, each may allocate an equal share of its memory.
    """
    count = accelerator_count()
    kind = torch.accelerator.current_accelerator() if count else None
    if kind is None:
        set_known_limit()  # before the process computes anything
        return torch.device("cpu")
    device = torch.device(kind.type, slot % count)
    torch.accelerator.set_device_index(device)
    limit_memory(device, 1 / workers_on(device.index, workers, count))
    return device


def workers_on(index: int, workers: int, count: int) -> int:
    """Return how many of `workers`, at least 1, have accelerator `index` of `count`."""
    return max(1, len(range(index, workers, count)))


def limit_memory(device: torch.device, share: float) -> None:
    """Let this process allocate at most `share`, 0-1, of a device's memory, where torch can.

    The memory that the driver uses for each process comes on top.
    """
    if device.type in LIMITED and 0 < share < 1:
        module = torch.get_device_module(device)
        if hasattr(module, "set_per_process_memory_fraction"):  # XPU's came after torch 2.9
            module.set_per_process_memory_fraction(share, device)


def memory_share(device: torch.device) -> float:
    """Return the share, 0-1, of a device's memory that this process may allocate; 1 if untold."""
    ask = getattr(torch.get_device_module(device), "get_per_process_memory_fraction", None)
    return float(ask(device)) if ask else 1.0
