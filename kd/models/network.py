"""A classifier that returns the feature maps of its stages as well as its logits."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.data.inputs import Inputs
from kd.errors import ArtifactError, ProtocolError

Modules = tuple[nn.Module, ...]


class Route(NamedTuple):
    """The order in which images pass through a body's own modules.

    Modules without state, such as `nn.Flatten`, may be on the route alone; whatever has parameters,
    buffers or a train mode belongs to the body too.
    """

    stem: Modules
    stages: tuple[Modules, ...]  # shallowest first
    head: Modules


Built = tuple[nn.Module, Route]  # a body, and the route through it


class Network(nn.Module):
    """A body of layers and the route through it.

    The body is the one registered submodule, so that the state dict has the names of the library
    that the body comes from, under `body.`. The route is a plain tuple, which `nn.Module` does not
    register: nothing is named twice, and reading a stage needs no hook.
    """

    def __init__(self, name: str, body: nn.Module, route: Route) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.route = route
        # last1 is the deepest stage
        self.taps = tuple(f"last{depth}" for depth in range(1, len(route.stages) + 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W], both float."""
        return self.forward_taps(images, ())[0]

    def forward_taps(self, images: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits [B, classes] and, for each of `taps`, the output [B, C, h, w] of its stage.

        Raises ProtocolError for a tap that the network has not.
        """
        for tap in taps:
            if tap not in self.taps:
                raise ProtocolError(
                    f"{self.name} has no tap {tap!r}; take --taps {','.join(self.taps)}"
                )
        outputs = []
        flow = _walk(self.route.stem, images)
        for stage in self.route.stages:
            flow = _walk(stage, flow)
            outputs.append(flow)
        by_tap = dict(zip(self.taps, reversed(outputs), strict=True))
        return _walk(self.route.head, flow), {tap: by_tap[tap] for tap in taps}


def _walk(modules: Modules, flow: Tensor) -> Tensor:
    for module in modules:
        flow = module(flow)
    return flow


def export_state(network: Network) -> dict[str, Tensor]:
    """Return the state dict under the names of the body's own library, ready for safetensors.

    Tensors are contiguous, on the CPU, and of one memory each, which may be the network's. One that
    stands under several names (tied weights) is under the first alone; see `twins`.
    """
    state = network.body.state_dict()
    second, seen, found = twins(state), set[int](), {}
    for name, value in state.items():
        if name not in second:
            plain = value.cpu().contiguous()
            memory = plain.untyped_storage().data_ptr()
            found[name] = plain.clone() if memory in seen else plain
            seen.add(memory)
    return found


def twins(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of a state dict whose tensor an earlier name has too: name -> that name."""
    first: dict[object, str] = {}
    found = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.data_ptr() and key in first:  # 0 is the address of none, or of shapes alone
            found[name] = first[key]
        first.setdefault(key, name)
    return found


def load_state(module: nn.Module, given: Mapping[str, Tensor], source: str, model: str) -> None:
    """Load a whole state dict, which `source` holds, into a module of the model `model`.

    Raises ArtifactError when it does not fit, or when the module does not have it then, as where
    two names have one tensor, and other values.
    """
    try:
        module.load_state_dict(given)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{source} does not fit {model}: {reason}") from None
    for name, value in module.state_dict().items():
        if not same(value, given[name].to(value)):
            raise ArtifactError(
                f"{source} does not fit {model}: {name} shares its memory with another tensor, and "
                "the file has other values for the two"
            )


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same shape and values; NaN is itself here."""
    return left.shape == right.shape and bool(((left == right) | (left != left)).all())


def rehearse(network: Network, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Pass one example through the network without arithmetic.

    Returns logits and every tap on the meta device: shapes alone. The network itself is not
    touched. Raises ProtocolError when the network cannot take such an image: too small for its
    pooling layers, or of another number of channels.
    """
    twin = _meta_twin(network).eval()
    try:
        with torch.no_grad():
            return twin.forward_taps(inputs.zeros(1, "meta"), twin.taps)
    except RuntimeError as error:
        raise ProtocolError(
            f"{inputs} do not fit {network.name}; take larger ones or another model "
            f"({str(error).splitlines()[0]})"
        ) from None


def tap_shapes(network: Network, inputs: Inputs) -> dict[str, tuple[int, int, int]]:
    """Return (channels, height, width) of every tap's output.

    Raises ProtocolError when the images do not fit the network; see `rehearse`.
    """
    _, outputs = rehearse(network, inputs)
    shapes = {}
    for tap, output in outputs.items():
        _, depth, height, width = output.shape
        shapes[tap] = (depth, height, width)
    return shapes


def _meta_twin(network: Network) -> Network:
    """Copy the network's structure; its tensors become shapes, so that no weight is copied."""
    tensors = [*network.parameters(), *network.buffers()]
    memo = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    return copy.deepcopy(network, memo)
