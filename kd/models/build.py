"""Build a teacher or student from its name: `build("resnet20", …)` returns a `Network`.

The layers come from a family (`kd.models.families`) or the user's own file (`kd.models.own`);
`kd.models.network` defines `Network`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from kd.data.inputs import Inputs
from kd.errors import ProtocolError, require
from kd.models import families, libraries
from kd.models.discovery import discover, tap_at
from kd.models.network import Network, export_state, tap_shapes
from kd.models.own import check_own, make_own
from kd.models.taps import Tap
from kd.models.weights import load_file, load_pretrained
from kd.names import STEMS, ModelName, parse_model, parse_weights
from kd.registry import check_name

__all__ = ["Network", "build", "export_state", "initialise", "tap_shapes"]


def build(
    name: str,
    *,
    classes: int,
    inputs: Inputs,
    stem: str,
    weights: str = "none",
    new_head: bool = True,
    seed: int,
    taps: Sequence[str] = (),
    files: str | Path = ".",
) -> Network:
    """Return the model `name` for stored batches of `inputs`, in train mode, on the CPU.

    `stem` is `cifar` or `imagenet`; families with a fixed stem ignore it. `weights` is `none`
    (initialised from `seed`), `pretrained`, or a file of the same model; `network.loaded` has what
    was loaded, in words. A head for other classes is left as it was initialised, or refused without
    `new_head`. Under `with torch.device("meta")` the network has only shapes, and `weights` must be
    none. `taps` are module paths at which features are read, the deepest first; without them, the
    model's own. `files` is the folder with copies of the user's files. The global random state is
    neither read nor changed.

    Raises ProtocolError for an unknown name or stem, or a model without ImageNet weights; DataError
    when those cannot be downloaded; ArtifactError when a weights file does not fit the model, or
    the copy of the user's file is missing from `files`.
    """
    model = parse_model(name)
    check_name("stem", stem, STEMS)
    require("classes must be at least 2", classes >= 2, classes)
    require("channels must be at least 1", inputs.channels >= 1, inputs.channels)
    file = parse_weights(weights)
    if model.in_catalogue:
        device = "meta" if torch.get_default_device().type == "meta" else "cpu"
        with torch.device("meta"):  # skips the libraries' initialisation, which is overwritten
            body, own = families.load(model).build(model, classes, inputs.channels, stem)
        initialise(body.to_empty(device=device), name, seed)
    elif model.library:
        body, own = _make(model, classes, inputs, seed), ()
    else:
        body, own = make_own(model, classes=classes, inputs=inputs, seed=seed, files=Path(files))
    network = Network(name, body, _taps(name, body, taps, own, inputs), inputs)
    if weights == "pretrained":
        network.loaded = str(load_pretrained(network, model, classes=classes, new_head=new_head))
    elif file:
        network.loaded = str(load_file(network, file, classes=classes, new_head=new_head))
    return network


def check_exists(model: ModelName, files: Path) -> None:
    """Raise ProtocolError for a model of a library that lacks it or is not installed, or of a
    user's file that does not import or lacks the function, or whose function takes other arguments.
    """
    if model.digest:
        check_own(model, files)
    elif model.library:
        known = libraries.load(model.library).names()
        check_name(f"model of {model.library}", model.base.partition(".")[0], known)


def _make(model: ModelName, classes: int, inputs: Inputs, seed: int) -> nn.Module:
    """Return a library's model, initialised by the library, with torch seeded by `seed`."""
    require(f"a model of {model.library} takes images", inputs.are_images, str(inputs))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs too
        library = libraries.load(model.library)
        return library.make(model.base, classes, inputs.channels, inputs.shape[-1])


def _taps(
    name: str, body: nn.Module, paths: Sequence[str], own: Sequence[str], inputs: Inputs
) -> tuple[Tap, ...]:
    """Return a model's taps, shallowest first: at `paths`, the deepest first, or its `own`."""
    model = parse_model(name)
    if model.in_catalogue and not paths:
        return tuple(map(Tap, own))
    if not (paths or own):
        return discover(body, inputs)
    try:
        return tuple(tap_at(body, path, inputs) for path in reversed(paths or own))
    except ProtocolError as error:
        raise ProtocolError(f"a tap of {name}: {error}") from None


def initialise(body: nn.Module, name: str, seed: int) -> None:
    """Initialise the model `name` from `seed`, by one rule for all of the catalogue.

    Convolutions: normal, variance 2 / fan-out (He et al. 2015, as in torchvision's ResNets,
    MobileNetV2 and VGGs), biases 0. Linear layers: uniform in ±1/sqrt(inputs), PyTorch's default.
    Batch norm: scale 1, shift 0. Raises TypeError for any other layer with parameters or buffers.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise TypeError(f"{name}: no rule initialises a {type(module).__name__}")
