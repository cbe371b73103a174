"""Models of the user's own: a Python file with a function that returns the layers.

    def small(classes, channels):
        return nn.Sequential(OrderedDict(stage1=…, stage2=…, pool=…, flatten=…, fc=…))

The children whose names begin with `stage` are those whose outputs are read, the last one as
`last1`. What comes before a stage belongs to it, what follows the last one is the head. The layers
keep the initialisation that their classes give them.

A file is named by its content: what has changed has another name, and is another model.
"""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from kd.catalogue import DIGEST_LENGTH, ModelName, check_name, parse_model
from kd.errors import ArtifactError, ProtocolError
from kd.network import Modules, Network, Route, tap_shapes


def build_own(name: str, *, classes: int, channels: int, seed: int, files: Path) -> Network:
    """Call the function that `name` means, with torch's own random numbers begun at `seed`.

    `files` is the folder that holds the file under the name `ModelName.file`. Raises ArtifactError
    when it is not there or was changed; ProtocolError, in one line, for a file that does not
    import, lacks the function, or whose function fails or returns something else.
    """
    model = parse_model(name)
    function = _find(model, files / model.file)
    try:
        inspect.signature(function).bind(classes=classes, channels=channels)
    except TypeError as error:
        raise ProtocolError(f"{model.base} must take classes and channels: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs too
        try:
            body = function(classes=classes, channels=channels)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [one.lineno for one in frames if one.filename == str(files / model.file)]
            where = f" in line {lines[-1]}" if lines else ""
            raise ProtocolError(f"{model.base} fails{where}: {_reason(error)}") from error
    if type(body) is not nn.Sequential:
        raise ProtocolError(f"{model.base} must return an nn.Sequential, got {type(body).__name__}")
    return Network(name, body, _route(model, body))


def try_out(
    name: str, *, classes: int, channels: int, image_size: int, taps: Sequence[str], files: Path
) -> None:
    """Build the model twice and pass images through it, as training will.

    Raises ProtocolError, in one line, unless its weights follow from the seed, training draws no
    random numbers, its logits are [B, classes] and no probabilities, and it has all `taps`, each a
    map [B, C, h, w].
    """
    model = parse_model(name)
    network, again = (
        build_own(name, classes=classes, channels=channels, seed=0, files=files) for _ in range(2)
    )
    left, right = network.state_dict(), again.state_dict()
    if not all(torch.equal(left[key], right[key]) for key in left):
        raise ProtocolError(
            f"{model.base} makes other weights from the same seed; let it draw from torch's global "
            "generator alone"
        )
    images = torch.zeros(2, channels, image_size, image_size)
    try:
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            logits, outputs = network.forward_taps(images, taps)
            draws = not torch.equal(before, torch.get_rng_state())
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise ProtocolError(
            f"{model.base} does not take images {list(images.shape)}: {_reason(error)}"
        ) from error
    if draws:
        raise ProtocolError(
            f"{model.base} draws random numbers in training, as dropout does; a run depends on its "
            "seeds alone: leave that layer out"
        )
    if list(logits.shape) != [2, classes]:
        raise ProtocolError(
            f"{model.base} must return logits [B, {classes}], got {list(logits.shape)} for B = 2"
        )
    _check_logits(model, logits.detach())
    for tap, output in outputs.items():
        if output.dim() != 4:
            raise ProtocolError(
                f"{model.base}: tap {tap} must be a map [B, C, h, w], got {list(output.shape)}"
            )
    tap_shapes(network, channels, image_size)


def _check_logits(model: ModelName, logits: torch.Tensor) -> None:
    """Raise ProtocolError for rows that are probabilities, or their logarithms."""
    for layer, shares in (("Softmax", logits), ("LogSoftmax", logits.exp())):
        sums = shares.sum(1)
        if bool((shares >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            raise ProtocolError(
                f"{model.base} returns probabilities; leave the {layer} out, logits are asked for"
            )


def _find(model: ModelName, path: Path) -> Callable[..., Any]:
    """Return the function, from the file as it was first run in this process."""
    key = f"retort_model_{model.digest}"
    if key not in sys.modules:
        _import(model, path, key)
    found = vars(sys.modules[key])
    known = [
        name
        for name, value in found.items()
        if callable(value) and getattr(value, "__module__", "") == key
    ]
    check_name(f"function of {model.base.partition(':')[0]}", model.function, known)
    function: Callable[..., Any] = found[model.function]
    return function


def _import(model: ModelName, path: Path, key: str) -> None:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}, the copy of a model's file, cannot be read ({error.strerror}); name "
            f"{model.base} again with the flag that named it first, and it is copied anew"
        ) from None
    if hashlib.sha256(source).hexdigest()[:DIGEST_LENGTH] != model.digest:
        raise ArtifactError(
            f"{path} has changed; delete it, and name {model.base} again with the flag that named "
            "it first"
        )
    module = ModuleType(key)
    module.__file__ = str(path)
    sys.modules[key] = module  # what looks up a class by its module finds it
    try:
        exec(compile(source, path, "exec"), vars(module))  # these bytes, and no compiled file
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        file = model.base.partition(":")[0]
        raise ProtocolError(f"{file} does not import: {_reason(error)}") from error


def _route(model: ModelName, body: nn.Sequential) -> Route:
    """Divide the children at the stages; one that stands twice is walked through twice."""
    stages: list[Modules] = []
    waiting: Modules = ()
    for name, child in body.named_modules(remove_duplicate=False):
        if not name or "." in name:
            continue
        waiting = (*waiting, child)
        if name.startswith("stage"):
            stages.append(waiting)
            waiting = ()
    if not stages:
        raise ProtocolError(
            f"{model.base} must name the children whose outputs are read stage1, stage2, …, got "
            f"{', '.join(name for name, _ in body.named_children()) or 'none'}"
        )
    return Route((), tuple(stages), waiting)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
