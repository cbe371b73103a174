"""Try out a model that is not of the catalogue on a few examples, before a study trains it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from kd.data.inputs import Inputs
from kd.errors import ProtocolError
from kd.models.build import build
from kd.models.network import Network, same, tap_shapes
from kd.models.own import OUT_OF_MEMORY, _error_at, refusal
from kd.names import parse_model
from kd.own_files import own_line

# a module's name, the module, its output, and the version counter of that tensor at the time
_Returned = tuple[str, nn.Module, object, int]


def try_out(name: str, *, classes: int, inputs: Inputs, taps: Sequence[str], files: Path) -> None:
    """Build the model twice and pass images through it, as training will.

    Raises ProtocolError, in one line, unless its weights depend only on the seed, its forward pass
    draws no random numbers, its outputs are logits [B, classes] and not probabilities, and it has
    all `taps`, each a map [B, C, h, w].
    """
    network, again = (
        build(name, classes=classes, inputs=inputs, stem="cifar", seed=0, files=files)
        for _ in range(2)
    )
    left, right = network.state_dict(), again.state_dict()
    if left.keys() != right.keys() or not all(same(left[key], right[key]) for key in left):
        what = "gets different weights from the same seed; draw only from torch's global generator"
        raise refusal(name, files, what)
    images = torch.zeros(2, *inputs.shape, dtype=inputs.dtype)
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
        tap_shapes(network)
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
        if name not in (last, *(tap.path for tap in network.places.values())):
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
