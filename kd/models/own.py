"""Models from the user's own Python file: a function that returns an `nn.Sequential`.

    def small(classes, channels):
        return nn.Sequential(OrderedDict(stage1=…, stage2=…, pool=…, flatten=…, fc=…))

The taps are the outputs of the children whose names begin with `stage`; the last one is `last1`.
Layers keep the initialisation of their classes.

A file is identified by its content: a changed file is another model (see `kd.own_files`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd.data.inputs import Inputs
from kd.errors import ProtocolError, one_line
from kd.models.network import Network, same, tap_shapes
from kd.names import ModelName, parse_model
from kd.own_files import load_kept, own_line, own_place
from kd.registry import check_name

# a module's name, the module, its output, and the version counter of that tensor at the time
_Returned = tuple[str, nn.Module, object, int]
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)  # not reported as errors of the model


def build_own(name: str, *, classes: int, channels: int, seed: int, files: Path) -> Network:
    """Return the network that the user's function `name` returns, with torch seeded by `seed`.

    `files` is the folder with copies of the user's files. Raises ArtifactError when the model's
    copy is missing or changed; ProtocolError, in one line, for a file that does not import or
    lacks the function, and for a function that fails or does not return an `nn.Sequential`.
    """
    model = parse_model(name)
    function = _find(model, files)
    try:
        inspect.signature(function).bind(classes=classes, channels=channels)
    except TypeError as error:
        raise _error_at(model, function, f"must take classes and channels: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs too
        try:
            body = function(classes=classes, channels=channels)
        except OUT_OF_MEMORY:
            raise
        except (Exception, SystemExit) as error:
            raise _error_at(model, function, "fails", error) from error
    if type(body) is not nn.Sequential:
        what = f"must return an nn.Sequential, got {type(body).__name__}"
        raise _error_at(model, function, what)
    _check_state(model, function, body)
    return Network(name, body, _stages(model, function, body))


def refusal(name: str, files: Path, what: str, error: BaseException | None = None) -> ProtocolError:
    """Return the one-line error for an unusable model; `what` is the predicate of the sentence.

    It names the line in the user's file that raised `error`, or that of the model's function.
    """
    model = parse_model(name)
    return _error_at(model, _find(model, files), what, error)


def _error_at(
    model: ModelName, thing: Callable[..., Any], what: str, error: BaseException | None = None
) -> ProtocolError:
    """Do as `refusal`; `thing` is the function or class whose line is named."""
    place = own_line(thing) or f"{model.file}, in {getattr(thing, '__name__', model.function)}"
    if error is None:
        return ProtocolError(f"{model.base} {what} ({place})")
    return ProtocolError(
        f"{model.base} {what}: {one_line(error)} ({own_place(error) or place}); correct it there, "
        "and run the same command again"
    )


def _check_state(model: ModelName, function: Callable[..., Any], body: nn.Module) -> None:
    """Raise ProtocolError for state that cannot be stored: not a tensor, or without a shape."""
    for name, module in body.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(nn.parameter.is_lazy(tensor) for tensor in own):
            kind = type(module).__name__
            raise _error_at(
                model,
                function,
                f"has the lazy layer {name}, {kind}, whose shape is unknown before the first "
                f"image; use {kind.replace('Lazy', '')} with its number of inputs",
            )
    for name, value in body.state_dict().items():
        if not isinstance(value, torch.Tensor):
            what = f"has {name}, a {type(value).__name__}, in its state dict; use only tensors"
            raise _error_at(model, function, what)


def try_out(name: str, *, classes: int, inputs: Inputs, taps: Sequence[str], files: Path) -> None:
    """Build the model twice and pass images through it, as training will.

    Raises ProtocolError, in one line, unless its weights depend only on the seed, its forward pass
    draws no random numbers, its outputs are logits [B, classes] and not probabilities, and it has
    all `taps`, each a map [B, C, h, w].
    """
    network, again = (
        build_own(name, classes=classes, channels=inputs.channels, seed=0, files=files)
        for _ in range(2)
    )
    left, right = network.state_dict(), again.state_dict()
    if left.keys() != right.keys() or not all(same(left[key], right[key]) for key in left):
        what = "gets different weights from the same seed; draw only from torch's global generator"
        raise refusal(name, files, what)
    images = inputs.zeros(2)
    for training in (False, True):
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            logits, outputs = _pass(network.train(training), images, taps, files)
            draws = not torch.equal(before, torch.get_rng_state())
        if draws:
            mode = "training" if training else "evaluation"
            what = f"draws random numbers in {mode}, as dropout does; remove that layer, because a"
            raise refusal(name, files, f"{what} run must depend only on its seeds")
    if list(logits.shape) != [2, classes]:
        what = f"must return logits [B, {classes}], got {list(logits.shape)} for B = 2"
        raise refusal(name, files, what)
    _check_logits(name, files, logits.detach())
    for tap, output in outputs.items():
        if output.dim() != 4:
            shape = list(output.shape)
            raise refusal(name, files, f"must return a map [B, C, h, w] at tap {tap}, got {shape}")
    try:
        tap_shapes(network, inputs)
    except OUT_OF_MEMORY:
        raise
    except Exception as error:
        what = "does not run on the device meta, which counts its operations"
        raise refusal(name, files, what, error) from error


def _pass(
    network: Network, images: torch.Tensor, taps: Sequence[str], files: Path
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits and taps of images. Raises ProtocolError for any exception of the model.

    Stages and the last child must each return one tensor that no later layer changes.
    """
    returned: list[_Returned] = []
    with ExitStack() as hooks:
        for name, module in network.body.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                hooks.enter_context(
                    module.register_forward_hook(
                        lambda module, given, output, name=name: returned.append(
                            (name, module, output, getattr(output, "_version", 0))
                        )
                    )
                )
        try:
            outputs = network.forward_taps(images, taps)
        except (*OUT_OF_MEMORY, ProtocolError):
            raise
        except (Exception, SystemExit) as error:
            _check_returned(network, returned, files)
            what = f"does not accept images {list(images.shape)}"
            raise refusal(network.name, files, what, error) from error
    _check_returned(network, returned, files)
    return outputs


