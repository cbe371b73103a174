"""Build a teacher or student from its name: `build("resnet20", …)` returns a `Network`.

Names are those of `kd.names`; the networks themselves are in `kd.models.cifar` and
`kd.models.torchvision_models`, or in the user's own file (`kd.models.own`);
`kd.models.network` defines what a network can do.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from kd.errors import require
from kd.models.cifar import cifar_resnet, wide_resnet
from kd.models.network import Built, Network, export_state, tap_shapes
from kd.models.own import build_own
from kd.models.torchvision_models import mobilenet, resnet, shufflenet, vgg
from kd.models.weights import load_file, load_imagenet
from kd.names import STEMS, ModelName, parse_model
from kd.registry import check_name

__all__ = ["Network", "build", "export_state", "initialise", "tap_shapes"]


def build(
    name: str,
    *,
    classes: int,
    channels: int,
    stem: str,
    weights: str = "none",
    seed: int,
    files: str | Path = ".",
) -> Network:
    """Make the model `name` for images [B, channels, H, W], in train mode, on the CPU.

    `stem` is `cifar` or `imagenet`; the CIFAR family has one of its own and ignores it. `weights`
    is `none` (initialised from `seed`), `imagenet`, or a .safetensors file of the same model. Under
    `with torch.device("meta")` the network has shapes alone; take `weights` none there. `files` is
    the folder that holds the user's model files. The global random state is neither read nor
    changed.

    Raises ProtocolError for an unknown name or stem, or a model without ImageNet weights; DataError
    when those cannot be downloaded; ArtifactError when the file does not fit the model, or that of
    a model of the user's own is not in `files`.
    """
    model = parse_model(name)
    check_name("stem", stem, STEMS)
    require("classes must be at least 2", classes >= 2, classes)
    require("channels must be at least 1", channels >= 1, channels)
    known = weights in ("none", "imagenet") or weights.endswith(".safetensors")
    require("weights must be none, imagenet or a .safetensors file", known, weights)
    if model.digest:
        network = build_own(name, classes=classes, channels=channels, seed=seed, files=Path(files))
    else:
        device = "meta" if torch.get_default_device().type == "meta" else "cpu"
        with torch.device("meta"):  # the libraries' own initialisation would cost time for nothing
            network = Network(name, *ARCHITECTURES[model.base](model, classes, channels, stem))
        initialise(network.to_empty(device=device), seed)
    if weights == "imagenet":
        load_imagenet(network, model)
    elif weights != "none":
        load_file(network, Path(weights))
    return network


def initialise(network: Network, seed: int) -> None:
    """Fill parameters and buffers from `seed`, by one rule for all models.

    Convolutions: normal, variance 2 / fan-out (He et al. 2015, as in torchvision's ResNets,
    MobileNetV2 and VGGs), biases 0. Linear layers: uniform in ±1/sqrt(inputs), PyTorch's default.
    Batch norm: scale 1, shift 0.
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


# model, classes, channels, stem -> body, and the route through it
ARCHITECTURES: dict[str, Callable[[ModelName, int, int, str], Built]] = {
    "resnet8": cifar_resnet,
    "resnet14": cifar_resnet,
    "resnet20": cifar_resnet,
    "resnet32": cifar_resnet,
    "resnet44": cifar_resnet,
    "resnet56": cifar_resnet,
    "resnet110": cifar_resnet,
    "resnet8x4": cifar_resnet,
    "resnet32x4": cifar_resnet,
    "wrn-16-1": wide_resnet,
    "wrn-16-2": wide_resnet,
    "wrn-40-1": wide_resnet,
    "wrn-40-2": wide_resnet,
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
    "resnet101": resnet,
    "resnet152": resnet,
    "wide_resnet50_2": resnet,
    "mobilenet_v2": mobilenet,
    "shufflenet_v2_x0_5": shufflenet,
    "shufflenet_v2_x1_0": shufflenet,
    "shufflenet_v2_x1_5": shufflenet,
    "shufflenet_v2_x2_0": shufflenet,
    "vgg11_bn": vgg,
    "vgg13_bn": vgg,
    "vgg16_bn": vgg,
    "vgg19_bn": vgg,
}
