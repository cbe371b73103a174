"""Load the weights that a network starts from: from a file, or its library's own.

A head for another number of classes than the network's can be left out, so that it keeps its
initial weights; every other tensor must fit. `kd.models.weight_files` reads the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.errors import ArtifactError, ProtocolError
from kd.models import families, libraries
from kd.models.network import Network, load_state, tied_names
from kd.models.weight_files import read_weights
from kd.names import ModelName, WeightsFile

_HEADS = ("fc.", "classifier.")  # torchvision's names for what ends in the classes
_COUNTER = "num_batches_tracked"  # files of before PyTorch 0.4.1 lack it; most models never read it
_PREFIXES = ("module.", "model.", "_orig_mod.", "body.")  # of wrappers: DDP, Lightning, compile
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # that may end in the classes

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was loaded: `count` of a network's `total` tensors, all but those of its `new` head.

    `classes` are the network's; `given` are those of the weights, 0 if they have no head.
    """

    source: str
    count: int
    total: int
    new: tuple[str, ...] = ()
    classes: int = 0
    given: int = 0

    def __str__(self) -> str:
        """Return a line such as `318 of 320 tensors of FILE loaded, fc.weight and fc.bias are new
        (5 classes instead of 1000)`.
        """
        if not self.new:
            return f"all {self.total} tensors of {self.source} loaded"
        return f"{self.count} of {self.total} tensors of {self.source} loaded, {self._head}"

    @property
    def _head(self) -> str:
        *others, last = self.new
        names = f"{', '.join(others)} and {last}" if others else last
        why = f"{self.classes} classes instead of {self.given}" if self.given else "it has no head"
        return f"{names} {'are' if others else 'is'} new ({why})"


def load_file(
    network: Network, file: WeightsFile | Path, *, classes: int = 0, new_head: bool = True
) -> Loaded:
    """Load a file with a state dict of the same model; see `read_weights` for its forms.

    With `classes`, the network's, a head for other classes is replaced if `new_head`, or refused
    with that reason. Raises ArtifactError when the file cannot be read, or for the first tensor
    that is missing, has another shape, or is not in the network.
    """
    given = WeightsFile(str(file)) if isinstance(file, Path) else file
    found = read_weights(given)
    names = _renamed(found.state, network.body.state_dict())
    return _load(network, names, found.source, classes, new_head)


def load_pretrained(
    network: Network, model: ModelName, *, classes: int, new_head: bool = True
) -> Loaded:
    """Load the weights of a network's own library, for any stem, channels and classes.

    The first kernel is fitted to channels and stem (`fit_kernel`). A head for other
    classes is replaced if `new_head`. Raises ProtocolError for a model without such weights,
    DataError if they cannot be downloaded, ArtifactError where they do not fit.
    """
    if not model.pretrained:
        raise ProtocolError(f"there are no ImageNet weights for {network.name}; use none")
    own, inputs = network.body.state_dict(), network.inputs
    if model.library:
        key = model.library, model.base, classes, inputs.channels, inputs.shape[-1]
        given, source = dict(_of_library(*key)), f"{model.library}'s weights of {model.base}"
    else:
        given = families.load(model).pretrained(model.base)
        source = f"the ImageNet weights of {model.base}"
        # the cifar stem of a VGG has a head of other layers
        given = {name: v for name, v in given.items() if name in own or not name.startswith(_HEADS)}
    first = _first_kernel(network)
    if first in given and given[first].shape != own[first].shape:
        channels, size = own[first].shape[1], own[first].shape[-1]
        given[first] = fit_kernel(given[first], channels=channels, size=size)
    return _load(network, given, source, classes, new_head)


@lru_cache(maxsize=2)
def _of_library(library: str, name: str, classes: int, channels: int, size: int) -> State:
    """Return a library's weights of a model, read once in a process: every trial starts there."""
    return libraries.load(library).pretrained(name, classes, channels, size)


def fit_kernel(kernel: Tensor, *, channels: int, size: int) -> Tensor:
    """Return a first kernel [out, C, k, k] for another number of channels and another size.

    Size: each weight of the small kernel is the integral of the large one over the area that it
    covers (a 3x3 kernel divides 7x7 into nine cells of 7/3 x 7/3). This equals applying the large
    kernel to the image enlarged by k / size, at which small images resemble those that the kernel
    was trained on: edge detectors are preserved, and so is the exact response to a flat area. A
    central crop, rescaled or not, preserves neither: a filter whose weights sum to zero gets
    another sum, and of a wide edge only the slope in its middle remains.

    Channels: the sum over the old channels is divided evenly among the new ones, so the response to
    an image with equal channels is unchanged; for grayscale the weight is the sum itself.
    """
    if kernel.shape[1] != channels:
        kernel = (kernel.sum(1, keepdim=True) / channels).repeat(1, channels, 1, 1)
    areas = _overlaps(kernel.shape[-1], size).to(kernel.dtype)
    return torch.einsum("ia,ocab,jb->ocij", areas, kernel, areas)


