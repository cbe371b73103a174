"""Try out a model that is not of the catalogue on a few examples, before a study trains it."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from kd.errors import ProtocolError, RetortError
from kd.models.network import Network, meta_twin, same
from kd.models.own import OUT_OF_MEMORY, refusal


def try_shapes(name: str, make: Callable[[], Network], *, classes: int, files: Path) -> Network:
    """Build the model and pass an example through it on the meta device, without arithmetic.

    So no convolution is computed before its kernels are tested. Raises ProtocolError, in one line,
    for a model that cannot be built, does not run, or does not return logits [B, classes]. `files`
    is the folder with copies of the user's files.
    """
    with refusing(name, files, "cannot be built"):
        network = make()
    with refusing(name, files, f"does not accept {network.inputs}"):
        logits = _logits_on_meta(network, files)
    _check_shape(name, files, logits, (1, classes))
    return network


def try_out(
    name: str, make: Callable[[], Network], values: Tensor, *, classes: int, files: Path
) -> None:
    """Build the model twice and pass a few stored examples, `values`, through it as training will.

    Raises ProtocolError, in one line, unless its weights depend only on the seed, its evaluation
    draws no random numbers and its training draws them from torch alone, it returns logits
    [B, classes] and not probabilities, and no layer changes the output of a tap in place. `files`
    is the folder with copies of the user's files.
    """
    with refusing(name, files, "cannot be built"):
        network, again = make(), make()
    left, right = network.state_dict(), again.state_dict()
    strange = [key for key, value in left.items() if not isinstance(value, Tensor)]
    if strange:
        raise refusal(name, files, f"has {strange[0]}, which is no tensor, in its state dict")
    if left.keys() != right.keys() or not all(same(left[key], right[key]) for key in left):
        what = "gets different weights from the same seed; draw only from torch's global generator"
        raise refusal(name, files, what)
    for training in (False, True):
        logits = _pass(network.train(training), values, files)
        _check_shape(name, files, logits, (len(values), classes))
        _check_logits(name, files, logits.detach())
    with refusing(name, files, "does not run on the device meta, which counts its operations"):
        _logits_on_meta(network, files)


@contextmanager
def refusing(name: str, files: Path, what: str) -> Iterator[None]:
    """Turn any exception of the block but a lack of memory into the one-line error of a model."""
    try:
        yield
    except (*OUT_OF_MEMORY, OSError, RetortError):
        raise
    except (Exception, SystemExit) as error:
        raise refusal(name, files, what, error) from error


def _pass(network: Network, values: Tensor, files: Path) -> Tensor:
    """Return the logits of the examples, in the network's mode.

    Raises ProtocolError for any exception of the model, and for what a run cannot repeat.
    """
    name = network.name
    kept: dict[str, tuple[Tensor, int]] = {}
    hooks = [
        network.body.get_submodule(place.path).register_forward_hook(_keeper(kept, place.path))
        for place in network.places.values()
    ]
    others = random.getstate(), numpy.random.get_state()
    try:
        with (
            torch.random.fork_rng(devices=[]),
            refusing(name, files, f"does not accept {network.inputs}, {len(values)} at once"),
        ):
            before = torch.get_rng_state()
            logits, _ = _refused_by_line(network, values, files)
            draws = not torch.equal(before, torch.get_rng_state())
    finally:
        for hook in hooks:
            hook.remove()
    if draws and not network.training:
        what = "draws random numbers in evaluation, as dropout does; draw them only while "
        raise refusal(name, files, f"{what}self.training, because evaluation must be repeatable")
    if not _same_state(others, (random.getstate(), numpy.random.get_state())):
        what = "draws random numbers from Python's random or NumPy; draw them from torch, whose "
        raise refusal(name, files, f"{what}generator a resumed run restores")
    for path, (output, version) in kept.items():
        if output._version != version:
            what = f"changes the output of {path} in place in a later layer; remove its "
            raise refusal(name, files, f"{what}inplace=True, or name another module in TAPS")
    return logits


@torch.no_grad()
def _logits_on_meta(network: Network, files: Path) -> Tensor:
    """Return the logits of one example on the meta device. Raises what the model raises."""
    twin, inputs = meta_twin(network).eval(), network.inputs
    values = torch.zeros(1, *inputs.shape, dtype=inputs.dtype, device="meta")
    logits, _ = _refused_by_line(twin, values, files)
    return logits


def _refused_by_line(
    network: Network, values: Tensor, files: Path
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits and taps; what the network refuses gets the model's file and line."""
    try:
        return network.forward_taps(values, network.taps)
    except ProtocolError as error:
        text = str(error).removeprefix("a model ").removeprefix(f"{network.name}: ")
        raise refusal(network.name, files, text) from error


def _keeper(
    kept: dict[str, tuple[Tensor, int]], path: str
) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(module: nn.Module, given: Any, output: Tensor) -> None:
        kept[path] = output, output._version

    return keep


def _same_state(left: Any, right: Any) -> bool:
    (python, drawn), (python_after, drawn_after) = left, right
    return bool(python == python_after) and all(
        numpy.array_equal(one, other) for one, other in zip(drawn, drawn_after, strict=True)
    )


def _check_shape(name: str, files: Path, logits: Tensor, wanted: tuple[int, int]) -> None:
    if logits.shape != wanted:
        count, classes = wanted
        tried = f"B = {count} and {classes} classes"
        what = f"must return logits [B, {classes}], got {list(logits.shape)} for {tried}"
        raise refusal(name, files, what)


def _check_logits(name: str, files: Path, logits: Tensor) -> None:
    """Raise ProtocolError for rows that are probabilities, or their logarithms."""
    for layer, shares in (("Softmax", logits), ("LogSoftmax", logits.exp())):
        sums = shares.sum(1)
        if bool((shares >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            what = f"must return logits, got probabilities; remove the {layer}"
            raise refusal(name, files, what)
