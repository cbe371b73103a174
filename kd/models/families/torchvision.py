"""torchvision's models, as in resnet18 and mobilenet_v2.

The `imagenet` stem is torchvision's own. The `cifar` stem omits the first two halvings of
the image, so that an image of 32 pixels leaves the last stage as a map of 4x4 instead of 1x1:

ResNet        a 3x3 convolution of stride 1 in place of 7x7 and stride 2, no max-pool
ShuffleNetV2  first convolution of stride 1, no max-pool
MobileNetV2   first convolution and first strided stage (24 channels) of stride 1
VGG-BN        first layers unchanged; a global average pool and one linear layer replace the head
              for 7x7 maps (4096-4096). Five max-pools remain, so images must have at least
              32 pixels

Dropout, which MobileNetV2 and VGG have before their linear layers, is omitted: a run then depends
only on its seeds, and no model has a regulariser that the protocol does not name.
"""

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from kd.errors import DataError
from kd.models.families import Built
from kd.names import ModelName

MODELS = {
    "resnet18": {"pretrained": True, "taps": 4},
    "resnet34": {"pretrained": True, "taps": 4},
    "resnet50": {"pretrained": True, "taps": 4},
    "resnet101": {"pretrained": True, "taps": 4},
    "resnet152": {"pretrained": True, "taps": 4},
    "wide_resnet50_2": {"pretrained": True, "taps": 4},
    "mobilenet_v2": {"pretrained": True, "taps": 5, "scalable": True, "channels_last": 0.5},
    "shufflenet_v2_x0_5": {"pretrained": True, "taps": 3, "channels_last": 1.0},
    "shufflenet_v2_x1_0": {"pretrained": True, "taps": 3, "channels_last": 1.0},
    "shufflenet_v2_x1_5": {"pretrained": True, "taps": 3, "channels_last": 1.0},
    "shufflenet_v2_x2_0": {"pretrained": True, "taps": 3, "channels_last": 1.0},
    "vgg11_bn": {"pretrained": True, "taps": 5},
    "vgg13_bn": {"pretrained": True, "taps": 5},
    "vgg16_bn": {"pretrained": True, "taps": 5},
    "vgg19_bn": {"pretrained": True, "taps": 5},
}

# The weight decay of their papers, 4e-5 (Sandler et al. 2018, section 6.1; Ma et al. 2018, which
# follows Zhang et al. 2018, section 4), where other models have 1e-4 or 5e-4. Learning rates: 0.06
# for batches of 128 in torchvision's recipe of ShuffleNetV2, 0.01 in the CRD repository.
RANGES = {
    "mobilenet": {"sgd": {"lr": (0.003, 0.5, 0.05), "weight_decay": (4e-6, 2e-3, 4e-5)}},
    "shufflenet": {"sgd": {"lr": (0.003, 0.5, 0.05), "weight_decay": (4e-6, 2e-3, 4e-5)}},
}

# expansion, channels, blocks, stride of each stage: MobileNetV2, Sandler et al. 2018, table 2, with
# stride 1 where the 24 channels begin
MOBILENET_CIFAR_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def build(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Return a model whose taps are its stages, one per map size (ResNets: layer1 to layer4)."""
    makers = {"resnet": _resnet, "mobilenet": _mobilenet, "shufflenet": _shufflenet, "vgg": _vgg}
    make = next(make for kind, make in makers.items() if kind in model.base)
    return make(model, classes, channels, stem)


def _resnet(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    body = _body(model, num_classes=classes)
    if stem == "cifar":
        body.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        body.maxpool = nn.Identity()
    else:
        body.conv1 = refitted(body.conv1, channels)
    return body, ("layer1", "layer2", "layer3", "layer4")


def _mobilenet(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Return five stages, one per map size, without the last 1x1 convolution to 1280 channels."""
    settings = {"inverted_residual_setting": MOBILENET_CIFAR_STAGES} if stem == "cifar" else {}
    body = _body(model, num_classes=classes, width_mult=model.width, dropout=0.0, **settings)
    stride = (1, 1) if stem == "cifar" else None
    body.features[0][0] = refitted(body.features[0][0], channels, stride)
    return body, tuple(f"features.{last}" for last in (1, 3, 6, 13, 17))


def _shufflenet(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    body = _body(model, num_classes=classes)
    stride = (1, 1) if stem == "cifar" else None
    body.conv1[0] = refitted(body.conv1[0], channels, stride)
    if stem == "cifar":
        body.maxpool = nn.Identity()
    return body, ("stage2", "stage3", "stage4")


def _vgg(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Five stages, each read before the max-pool that ends it, so that no detail is lost."""
    body = _body(model, num_classes=classes, dropout=0.0)
    body.features[0] = refitted(body.features[0], channels)
    if stem == "cifar":
        body.avgpool = nn.AdaptiveAvgPool2d(1)
        body.classifier = nn.Linear(512, classes)
    pools = (n for n, layer in enumerate(body.features) if isinstance(layer, nn.MaxPool2d))
    return body, tuple(f"features.{pool - 1}" for pool in pools)


def _body(model: ModelName, **settings: Any) -> Any:
    return torchvision.models.get_model(model.base, weights=None, **settings)


def refitted(conv: nn.Conv2d, channels: int, stride: tuple[int, int] | None = None) -> nn.Conv2d:
    """Return a new convolution like `conv` with other input channels, and optionally stride."""
    return nn.Conv2d(
        channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride or (conv.stride[0], conv.stride[1]),
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )


def pretrained(name: str) -> dict[str, Tensor]:
    """Return torchvision's IMAGENET1K_V1 weights; see `fetched`."""
    return fetched(_imagenet(name))


def fetched(weights: torchvision.models.WeightsEnum) -> dict[str, Tensor]:
    """Return weights of torchvision, from torch.hub's folder or the web.

    V1, not DEFAULT: every model has it, and the ResNets' and VGGs' comes from training on hard
    labels, while V2 used label smoothing, which makes a teacher worse (Müller et al. 2019, "When
    does label smoothing help?"). The hash in the file's name is checked on download alone.
    """
    file = _file(weights)
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True, map_location="cpu"
        )
    except Exception as error:  # sockets fail in many ways, and so does unpickling half a file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{file} is damaged ({reason}); delete it to have it downloaded again"
            if file.exists()
            else f"cannot download ImageNet weights from {weights.url} ({reason}); put {file.name} "
            f"into {file.parent}, or take --teacher-weights none"
        ) from None
    return state


def imagenet_files() -> dict[str, Path]:
    """Return where the ImageNet weights of each model are kept, or looked for."""
    return {name: _file(_imagenet(name)) for name in MODELS}


def _imagenet(name: str) -> torchvision.models.WeightsEnum:
    return torchvision.models.get_model_weights(name).IMAGENET1K_V1


def _file(weights: torchvision.models.WeightsEnum) -> Path:
    """Return the file that torch.hub downloads to, in TORCH_HOME if that is set."""
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
