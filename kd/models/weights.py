"""Load the initial weights of a network: from a safetensors file, or ImageNet weights."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kd.errors import ArtifactError, ProtocolError, one_line
from kd.models import families
from kd.models.network import Network, load_state, tied_names
from kd.names import ModelName

_HEADS = ("fc.", "classifier.")  # torchvision's names for what ends in the classes


def load_file(network: Network, path: Path) -> None:
    """Load a state dict of the same model, whose names may have the prefix `body.` of a `Network`.

    Raises ArtifactError when the file cannot be read, or for the first tensor that is missing, has
    another shape, or is not in the network.
    """
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors: {one_line(error)}") from None
    own = network.body.state_dict()  # in which a child may be named body too
    given = {n if n in own else n.removeprefix("body."): value for n, value in state.items()}
    _load(network, given, str(path))


def load_imagenet(network: Network, model: ModelName) -> None:
    """Load a library's ImageNet weights into a model with any stem, channels and classes.

    A head of another shape than for ImageNet's 1000 classes keeps its initial weights, and the
    first kernel is resized (`fit_kernel`). Every other tensor must exist with the same shape.
    Raises ProtocolError for a model without such weights, DataError if they cannot be downloaded.
    """
    if not model.pretrained:
        raise ProtocolError(
            f"there are no ImageNet weights for {network.name}; use --teacher-weights none"
        )
    own, given = network.body.state_dict(), families.load(model).pretrained(model.base)
    first = _first_kernel(network)
    given[first] = fit_kernel(given[first], channels=own[first].shape[1], size=own[first].shape[-1])
    # weights saved before PyTorch 0.4.1 lack a counter that batch norm with a momentum never reads
    fresh = {
        name: value
        for name, value in own.items()
        if name.startswith(_HEADS) or name.endswith("num_batches_tracked")
    }
    fitting = {
        name: value
        for name, value in given.items()
        if not name.startswith(_HEADS) or (name in own and own[name].shape == value.shape)
    }
    _load(network, {**fresh, **fitting}, f"the ImageNet weights of {model.base}")


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
    return f"{next(convs)}.weight"


def _load(network: Network, given: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict, which may have any one of the names of tied weights."""
    own = network.body.state_dict()
    tied = tied_names(own).items()
    given = {first: given[name] for name, first in tied if name in given} | dict(given)
    given = {name: given[first] for name, first in tied if first in given} | given
    hint = "it is of another model, stem, number of classes or of channels"
    for name, value in own.items():
        if name not in given:
            raise ArtifactError(f"{source} has no {name}, which {network.name} needs; {hint}")
        needed, shape = tuple(value.shape), tuple(given[name].shape)
        if needed != shape:
            raise ArtifactError(
                f"{source} has {name} of shape {shape}, {network.name} needs {needed}; {hint}"
            )
        if not _alike(given[name].dtype, value.dtype) or not given[name].isfinite().all():
            raise ArtifactError(f"{source} has {name} that is not of finite {value.dtype}; {hint}")
    for name in given:
        if name not in own:
            raise ArtifactError(f"{source} has {name}, which {network.name} lacks; {hint}")
    load_state(network.body, given, source, network.name)


def _alike(given: torch.dtype, needed: torch.dtype) -> bool:
    """Return whether dtypes are compatible: both floats of any of these widths, or equal."""
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return given == needed or (given in floats and needed in floats)
