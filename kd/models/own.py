"""Models from the user's own Python file: a function that returns a module.

    def small(classes, channels):
        return Small(classes, channels)

A function with a parameter `size` also gets the side of the images. Layers keep the initialisation
of their classes. The constant `TAPS` of the file may name the modules whose outputs are read, the
deepest first; otherwise they are found (see `kd.models.discovery`). A module for arrays may have a
method `token_mask`, which tells tokens from padding (see `kd.models.network.gives_mask`).

A file is identified by its content: a changed file is another model (see `kd.own_files`).
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd.data.inputs import Inputs
from kd.errors import ProtocolError, one_line
from kd.names import ModelName, parse_model
from kd.own_files import find_kept, load_kept, own_error

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)  # not reported as errors of the model


def make_own(
    model: ModelName, *, classes: int, inputs: Inputs, seed: int, files: Path
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module that the user's function returns, with torch seeded by `seed`, and the
    paths in the constant `TAPS` of the file, the deepest first.

    `files` is the folder with copies of the user's files. Raises ArtifactError when the model's
    copy is missing or changed; ProtocolError, in one line, for a file that does not import or
    lacks the function, and for a function that fails or does not return a module.
    """
    function = check_own(model, files)
    settings = own_settings(function, classes, inputs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs too
        try:
            body = function(**settings)
        except OUT_OF_MEMORY:
            raise
        except (Exception, SystemExit) as error:
            raise _error_at(model, function, "fails", error) from error
    if not isinstance(body, nn.Module):
        what = f"must return an nn.Module, got {type(body).__name__}"
        raise _error_at(model, function, what)
    _check_state(model, function, body)
    taps = getattr(load_kept(files, model.file, model.digest), "TAPS", ())
    return body, tuple(taps)


def check_own(model: ModelName, files: Path) -> Callable[..., Any]:
    """Return the model's function. Raises ProtocolError unless its file imports and has it, and it
    takes what `own_settings` returns.
    """
    function = _find(model, files)
    signature = inspect.signature(function)
    names = ("classes", "channels", *(["size"] if "size" in signature.parameters else []))
    try:
        signature.bind(**dict.fromkeys(names, 1))
    except TypeError as error:
        raise _error_at(model, function, f"must take classes and channels: {error}") from None
    return function


def own_settings(function: Callable[..., Any], classes: int, inputs: Inputs) -> dict[str, int]:
    """Return the arguments of a user's function: `size` only if it takes one."""
    sized = "size" in inspect.signature(function).parameters
    settings = {"classes": classes, "channels": inputs.channels}
    return settings | ({"size": inputs.shape[-1]} if sized else {})


def refusal(name: str, files: Path, what: str, error: BaseException | None = None) -> ProtocolError:
    """Return the one-line error for an unusable model; `what` is the predicate of the sentence.

    For a model of the user's own it names the line that raised `error`, or that of the model's
    function.
    """
    model = parse_model(name)
    if model.digest:
        return _error_at(model, _find(model, files), what, error)
    reason = f": {one_line(error)}" if error else ""
    return ProtocolError(f"{name} {what}{reason}; use another model")


def _error_at(
    model: ModelName, thing: Callable[..., Any], what: str, error: BaseException | None = None
) -> ProtocolError:
    """Do as `refusal`; `thing` is the function or class whose line is named."""
    return own_error(model.base, thing, what, error)


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


def _find(model: ModelName, files: Path) -> Callable[..., Any]:
    """Return the model's function, from the file as first imported in this process."""
    return find_kept(files, model.file, model.digest, model.function)
