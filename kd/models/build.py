"""Build a teacher or student from its name: `build("resnet20", …)` returns a `Network`.

The layers come from a family (`kd.models.families`) or the user's own file (`kd.models.own`);
`kd.models.network` defines `Network`.
"""

from pathlib import Path

import torch
from torch import nn

from kd.data.inputs import Inputs
from kd.errors import require
from kd.models import families
from kd.models.network import Network, export_state, tap_shapes
from kd.models.own import build_own
from kd.models.taps import Tap
from kd.models.weights import load_file, load_imagenet
from kd.names import STEMS, parse_model
from kd.registry import check_name

__all__ = ["Network", "build", "export_state", "initialise", "tap_shapes"]


def build(
    name: str,
    *,
    classes: int,
    inputs: Inputs,
    stem: str,
    weights: str = "none",
    seed: int,
    files: str | Path = ".",
) -> Network:
    """Return the model `name` for stored batches of `inputs`, in train mode, on the CPU.

    `stem` is `cifar` or `imagenet`; families with a fixed stem ignore it. `weights` is `none`
    (initialised from `seed`), `imagenet`, or a .safetensors file of the same model. Under `with
    torch.device("meta")` the network has only shapes, and `weights` must be none. `files` is the
    folder with copies of the user's files. The global random state is neither read nor changed.

    Raises ProtocolError for an unknown name or stem, or a model without ImageNet weights; DataError
    when those cannot be downloaded; ArtifactError when a weights file does not fit the model, or
    the copy of the user's file is missing from `files`.
    """
    model = parse_model(name)
    check_name("stem", stem, STEMS)
    require("classes must be at least 2", classes >= 2, classes)
    require("channels must be at least 1", inputs.channels >= 1, inputs.channels)
    known = weights in ("none", "imagenet") or weights.endswith(".safetensors")
    require("weights must be none, imagenet or a .safetensors file", known, weights)
    if model.digest:
        network = build_own(name, classes=classes, inputs=inputs, seed=seed, files=Path(files))
    else:
        device = "meta" if torch.get_default_device().type == "meta" else "cpu"
        with torch.device("meta"):  # skips the libraries' initialisation, which is overwritten
            body, paths = families.load(model).build(model, classes, inputs.channels, stem)
            network = Network(name, body, [Tap(path) for path in paths], inputs)
        initialise(network.to_empty(device=device), seed)
    if weights == "imagenet":
        load_imagenet(network, model)
    elif weights != "none":
        load_file(network, Path(weights))
    return network


def initialise(network: Network, seed: int) -> None:
    """Initialise parameters and buffers from `seed`, by one rule for all built-in models.

    Convolutions: normal, variance 2 / fan-out (He et al. 2015, as in torchvision's ResNets,
    MobileNetV2 and VGGs), biases 0. Linear layers: uniform in ±1/sqrt(inputs), PyTorch's default.
    Batch norm: scale 1, shift 0. Raises TypeError for any other layer with parameters or buffers.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for module in network.modules():
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
            raise TypeError(f"{network.name}: no rule initialises a {type(module).__name__}")
