"""What a network costs: parameters, multiply-accumulates, bytes, and latency."""

import copy
import time
from collections.abc import Mapping, Sequence

import numpy
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kd.data.examples import Examples
from kd.errors import require
from kd.models.latency import Latency
from kd.models.network import Network, export_state, run_on_meta
from kd.models.numerics import place
from kd.seeds import derive_seed

WARM_UP_ROUNDS = 5  # the first calls choose kernels, fill allocators and caches
# Large models on a CPU take seconds per pass: once this time has been spent on a batch size, one
# round of warm-up and LEAST_ROUNDS timed rounds suffice.
TIME_LIMIT = 60.0  # seconds
LEAST_ROUNDS = 5


def parameter_count(network: Network) -> int:
    """Return the number of parameters, including frozen ones but not running statistics."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: Network) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one example.

    Biases, batch norm, activations and pooling are not counted. Computed from shapes, in eval mode.
    Raises ProtocolError when the images do not fit the network.
    """
    with FlopCounterMode(display=False) as counter:
        run_on_meta(network)
    return int(counter.get_total_flops()) // 2


def state_bytes(network: Network) -> int:
    """Return the bytes of the network's safetensors file, including its header."""
    return len(safetensors.torch.save(export_state(network)))


def measure_latency(
    networks: Mapping[str, Network],
    examples: Examples,
    *,
    batch_sizes: Sequence[int],
    device: torch.device,
    repeats: int,
    seed: int,
) -> dict[str, list[Latency]]:
    """Time forward passes of copies of the networks; return one `Latency` per batch size, by name.

    A batch is the first stored `examples`, repeated if it is larger, and resized to what the
    network receives before it is timed. Networks are in eval and inference mode, after warm-up.
    Each of at most `repeats` rounds runs every network once, in an order shuffled by `seed`, so
    that drift of the machine (heat, other programs) affects all equally. The same network under two
    names shows the noise floor. The caller sets the number of threads and ensures that nothing else
    runs. Raises ProtocolError for counts < 1.
    """
    require("repeats must be at least 1", repeats >= 1, repeats)
    sizes = list(batch_sizes)
    require("batch_sizes must be at least 1", all(size >= 1 for size in sizes), sizes)
    subjects = {
        name: place(copy.deepcopy(network), device).eval() for name, network in networks.items()
    }
    results: dict[str, list[Latency]] = {name: [] for name in subjects}
    for size in sizes:
        generator = torch.Generator().manual_seed(derive_seed(seed, "latency", size))
        values = examples.repeated(size).values
        batches = {
            name: network.inputs.fitted(values).to(device, network.inputs.dtype)
            for name, network in subjects.items()
        }
        times = _time_rounds(subjects, batches, repeats, generator)
        for name, taken in times.items():
            results[name].append(_summary(size, taken))
    return results


def _time_rounds(
    networks: Mapping[str, Network],
    batches: Mapping[str, Tensor],
    repeats: int,
    generator: torch.Generator,
) -> dict[str, list[float]]:
    """Return the times of all timed passes in ms, by network."""
    rounds: list[dict[str, float]] = []
    with torch.inference_mode():
        while len(rounds) < WARM_UP_ROUNDS and _spent(rounds) < TIME_LIMIT / 4:
            rounds.append(_time_round(networks, batches, generator))
        warm_up = len(rounds)
        while len(rounds) - warm_up < repeats:
            if len(rounds) - warm_up >= LEAST_ROUNDS and _spent(rounds) > TIME_LIMIT:
                break
            rounds.append(_time_round(networks, batches, generator))
    return {name: [taken[name] for taken in rounds[warm_up:]] for name in networks}


def _time_round(
    networks: Mapping[str, Network], batches: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, float]:
    """Run every network once, in random order; return the time of each in ms."""
    names = list(networks)
    order = torch.randperm(len(names), generator=generator).tolist()
    chosen = [names[index] for index in order]
    return {name: _time_pass(networks[name], batches[name]) for name in chosen}


def _spent(rounds: list[dict[str, float]]) -> float:
    """Return the seconds of all passes so far."""
    return sum(sum(taken.values()) for taken in rounds) / 1000


def _time_pass(network: Network, images: Tensor) -> float:
    _synchronise(images.device)
    start = time.perf_counter()
    network(images)
    _synchronise(images.device)
    return (time.perf_counter() - start) * 1000


def _synchronise(device: torch.device) -> None:
    """Wait for the queued work of an accelerator; do nothing on a CPU."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type == device.type:
        torch.accelerator.synchronize(device)


def _summary(batch_size: int, taken: list[float]) -> Latency:
    median, p95 = numpy.percentile(taken, [50, 95]).tolist()
    return Latency(batch_size=batch_size, median_ms=median, p95_ms=p95, repeats=len(taken))