def _check_returned(network: Network, returned: Sequence[_Returned], files: Path) -> None:
    """Raise ProtocolError unless stages and the last child return tensors that do not change.

    The error names the line of the user's innermost module that returned something else.
    """
    *_, last = (name for name, _ in network.body.named_children())
    for name, _, output, version in returned:
        if name not in (last, *network.paths.values()):
            continue
        if isinstance(output, torch.Tensor):
            if output._version != version:
                what = f"changes the output of {name} in place in a later layer; move that layer"
                what += f" into {name}, or remove its inplace=True"
                raise refusal(network.name, files, what)
            continue
        kind = type(output).__name__
        if isinstance(output, Mapping):
            kind += f" with the keys {', '.join(map(str, output))}"
        what = f"must return one tensor from its child {name}, got {kind}; return that tensor alone"
        model = parse_model(network.name)
        forwards = [type(module).forward for _, module, other, _ in returned if other is output]
        own = [each for each in forwards if own_line(each)]
        raise _error_at(model, own[0], what) if own else refusal(network.name, files, what)


def _check_logits(name: str, files: Path, logits: torch.Tensor) -> None:
    """Raise ProtocolError for rows that are probabilities, or their logarithms."""
    for layer, shares in (("Softmax", logits), ("LogSoftmax", logits.exp())):
        sums = shares.sum(1)
        if bool((shares >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            what = f"must return logits, got probabilities; remove the {layer}"
            raise refusal(name, files, what)


def _find(model: ModelName, files: Path) -> Callable[..., Any]:
    """Return the model's function, from the file as first imported in this process."""
    module = load_kept(files, model.file, model.digest)
    package = module.__name__.partition(".")[0]
    known = [
        name
        for name, value in vars(module).items()
        if callable(value) and str(getattr(value, "__module__", "")).startswith(f"{package}.")
    ]
    check_name(f"function of {model.file}", model.function, known)
    function: Callable[..., Any] = getattr(module, model.function)
    return function


def _stages(model: ModelName, function: Callable[..., Any], body: nn.Sequential) -> tuple[str, ...]:
    """Return the names of the children that are taps; one module may have several names."""
    every = (name for name, _ in body.named_modules(remove_duplicate=False))
    stages = tuple(name for name in every if name.startswith("stage") and "." not in name)
    if not stages:
        names = ", ".join(name for name, _ in body.named_children()) or "none"
        what = f"must name the children whose outputs are read stage1, stage2, …, got {names}"
        raise _error_at(model, function, what)
    return stages
