"""A classifier that returns feature maps as well as its logits."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kd.data.inputs import Inputs
from kd.errors import ArtifactError, ProtocolError
from kd.models.taps import tap_hook

Traced = Callable[[Tensor, dict[str, Tensor], Sequence[str]], tuple[Tensor, dict[str, Tensor]]]


class Network(nn.Module):
    """A classifier (`body`), its name, and the modules whose outputs are its taps.

    `body` is the only registered submodule, so that the state dict has the names that the model
    has in its own library, under `body.`.
    """

    def __init__(self, name: str, body: nn.Module, paths: Sequence[str]) -> None:
        """`paths` are the taps' module paths in `body`, shallowest first."""
        super().__init__()
        self.name = name
        self.body = body
        self.paths = {f"last{depth}": path for depth, path in enumerate(reversed(paths), start=1)}
        self.taps = tuple(self.paths)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W], both float."""
        logits: Tensor = self.body(images)
        return logits

    def forward_taps(
        self, images: Tensor, taps: Sequence[str], compiled: Traced | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits [B, classes] and the output [B, C, h, w] of each of `taps`.

        `compiled` is a compiled `traced`. Raises ProtocolError for a tap that the network lacks,
        or whose module runs twice.
        """
        kept: dict[str, Tensor] = {}
        hooks = []
        try:
            for tap in taps:
                if tap not in self.paths:
                    raise ProtocolError(
                        f"{self.name} has no tap {tap!r}; use --taps {','.join(self.taps)}"
                    )
                path = self.paths[tap]
                hook = tap_hook(kept, tap, f"{self.name}: {path}")
                hooks.append(self.body.get_submodule(path).register_forward_hook(hook))
            return (compiled or self.traced)(images, kept, taps)
        finally:
            for handle in hooks:
                handle.remove()

    def traced(
        self, images: Tensor, kept: dict[str, Tensor], taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits and the outputs of `taps`, which hooks store in `kept` during the pass.

        This function is compiled as one graph. `kept` is an argument because the hooks, which are
        registered anew at each step, write to it.
        """
        logits: Tensor = self.body(images)
        return logits, {tap: kept[tap] for tap in taps}


def export_state(network: Network) -> dict[str, Tensor]:
    """Return the state dict under the names of the model's own library, ready for safetensors.

    Tensors are contiguous, on the CPU, and share no memory with each other, but may share the
    network's. Tied weights appear only under their first name; see `tied_names`.
    """
    state = network.body.state_dict()
    second, seen, exported = tied_names(state), set[int](), {}
    for name, value in state.items():
        if name not in second:
            plain = value.cpu().contiguous()
            memory = plain.untyped_storage().data_ptr()
            exported[name] = plain.clone() if memory in seen else plain
            seen.add(memory)
    return exported


def tied_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names in a state dict that repeat an earlier name's tensor, with that name."""
    first: dict[object, str] = {}
    repeated = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.data_ptr() and key in first:  # 0 for empty tensors, and on the meta device
            repeated[name] = first[key]
        first.setdefault(key, name)
    return repeated


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str, model: str) -> None:
    """Load a complete state dict; `source` and `model` name its file and the model in errors.

    Raises ArtifactError when it does not fit, or has different values for names that share a tensor
    in the module.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{source} does not fit {model}: {reason}") from None
    for name, value in module.state_dict().items():
        if not same(value, state[name].to(value)):
            raise ArtifactError(
                f"{source} does not fit {model}: {name} shares its memory with another tensor, and "
                "the file has different values for the two"
            )


def same(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors have the same shape and values; NaN equals NaN."""
    return left.shape == right.shape and bool(((left == right) | (left != left)).all())


def run_on_meta(network: Network, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Pass one example through a copy of the network on the meta device, without arithmetic.

    Returns logits and every tap, which have shapes but no values. Raises ProtocolError when the
    network does not accept such an image: it is too small for the pooling layers, or has another
    number of channels.
    """
    twin = _meta_twin(network).eval()
    try:
        with torch.no_grad():
            return twin.forward_taps(inputs.zeros(1, "meta"), twin.taps)
    except RuntimeError as error:
        raise ProtocolError(
            f"{inputs} do not fit {network.name}; use larger ones or another model "
            f"({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from None


def tap_shapes(network: Network, inputs: Inputs) -> dict[str, tuple[int, int, int]]:
    """Return (channels, height, width) of every tap's output.

    Raises ProtocolError when the images do not fit the network; see `run_on_meta`.
    """
    _, outputs = run_on_meta(network, inputs)
    shapes = {}
    for tap, output in outputs.items():
        _, depth, height, width = output.shape
        shapes[tap] = (depth, height, width)
    return shapes


def _meta_twin(network: Network) -> Network:
    """Return a copy of the network on the meta device, without copying weights."""
    tensors = [*network.parameters(), *network.buffers()]
    memo = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    return copy.deepcopy(network, memo)