def _overlaps(old: int, new: int) -> Tensor:
    """Return [new, old]: the overlap of each of `new` equal cells with `old` cells of length 1."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    cells = torch.arange(old, dtype=torch.float64)
    ends = torch.minimum(edges[1:, None], cells + 1)
    return (ends - torch.maximum(edges[:-1, None], cells)).clamp(min=0)


def _first_kernel(network: Network) -> str:
    convs = (name for name, part in network.body.named_modules() if isinstance(part, nn.Conv2d))
    return f"{next(convs, '')}.weight"


def _renamed(given: State, own: State) -> State:
    """Return a state dict without prefixes that a wrapper gave all its names, as many as fit."""
    best, stripped = given, dict(given)
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in stripped)), ""):
        stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}
        if len(stripped.keys() & own.keys()) > len(best.keys() & own.keys()):
            best = stripped
        if not stripped:
            break
    return best


def _load(network: Network, given: State, source: str, classes: int, new_head: bool) -> Loaded:
    """Load a state dict, which may have any one of the names of tied weights."""
    own = network.body.state_dict()
    tied = tied_names(own).items()
    given = {first: given[name] for name, first in tied if name in given} | dict(given)
    given = {name: given[first] for name, first in tied if first in given} | given
    head = _new_head(network.body, own, given, classes)
    uncounted = {name for name in own if name.endswith(_COUNTER) and name not in given}
    count, total = len(own) - len(uncounted) - len(head), len(own) - len(uncounted)
    loaded = Loaded(
        source=source,
        count=count,
        total=total,
        new=tuple(head),
        classes=classes,
        given=next((given[name].shape[0] for name in head if name in given), 0),
    )
    fresh = {name: own[name] for name in (*head, *uncounted)}
    given = {name: value for name, value in given.items() if name not in head}
    _check(own, given, fresh, source, network.name)
    if head and not new_head:
        raise ArtifactError(
            f"{source}: its head does not fit, and without training epochs it would stay random: "
            f"{loaded._head}; use --teacher-epochs 1 or more, or weights for {classes} classes"
        )
    load_state(network.body, {**fresh, **given}, source, network.name)
    return loaded


def _check(own: State, given: State, fresh: State, source: str, model: str) -> None:
    """Raise ArtifactError for the first tensor that does not fit; `fresh` need not be given."""
    hint = "it is of another model, stem, number of classes or of channels"
    for name, value in own.items():
        if name in fresh:
            continue
        if name not in given:
            raise ArtifactError(f"{source} has no {name}, which {model} needs; {hint}")
        needed, shape = tuple(value.shape), tuple(given[name].shape)
        if needed != shape:
            raise ArtifactError(
                f"{source} has {name} of shape {shape}, {model} needs {needed}; {hint}"
            )
        if not _alike(given[name].dtype, value.dtype) or not given[name].isfinite().all():
            raise ArtifactError(f"{source} has {name} that is not of finite {value.dtype}; {hint}")
    for name in given:
        if name not in own:
            raise ArtifactError(f"{source} has {name}, which {model} lacks; {hint}")


def _new_head(body: nn.Module, own: State, given: State, classes: int) -> list[str]:
    """Return the names of the tensors of a head that the weights lack, or have for other classes.

    A head is a layer whose outputs are the classes. Its tensors fit but for their first length,
    which is the same other number in all heads; the last such layer of the module is one of them.
    Where the weights have no head at all, it is the last such layer, with those just before it of
    the same shape. (A hidden layer of as many outputs is never taken for one: with another number
    of outputs, the layer behind it does not fit either, and is refused.)
    """
    layers = [
        [f"{path}.{key}".removeprefix(".") for key in layer.state_dict()]
        for path, layer in body.named_modules()
        if isinstance(layer, _LAYERS) and classes and layer.weight.shape[0] == classes
    ]
    layers = [names for names in layers if all(own[name].shape[0] == classes for name in names)]
    if not layers:
        return []
    sizes = [_outputs(own, given, names) for names in layers]
    last, found = sizes[-1], list[str]()
    if last == 0:
        for names, size in zip(reversed(layers), reversed(sizes), strict=True):
            if size != 0 or own[names[0]].shape != own[layers[-1][0]].shape:
                break
            found = [*names, *found]
    elif last is not None and last != classes:
        found = [
            name for names, n in zip(layers, sizes, strict=True) if n == last for name in names
        ]
    return found


def _outputs(own: State, given: State, names: list[str]) -> int | None:
    """Return how many outputs a layer has in the weights; 0 if it lacks it, None if it differs."""
    if not any(name in given for name in names):
        return 0
    if not all(name in given for name in names):
        return None
    shapes = [tuple(given[name].shape) for name in names]
    outputs = {shape[:1] for shape in shapes}
    rests = all(shape[1:] == own[name].shape[1:] for shape, name in zip(shapes, names, strict=True))
    return shapes[0][0] if rests and len(outputs) == 1 and shapes[0] else None


def _alike(given: torch.dtype, needed: torch.dtype) -> bool:
    """Return whether dtypes are compatible: both floats of any of these widths, or equal."""
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return given == needed or (given in floats and needed in floats)
