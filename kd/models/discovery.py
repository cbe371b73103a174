"""Find where a model's features can be read: by default, one module for each map size.

One pass over a few examples, on the meta device, shows what every module returns. A module can be
a tap if

- it returns one tensor of a layout that `kd.models.taps.Tap` knows, on which the logits depend;
- it runs once in the pass, and no later layer changes its output in place;
- it does not lie inside a block whose output has the size of its input, such as one with attention
  or with squeeze and excitation: sizes within such a block are no stages of the model.

For each size of the maps, the outermost modules are considered, where containers such as
`nn.Sequential` do not count, and the last of them to return is taken: `layer1` of a ResNet, not the
first convolution within a block of `layer2`, whose stride comes later.
"""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd.data.inputs import Inputs
from kd.errors import ProtocolError
from kd.models.network import logits_of, meta_twin
from kd.models.own import OUT_OF_MEMORY
from kd.models.taps import Tap
from kd.registry import check_name

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Their outputs are no features: pools to a fixed size, attention weights, and outputs of dropout.
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
PASSED_OVER = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Softmax, *DROPOUTS)
MAPS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)  # never channels last
MOST_PREFIX = 8  # tokens without a position, where neither model nor grid gives their number
BATCH = 3  # examples of the pass: few maps have three channels, positions or tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A finished call of a module: its path, input, output, and that tensor's version counter.

    `grid` is the number of positions in the output of the last convolution, 0 before the first.
    """

    path: str
    module: nn.Module
    given: object
    output: object
    version: int
    grid: int

    @property
    def is_kept(self) -> bool:
        """Whether the output is one tensor that no later layer has changed in place."""
        return isinstance(self.output, Tensor) and self.output._version == self.version


@dataclass(slots=True)
class _Pass:
    """The finished calls of all modules, in the order in which they ended, and the logits."""

    body: nn.Module
    inputs: Inputs
    calls: list[_Call] = field(default_factory=list)
    logits: Tensor | None = None

    def keep(self, path: str, module: nn.Module, given: tuple[Any, ...], output: object) -> None:
        """Record a finished call; this is a forward hook."""
        if isinstance(module, DROPOUTS) and module.inplace and isinstance(output, Tensor):
            torch.autograd.graph.increment_version(output)  # as it changes its input in training
        grid = self.calls[-1].grid if self.calls else 0
        if isinstance(module, MAPS) and isinstance(output, Tensor) and output.dim() == 4:
            grid = output.shape[2] * output.shape[3]
        version = getattr(output, "_version", 0)
        first = given[0] if given else None
        self.calls.append(_Call(path, module, first, output, version, grid))


def discover(body: nn.Module, inputs: Inputs) -> tuple[Tap, ...]:
    """Return the taps of a model of `inputs`, shallowest first.

    Tokens of images form a square grid behind a prefix. A model without maps has one tap at most:
    the last vector before its logits. A model that does not run on the meta device has none.
    """
    try:
        seen = _run(body, inputs)
    except OUT_OF_MEMORY:
        raise
    except (Exception, SystemExit):  # the try-out reports it (`kd.models.tryout`)
        return ()
    usable = _usable(seen)
    found: dict[tuple[int, int], Tap] = {}
    for call in usable:
        tap = _tap(seen, call)
        if tap is None or tap.layout == "vector":
            continue
        size = _size(tap, call.output)
        if size[0] == size[1] or not inputs.are_images:  # images are square, and so are their maps
            known = found.get(size)
            if known is None or _depth(body, tap.path) <= _depth(body, known.path):
                found.pop(size, None)  # the later one stands behind all others
                found[size] = tap
    maps = {size: tap for size, tap in found.items() if size != (1, 1)} or found
    return tuple(maps.values()) or _vectors(usable, seen.logits)


def tap_at(body: nn.Module, path: str, inputs: Inputs) -> Tap:
    """Return the tap at the module `path` of a model, with the layout of what it returns.

    Raises ProtocolError, with what is possible instead, for a path that the model lacks, and for a
    module that runs more than once or not at all, returns no known layout, or whose output is
    changed in place. Raises what the model raises.
    """
    paths = [name for name, _ in body.named_modules() if name]
    check_name("module", path, paths)
    seen = _run(body, inputs)
    calls = [call for call in seen.calls if call.path == path]
    if len(calls) != 1:
        times = "runs more than once" if calls else "does not run"
        raise ProtocolError(
            f"the module {path} {times} in a forward pass, and so is no tap; name another"
        )
    [call] = calls
    if isinstance(call.output, Tensor) and not call.is_kept:
        raise ProtocolError(
            f"a later layer changes the output of {path} in place: read that layer, or remove its "
            "inplace=True"
        )
    tap = _tap(seen, call)
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


def _run(body: nn.Module, inputs: Inputs) -> _Pass:
    """Pass a few examples through a copy of the model, in evaluation, with gradients.

    The global random state is restored.
    """
    seen = _Pass(body, inputs)
    twin = meta_twin(body).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad(), torch.random.fork_rng(devices=[]), ExitStack() as hooks:
        for path, module in twin.named_modules():
            if path and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                hook = module.register_forward_hook(partial(seen.keep, path))
                hooks.enter_context(hook)
        values = torch.zeros(BATCH, *inputs.shape, dtype=inputs.dtype, device="meta")
        output = twin(inputs.normalise(values))
    try:
        seen.logits = logits_of(output)
    except ProtocolError:
        seen.logits = None
    return seen


def _usable(seen: _Pass) -> list[_Call]:
    """Return the calls whose output a hook may keep, and which are no detours or dead ends."""
    often = Counter(call.path for call in seen.calls)
    blocks = [
        f"{call.path}."
        for call in seen.calls
        if (size := _extent(call.given, seen.inputs)) is not None
        and size == _extent(call.output, seen.inputs)
    ]
    usable = [
        call
        for call in seen.calls
        if often[call.path] == 1
        and call.is_kept
        and not call.path.startswith(tuple(blocks))
        and not isinstance(call.module, PASSED_OVER)
    ]
    return _reaching_logits(usable, seen.logits)


def _reaching_logits(calls: list[_Call], logits: Tensor | None) -> list[_Call]:
    """Return the calls on whose output the logits depend: no head beside them, for example.

    What was computed without gradients is kept, and so is everything where that is unknown.
    """
    outputs = [call.output for call in calls if isinstance(call.output, Tensor)]
    asked = [output for output in outputs if output.requires_grad]
    if not asked or logits is None or not logits.requires_grad:
        return calls
    try:
        gradients = torch.autograd.grad(logits, asked, torch.empty_like(logits), allow_unused=True)
    except Exception:  # changes in place, no backward pass on this device, a fault of the model
        return calls
    dead = {id(one) for one, given in zip(asked, gradients, strict=True) if given is None}
    return [call for call in calls if id(call.output) not in dead]


def _extent(value: object, inputs: Inputs) -> tuple[int, ...] | None:
    """Return the size of a map, or the number of tokens; None for other values."""
    if not isinstance(value, Tensor) or value.dim() not in (3, 4):
        return None
    if value.dim() == 3:
        return (value.shape[1],)
    _, one, two, three = value.shape
    return (one, two) if _is_channels_last(value, inputs) else (two, three)


def _is_channels_last(output: Tensor, inputs: Inputs) -> bool | None:
    """Return whether a map is channels last: its sides are in proportion to those of the inputs.

    Returns None for a cube, which may be either.
    """
    _, one, two, three = output.shape
    if len(inputs.shape) != 3:
        return False
    _, height, width = inputs.shape
    if one == two == three:
        return None if height == width else False
    return one * width == two * height and two * width != three * height


def _tap(seen: _Pass, call: _Call) -> Tap | None:
    """Return the tap at a call; None for an output without a known layout."""
    output = call.output
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.shape[:1] != (BATCH,):
        return None
    if output.dim() == 2:
        return Tap(call.path, "vector")
    if output.dim() == 4:
        last = _is_channels_last(output, seen.inputs)
        if last is None:
            last = _are_channels_last(seen)
        is_last = last and not isinstance(call.module, MAPS)
        return Tap(call.path, "channels last" if is_last else "map")
    if output.dim() == 3 and seen.inputs.are_images:
        prefix = _prefix(seen.body, output, call.grid)
        return None if prefix is None else Tap(call.path, "tokens", prefix)
    return None


def _are_channels_last(seen: _Pass) -> bool:
    """Return whether most of a model's maps are channels last, of those that can be only one."""
    found = [
        _is_channels_last(call.output, seen.inputs)
        for call in _usable(seen)
        if isinstance(call.output, Tensor)
        and call.output.dim() == 4
        and not isinstance(call.module, MAPS)
    ]
    return found.count(True) > found.count(False)


