"""Find where a model's features can be read: by default, one module for each map size.

One pass over a few examples, on the meta device, shows what every module returns. A module can be
a tap if

- it returns one tensor of a layout that `kd.models.taps.Tap` knows, on which the logits depend;
- it runs once in the pass, and no later layer changes its output in place;
- it does not lie inside a block whose output has the size of its input, such as one with attention
  or with squeeze and excitation: sizes within such a block are no stages of the model.

For each size of the maps, the outermost modules are considered, where containers such as
`nn.Sequential` do not count, and the last of them to return is taken: `layer1` of a ResNet, not the
first convolution within a block of `layer2`, whose stride comes later. A sequence is a map of
height 1.
"""

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
from kd.models.layouts import Sequences, channels_first
from kd.models.network import gives_mask, logits_of, meta_twin
from kd.models.own import OUT_OF_MEMORY
from kd.models.taps import Tap
from kd.registry import check_name

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Their outputs are no features: pools to a fixed size, attention weights, patches of the input, and
# outputs of dropout.
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSED_OVER = (*POOLS, nn.Softmax, nn.Unfold, *DROPOUTS)
MAPS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)  # never channels last
BATCH = 3  # examples of the pass: few maps have three channels, positions or tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A finished call of a module: its path, input, output, and that tensor's version counter.

    `grid` is the number of positions in the output of the last convolution, 0 before the first.
    `first` is whether the channels of input and output come first (see `kd.models.layouts`), each
    None if unknown.
    """

    path: str
    module: nn.Module
    given: object
    output: object
    version: int
    grid: int
    first: tuple[bool | None, bool | None]

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
    orders: dict[torch.Size, bool] = field(default_factory=dict)
    logits: Tensor | None = None

    def keep(self, path: str, module: nn.Module, given: tuple[Any, ...], output: object) -> None:
        """Record a finished call; this is a forward hook."""
        if isinstance(module, DROPOUTS) and module.inplace and isinstance(output, Tensor):
            torch.autograd.graph.increment_version(output)  # as it changes its input in training
        grid = self.calls[-1].grid if self.calls else 0
        if isinstance(module, MAPS) and isinstance(output, Tensor) and output.dim() == 4:
            grid = output.shape[2] * output.shape[3]
        version = getattr(output, "_version", 0)
        received = given[0] if given else None
        order = channels_first(module)
        if order is not None:
            tensors = [value for value in (received, output) if isinstance(value, Tensor)]
            self.orders |= {one.shape: order for one in tensors if one.dim() == 3}
        first = self._order(received), self._order(output)
        self.calls.append(_Call(path, module, received, output, version, grid, first))

    def _order(self, value: object) -> bool | None:
        return self.orders.get(value.shape) if isinstance(value, Tensor) else None


def discover(body: nn.Module, inputs: Inputs) -> tuple[Tap, ...]:
    """Return the taps of a model of `inputs`, shallowest first.

    A model without maps and sequences has one tap at most: the last vector before its logits.
    Sequences of whole numbers, which may be padded, are left out unless the model gives a mask. A
    model that does not run on the meta device has no tap.
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
        if tap is None or tap.layout == "vector" or _may_be_padded(seen, tap):
            continue
        channels, *sides = _map_shape(tap, call.output)
        size = sides[0], sides[1]
        if tap.is_sequence and channels == 1:  # a weight for each position, or a signal
            continue
        if tap.is_sequence or size[0] == size[1] or not inputs.are_images:  # images are square
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
            "[B, h, w, C], tokens [B, N, C] of a square grid or a sequence, a sequence [B, C, L] "
            "of 1-D convolutions, or a vector [B, C]"
        )
    if _may_be_padded(seen, tap):
        raise ProtocolError(
            f"{path} returns tokens, which may be padded: give the model a method "
            "token_mask(self, values) that returns bool [B, N], True at real tokens"
        )
    return tap


def _may_be_padded(seen: _Pass, tap: Tap) -> bool:
    """Return whether a sequence has padding that nothing tells from tokens."""
    are_whole = seen.inputs.dtype == torch.int64
    return tap.is_sequence and are_whole and not gives_mask(seen.body, seen.inputs)


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
        if (size := _extent(call.given, call.first[0], seen.inputs)) is not None
        and size == _extent(call.output, call.first[1], seen.inputs)
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


def _extent(value: object, first: bool | None, inputs: Inputs) -> tuple[int, ...] | None:
    """Return the size of a map, or the length of a sequence; None for other values."""
    if not isinstance(value, Tensor) or value.dim() not in (3, 4):
        return None
    if value.dim() == 3:
        return (value.shape[2 if first else 1],)
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
    if output.dim() == 3:
        sequences = Sequences.of(seen.body, seen.inputs, seen.orders)
        return sequences.tap(call.path, output.shape, call.first[1], call.grid)
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


def _map_shape(tap: Tap, output: object) -> tuple[int, int, int]:
    assert isinstance(output, Tensor)
    channels, height, width = tap.as_map(output).shape[1:]
    return channels, height, width


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
