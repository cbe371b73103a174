"""Choose the device that a worker computes on, and limit its share of the device's memory."""

import torch

from kd.training.kernels import set_known_limit
from workers.machine import usable_memory

DATA_SHARE = 0.25  # of its memory that a worker may fill with one split of a data set
LIMITED = ("cuda", "xpu")  # devices whose allocators can be limited; ROCm's is called cuda too


def accelerator_count() -> int:
    """Return the number of accelerators (CUDA, ROCm, XPU, MPS); no context is created."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def choose_device(slot: int, workers: int = 1) -> torch.device:
    """Return the device of worker `slot` of `workers`: accelerators in turn, or the CPU.

    It becomes the process's current device. Workers that share an accelerator may each allocate an
    equal share of its memory.
    """
    count = accelerator_count()
    kind = torch.accelerator.current_accelerator() if count else None
    if kind is None:
        set_known_limit()  # before the process computes anything
        return torch.device("cpu")
    device = torch.device(kind.type, slot % count)
    torch.accelerator.set_device_index(device)
    sharing = len(range(device.index, workers, count))  # 0 for a pool that grows beyond `workers`
    limit_memory(device, 1 / max(1, sharing))
    return device


def limit_memory(device: torch.device, share: float) -> None:
    """Limit this process to `share`, 0-1, of a device's memory, if torch supports it.

    The memory that the driver uses for each process comes on top.
    """
    if device.type in LIMITED and 0 < share < 1:
        module = torch.get_device_module(device)
        if hasattr(module, "set_per_process_memory_fraction"):  # XPU's came after torch 2.9
            module.set_per_process_memory_fraction(share, device)


def memory_share(device: torch.device) -> float:
    """Return the share, 0-1, of a device's memory that this process may allocate; 1 if unknown."""
    ask = getattr(torch.get_device_module(device), "get_per_process_memory_fraction", None)
    return float(ask(device)) if ask else 1.0


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory that this process may use on a device.

    Where the device does not report its memory, these are the machine's.
    """
    if device.type == "cpu":
        return usable_memory()
    ask = getattr(torch.get_device_module(device), "get_device_properties", None)
    total = getattr(ask(device), "total_memory", 0) if ask else 0
    return int(total * memory_share(device)) or usable_memory()


def data_room(device: torch.device) -> int:
    """Return the bytes that a split may have to be held in the memory of a device."""
    return int(DATA_SHARE * device_memory(device))
