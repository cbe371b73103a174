"""A classifier of stored examples, which returns feature maps as well as its logits."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kd.data.inputs import Inputs
from kd.errors import ArtifactError, ProtocolError
from kd.models.taps import Tap, masked, tap_hook

M = TypeVar("M", bound=nn.Module)
Traced = Callable[[Tensor, dict[str, Tensor], Sequence[str]], tuple[Tensor, dict[str, Tensor]]]


class Network(nn.Module):
    """A classifier (`body`), its name, its taps, and `inputs`, which prepare what it receives.

    It takes a batch as it is stored, such as uint8 images, and normalises it. `body` is the only
    registered submodule, so that the state dict has the names that the model has in its own
    library, under `body.`.
    """

    def __init__(self, name: str, body: nn.Module, taps: Sequence[Tap], inputs: Inputs) -> None:
        """`taps` are where features are read, shallowest first."""
        super().__init__()
        self.name = name
        self.body = body
        self.places = {f"last{depth}": tap for depth, tap in enumerate(reversed(taps), start=1)}
        self.inputs = inputs
        self.loaded = ""  # what of given weights was loaded, in words

    @property
    def taps(self) -> tuple[str, ...]:
        """The names of the taps; `last1` is the deepest."""
        return tuple(self.places)

    def forward(self, values: Tensor) -> Tensor:
        """Return logits [B, classes] float of a stored batch [B, ...]."""
        return logits_of(self.body(self.inputs.normalise(values)))

    def forward_taps(
        self, values: Tensor, taps: Sequence[str], compiled: Traced | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits [B, classes] and the output of each of `taps` as a map [B, C, h, w].

        Sequences are 0 at the padding of the model's mask, if it gives one. `compiled` is a
        compiled `traced`. Raises ProtocolError for a tap that the network lacks, or whose module
        runs twice, and for a mask of another form.
        """
        for tap in taps:
            if tap not in self.places:
                raise ProtocolError(
                    f"{self.name} has no tap {tap!r}; use --taps {','.join(self.taps)}"
                )
        normalised = self.inputs.normalise(values)
        padded = [tap for tap in taps if self.is_masked(tap)]
        # before the pass, in which layers may write into their input, and without hooks, since the
        # model may call a layer for its mask
        mask = self._token_mask(normalised) if padded else None
        kept: dict[str, Tensor] = {}
        hooks = []
        try:
            for tap in taps:
                place = self.places[tap]
                hook = tap_hook(kept, tap, place, f"{self.name}: {place.path}")
                hooks.append(self.body.get_submodule(place.path).register_forward_hook(hook))
            logits, maps = (compiled or self.traced)(normalised, kept, taps)
        finally:
            for handle in hooks:
                handle.remove()
        if mask is None:
            return logits, maps
        return logits, maps | {
            tap: masked(maps[tap], mask, self.places[tap].prefix) for tap in padded
        }

    def is_masked(self, tap: str) -> bool:
        """Return whether the map of a tap is 0 where the input is padding."""
        return self.places[tap].is_sequence and gives_mask(self.body, self.inputs)

    def _token_mask(self, normalised: Tensor) -> Tensor:
        """Return the mask [B, N] bool that the model gives for what its layers receive.

        Raises ProtocolError unless N is a length of the inputs.
        """
        mask: object = self.body.token_mask(normalised)  # type: ignore[operator]
        shapes = [(len(normalised), length) for length in dict.fromkeys(self.inputs.shape)]
        if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape in shapes:
            return mask
        wanted = " or ".join(f"[B, {length}]" for _, length in shapes)
        kind = type(mask).__name__
        what = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else kind
        raise ProtocolError(
            f"a model must return torch.bool {wanted} from token_mask, True at real tokens; got "
            f"{what} for B = {len(normalised)}"
        )

    def traced(
        self, normalised: Tensor, kept: dict[str, Tensor], taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits and the outputs of `taps`, which hooks store in `kept` during the pass.

        This function is what is compiled. `kept` is an argument because the hooks, which are
        registered anew at each step, write to it.
        """
        logits = logits_of(self.body(normalised))
        return logits, {tap: kept[tap] for tap in taps}


def gives_mask(body: nn.Module, inputs: Inputs) -> bool:
    """Return whether a model of arrays has `token_mask(values)`, which tells tokens from padding.

    It receives what the model's layers do, and returns [B, N] bool, True at real tokens.
    """
    return not inputs.are_images and callable(getattr(body, "token_mask", None))


def logits_of(output: object) -> Tensor:
    """Return the logits in a model's output: itself, its first entry, or its `logits`.

    Raises ProtocolError for an output of another form.
    """
    found: object = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list) and output:
        found = output[0]
    if isinstance(found, Tensor):
        return found
    kind = type(output).__name__
    if isinstance(output, Mapping):
        kind += f" with the keys {', '.join(map(str, output))}"
    raise ProtocolError(
        "a model must return logits, a tuple or list whose first entry they are, or an object or "
        f"dict with logits; got {kind}"
    )


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
    versioned = module.state_dict()  # some layers require their versions, which files lack
    given = OrderedDict(state)
    given._metadata = versioned._metadata  # type: ignore[attr-defined]
    try:
        module.load_state_dict(given)
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


def run_on_meta(network: Network) -> tuple[Tensor, dict[str, Tensor]]:
    """Pass one example through a copy of the network on the meta device, without arithmetic.

    Returns logits and every tap, which have shapes but no values. Raises ProtocolError when the
    network does not accept such an image: it is too small for the pooling layers, or has another
    number of channels.
    """
    twin, inputs = meta_twin(network).eval(), network.inputs
    try:
        with torch.no_grad():
            values = torch.zeros(1, *inputs.shape, dtype=inputs.dtype, device="meta")
            return twin.forward_taps(values, twin.taps)
    except RuntimeError as error:
        raise ProtocolError(
            f"{inputs} do not fit {network.name}; use larger ones or another model "
            f"({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from None


def tap_shapes(network: Network) -> dict[str, tuple[int, int, int]]:
    """Return (channels, height, width) of every tap's output.

    Raises ProtocolError when the images do not fit the network; see `run_on_meta`.
    """
    _, outputs = run_on_meta(network)
    shapes = {}
    for tap, output in outputs.items():
        _, depth, height, width = output.shape
        shapes[tap] = (depth, height, width)
    return shapes


def meta_twin(module: M) -> M:
    """Return a copy of a module on the meta device, without copying weights."""
    tensors = [*module.parameters(), *module.buffers()]
    memo = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    return copy.deepcopy(module, memo)