def _prefix(body: nn.Module, tokens: Tensor, grid: int) -> int | None:
    """Return how many of the tokens [B, N, C] stand before a square grid; None if there is none.

    The model gives their number (the name is timm's), or the grid of the last convolution; else
    the grid is the largest that N has room for. A map [B, C, h w] is no tokens.
    """
    _, count, depth = tokens.shape
    named = getattr(body, "num_prefix_tokens", None)
    if isinstance(named, int) and _is_square(count - named):
        return named
    behind = count - grid
    if depth == grid and behind not in (0, 1):
        return None
    if 0 <= behind < grid and _is_square(grid):
        return behind
    behind = count - math.isqrt(count) ** 2
    return behind if behind <= MOST_PREFIX else None


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _size(tap: Tap, output: object) -> tuple[int, int]:
    assert isinstance(output, Tensor)
    height, width = tap.as_map(output).shape[2:]
    return height, width


def _vectors(calls: Sequence[_Call], logits: Tensor | None) -> tuple[Tap, ...]:
    """Return the last vector before the logits."""
    shape = None if logits is None else logits.shape
    vectors = [
        Tap(call.path, "vector")
        for call in calls
        if isinstance(call.output, Tensor)
        and call.output.dim() == 2
        and call.output.shape[0] == BATCH
        and call.output.shape != shape
    ]
    return tuple(vectors[-1:])
