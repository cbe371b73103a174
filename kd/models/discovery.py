"""Find where a model's features can be read: by default, one module for each map size.

One pass over a few examples, on the meta device, shows what every module returns. A module can be
a tap if

- it returns one tensor of a layout that `kd.models.taps.Tap` knows;
- it runs once in the pass, and no later layer changes its output in place;
- it is no detour: a module around it that leaves the size of its input as it is, such as a block
  with attention or with squeeze and excitation, hides the sizes inside of it.

Of the modules with maps of one size, the outermost is taken, where containers such as
`nn.Sequential` do not count, and of these the one that returns last: `layer1` of a ResNet, not the
first convolution within a block of `layer2`, whose stride comes later.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd.data.inputs import Inputs
from kd.errors import ProtocolError
from kd.models.network import meta_twin
from kd.models.taps import Tap
from kd.registry import check_name

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
BATCH = 3  # examples of the pass: few maps have three channels, positions or tokens


@dataclass(frozen=True, slots=True)
class _Call:
    """A finished call of a module: its path, input, output, and that tensor's version counter."""

    path: str
    given: object
    output: object
    version: int
    pools: bool  # a pool to a fixed size, whose size is that of no feature


def discover(body: nn.Module, inputs: Inputs) -> tuple[Tap, ...]:
    """Return the taps of a model of `inputs`, shallowest first.

    Tokens of images form a square grid behind a prefix. A model without maps has one tap at most:
    the last vector before its logits. Raises what the model raises.
    """
    calls = _calls(body, inputs)
    found: dict[tuple[int, int], Tap] = {}
    for call in _usable(calls):
        tap = _tap(call, body, inputs)
        if tap is not None and tap.layout != "vector":
            size = _size(tap, call.output)
            known = found.get(size)
            if known is None or _depth(body, tap.path) <= _depth(body, known.path):
                found.pop(size, None)  # the later one stands behind all others
                found[size] = tap
    maps = {size: tap for size, tap in found.items() if size != (1, 1)} or found
    return tuple(maps.values()) or _vectors(calls)


def tap_at(body: nn.Module, path: str, inputs: Inputs) -> Tap:
    """Return the tap at the module `path` of a model, with the layout of what it returns.

    Raises ProtocolError, with what is possible instead, for a path that the model lacks, and for a
    module that runs more than once or not at all, returns no known layout, or whose output is
    changed in place.
    """
    paths = [name for name, _ in body.named_modules() if name]
    check_name("module", path, paths)
    calls = [call for call in _calls(body, inputs) if call.path == path]
    if len(calls) != 1:
        times = "runs more than once" if calls else "does not run"
        raise ProtocolError(f"the module {path} {times} in a forward pass, and so is no tap")
    [call] = calls
    if isinstance(call.output, Tensor) and call.output._version != call.version:
        raise ProtocolError(
            f"a later layer changes the output of {path} in place: read that layer, or remove its "
            "inplace=True"
        )
    tap = _tap(call, body, inputs) if isinstance(call.output, Tensor) else None
    if tap is None:
        raise ProtocolError(
            f"{path} returns {_described(call.output)}: a tap is a map [B, C, h, w] or "
            "[B, h, w, C], tokens [B, N, C] of a square grid, or a vector [B, C]"
        )
    return tap


def _depth(body: nn.Module, path: str) -> int:
    """Return the number of modules around the one at `path`, without mere containers."""
    parts = path.split(".")[:-1]
    around = (body.get_submodule(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    return sum(type(module) not in CONTAINERS for module in around)


def _described(output: object) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__


@torch.no_grad()
def _calls(body: nn.Module, inputs: Inputs) -> list[_Call]:
    """Return the finished calls of all modules in a pass, in the order in which they ended."""
    calls: list[_Call] = []
    twin = meta_twin(body).eval()
    for path, module in twin.named_modules():
        if path and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            module.register_forward_hook(partial(_keep, calls, path))
    values = torch.zeros(BATCH, *inputs.shape, dtype=inputs.dtype, device="meta")
    twin(inputs.normalise(values))
    return calls


def _keep(
    calls: list[_Call], path: str, module: nn.Module, given: tuple[Any, ...], output: object
) -> None:
    version, pools = getattr(output, "_version", 0), isinstance(module, POOLS)
    calls.append(_Call(path, given[0] if given else None, output, version, pools))


def _usable(calls: Sequence[_Call]) -> list[_Call]:
    """Return the calls whose output a hook may keep, and which are no detours."""
    often = Counter(call.path for call in calls)
    blocks = [
        f"{call.path}."
        for call in calls
        if (size := _extent(call.given)) is not None and size == _extent(call.output)
    ]
    return [
        call
        for call in calls
        if often[call.path] == 1
        and isinstance(call.output, Tensor)
        and call.output._version == call.version
        and not call.path.startswith(tuple(blocks))
        and not call.pools
    ]


def _extent(value: object) -> tuple[int, ...] | None:
    """Return the size of a map, or the number of tokens; None for other values."""
    if not isinstance(value, Tensor) or value.dim() not in (3, 4):
        return None
    if value.dim() == 3:
        return (value.shape[1],)
    _, one, two, three = value.shape
    return (one, two) if one == two != three else (two, three)


def _tap(call: _Call, body: nn.Module, inputs: Inputs) -> Tap | None:
    """Return the tap at a module with one tensor as output; None without a known layout."""
    output = call.output
    assert isinstance(output, Tensor)
    if output.shape[:1] != (BATCH,) or not output.is_floating_point():
        return None
    if output.dim() == 2:
        return Tap(call.path, "vector")
    if output.dim() == 4:
        _, one, two, three = output.shape
        return Tap(call.path, "channels last" if one == two != three else "map")
    if output.dim() == 3 and inputs.are_images:
        count = output.shape[1]
        prefix = getattr(body, "num_prefix_tokens", count - math.isqrt(count) ** 2)  # timm's name
        if count > prefix and math.isqrt(count - prefix) ** 2 == count - prefix:
            return Tap(call.path, "tokens", prefix)
    return None


def _size(tap: Tap, output: object) -> tuple[int, int]:
    assert isinstance(output, Tensor)
    height, width = tap.as_map(output).shape[2:]
    return height, width


def _vectors(calls: Sequence[_Call]) -> tuple[Tap, ...]:
    """Return the last vector before the logits, which the last call of all returns."""
    logits = calls[-1].output if calls else None
    vectors = [
        Tap(call.path, "vector")
        for call in _usable(calls)
        if isinstance(call.output, Tensor) and call.output.dim() == 2 and call.output is not logits
    ]
    return tuple(vectors[-1:])
