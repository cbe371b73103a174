"""How a network is computed: memory layout, kernels, precision and compilation.

These choices change results only by rounding. To make results repeatable to the last bit, layout
and kernels are fixed for each model, and precision and compilation are protocol fields.
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

MOST_COMPILED = 1024  # graphs per process, one for each model and set of taps; torch's default is 8

# A CPU never uses channels last for convolutions with fewer channels: oneDNN's kernels were
# observed to write past their memory there (`kd.training.kernels`).
LEAST_CHANNELS_LAST = 8


def memory_format(network: Network, device: torch.device) -> torch.memory_format:
    """Return the layout of the network's weights, and so of its feature maps.

    On accelerators it is channels last, which tensor cores use without conversion (PyTorch's
    documentation of channels last). On a CPU it is channels last for models that were measured to
    train faster with it (`ModelFacts.channels_last`), unless a convolution has few channels.
    """
    model = parse_model(network.name)
    last = device.type != "cpu" or (
        model.width >= model.facts.channels_last
        and _fewest_channels(network) >= LEAST_CHANNELS_LAST
    )
    return torch.channels_last if last else torch.contiguous_format


def _fewest_channels(network: Network) -> float:
    """Return the smallest number of input or output channels of a convolution.

    The input of the first convolution (images) is ignored. Groups count separately, except in
    depthwise convolutions, which use other kernels.
    """
    channels = []
    for index, layer in enumerate(m for m in network.modules() if isinstance(m, nn.Conv2d)):
        groups = 1 if layer.groups == layer.in_channels else layer.groups
        channels += [layer.out_channels / groups] + [layer.in_channels / groups] * (index > 0)
    return min(channels, default=math.inf)


def place(network: Network, device: torch.device) -> Network:
    """Move the network to `device` and into its memory layout; return it."""
    layout = memory_format(network, device)
    return network.to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def training_forward(
    network: Network, device: torch.device, precision: str, compiled: bool
) -> Forward:
    """Return the function that training steps call in place of `network.forward_taps`.

    It returns logits and maps in float32 for any precision, because losses need its range. A model
    is compiled once per process and set of taps; further networks of the same shapes reuse the
    code. A model of the catalogue is compiled as one graph; any other one may break into several.
    If compilation fails, the exception of torch is raised.
    """
    forward: Forward = network.forward_taps
    if compiled:
        _configure_compiler(device)
        whole = parse_model(network.name).in_catalogue
        traced = torch.compile(network.traced, dynamic=False, fullgraph=whole)
        forward = partial(network.forward_taps, compiled=traced)
    if precision == "float32":
        return forward

    def mixed(images: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device.type, dtype=getattr(torch, precision)):
            logits, maps = forward(images, taps)
        return logits.float(), {tap: features.float() for tap, features in maps.items()}

    return mixed


def training_backward(network: Network, device: torch.device) -> Callable[[Tensor], None]:
    """Return the function that training steps call to backpropagate a scalar loss."""
    model = parse_model(network.name)
    narrow = device.type == "cpu" and model.width <= model.facts.narrow
    return _backward_without_onednn if narrow else Tensor.backward


def _backward_without_onednn(loss: Tensor) -> None:
    """Backpropagate with PyTorch's own kernels; NNPACK, the next choice, is slow too.

    The settings of the process are restored afterwards.
    """
    before = torch.backends.mkldnn.enabled
    with torch.backends.nnpack.flags(enabled=False):
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            loss.backward()
        finally:
            torch.backends.mkldnn.enabled = before


def _configure_compiler(device: torch.device) -> None:
    """Raise torch's limit on compiled graphs; on a CPU, compile in this process only.

    A worker has one core there, and compiler processes would use those of other workers.
    """
    from torch._inductor import config  # takes a second, so imported only to compile

    torch._dynamo.config.recompile_limit = MOST_COMPILED
    if device.type == "cpu":
        config.compile_threads = 1


def check_device(device: torch.device, precision: str, compiled: bool) -> None:
    """Raise ProtocolError, in one line, if the device lacks bfloat16 or cannot compile.

    Compilation is tested on one small layer, which takes some seconds.
    """
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise ProtocolError(f"{device} does not compute in bfloat16; use --precision float32")
    if compiled:
        try:
            _configure_compiler(device)
            _compile_a_layer(device)
        except Exception as error:  # the compiler raises exceptions of many kinds
            reason = " ".join(str(error).split())[:200]
            raise ProtocolError(
                f"torch.compile does not work on {device}: {reason}; use --no-compile"
            ) from error


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":  # Ampere and later; older devices emulate it, which is slower
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.amp.is_autocast_available(device.type)


def _compile_a_layer(device: torch.device) -> None:
    # no convolution, because oneDNN fixes its instruction set at the first (`kd.training.kernels`)
    layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compile(layer, dynamic=False)(torch.ones(1, 4, device=device)).sum().backward()
