"""How a network is computed: memory layout, kernels, precision and compilation.

These choices change the result only by rounding. Because results are repeatable to the last bit,
layout and kernels are fixed for each model, and precision and compilation are protocol fields.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kd.errors import ProtocolError
from kd.models.network import Network
from kd.names import parse_model

Forward = Callable[[Tensor, Sequence[str]], tuple[Tensor, dict[str, Tensor]]]

MOST_COMPILED = 1024  # graphs of one process: pairs of a model and a set of taps. Torch stops at 8

# Channels of a convolution below which a CPU never computes in channels last: there oneDNN's
# kernels were seen to write past their memory (`kd.training.kernels`).
LEAST_CHANNELS_LAST = 8


def memory_format(network: Network, device: torch.device) -> torch.memory_format:
    """Return the layout of the weights of `network`, which its feature maps follow.

    On an accelerator it is channels last for all: what tensor cores and their like take without
    turning it round (PyTorch's documentation of channels last). On a CPU it is so for models that
    were measured to train faster (`ModelFacts.channels_last`), as long as no convolution has few
    channels.
    """
    model = parse_model(network.name)
    last = device.type != "cpu" or (
        model.width >= model.facts.channels_last
        and _fewest_channels(network) >= LEAST_CHANNELS_LAST
    )
    return torch.channels_last if last else torch.contiguous_format


def _fewest_channels(network: Network) -> float:
    """Return the least number of channels that a convolution reads or writes, images aside.

    The images are what the first convolution reads. A group counts by itself, but for depthwise
    convolutions, which have kernels of their own.
    """
    found = []
    for index, layer in enumerate(m for m in network.modules() if isinstance(m, nn.Conv2d)):
        groups = 1 if layer.groups == layer.in_channels else layer.groups
        found += [layer.out_channels / groups] + [layer.in_channels / groups] * (index > 0)
    return min(found, default=math.inf)


def place(network: Network, device: torch.device) -> Network:
    """Move the network to `device`, in its layout; return it."""
    layout = memory_format(network, device)
    return network.to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def training_forward(
    network: Network, device: torch.device, precision: str, compiled: bool
) -> Forward:
    """Return `network.forward_taps` as training steps call it.

    Logits and maps are float32, whatever the precision inside: losses need its range. One model is
    compiled once a process, and once more for each other set of taps: further networks of the same
    shapes take the code that is there. Raises a torch exception rather than go on uncompiled.
    """
    forward: Forward = network.forward_taps
    if compiled:
        _configure_compiler(device)
        traced = torch.compile(network.traced, dynamic=False, fullgraph=True)
        forward = partial(network.forward_taps, compiled=traced)
    if precision == "float32":
        return forward

    def mixed(images: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device.type, dtype=getattr(torch, precision)):
            logits, maps = forward(images, taps)
        return logits.float(), {tap: each.float() for tap, each in maps.items()}

    return mixed


def training_backward(network: Network, device: torch.device) -> Callable[[Tensor], None]:
    """Return how training steps go back from a loss, a scalar."""
    model = parse_model(network.name)
    narrow = device.type == "cpu" and model.width <= model.facts.narrow
    return _backward_without_onednn if narrow else Tensor.backward


def _backward_without_onednn(loss: Tensor) -> None:
    """Go back from a loss with PyTorch's own kernels; NNPACK, which would come next, is slow too.

    The process computes as before when it is done.
    """
    before = torch.backends.mkldnn.enabled
    with torch.backends.nnpack.flags(enabled=False):
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            loss.backward()
        finally:
            torch.backends.mkldnn.enabled = before


def _configure_compiler(device: torch.device) -> None:
    """Let a process compile all that a study asks of it.

    On a CPU it has one core, and processes of the compiler's own would take those of other workers.
    """
    from torch._inductor import config  # takes a second, which only those wait for who compile

    torch._dynamo.config.recompile_limit = MOST_COMPILED
    if device.type == "cpu":
        config.compile_threads = 1


def check_device(device: torch.device, precision: str, compiled: bool) -> None:
    """Raise ProtocolError, in one line, if the device cannot do what the protocol asks.

    Compiling is tried on one small layer, which takes some seconds.
    """
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise ProtocolError(f"{device} does not compute in bfloat16; use --precision float32")
    if compiled:
        try:
            _configure_compiler(device)
            _compile_a_layer(device)
        except Exception as error:  # whatever the compiler lacks: it raises what it likes
            reason = " ".join(str(error).split())[:200]
            raise ProtocolError(
                f"torch.compile does not work on {device}: {reason}; use --no-compile"
            ) from error


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":  # Ampere and later; before that it would be emulated, and slower
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.amp.is_autocast_available(device.type)


def _compile_a_layer(device: torch.device) -> None:
    # no convolution: oneDNN would keep the instruction set of the first one (`kd.training.kernels`)
    layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compile(layer, dynamic=False)(torch.ones(1, 4, device=device)).sum().backward()
