"""torchvision's models, with first layers that suit small images.

The `imagenet` stem is torchvision's own. The `cifar` stem omits the first two halvings of
the image, so that an image of 32 pixels leaves the last stage as a map of 4x4 instead of 1x1:

ResNet        a 3x3 convolution of stride 1 in place of 7x7 and stride 2, no max-pool
ShuffleNetV2  first convolution of stride 1, no max-pool
MobileNetV2   first convolution and first strided stage (24 channels) of stride 1
VGG-BN        its first layers keep the size anyway; a global average pool and one linear layer
              replace the head for 7x7 maps (4096-4096). Five max-pools stay, so images must have
              32 pixels or more

Dropout, which MobileNetV2 and VGG have before their linear layers, is omitted: a run then depends
only on its seeds, and no model has a regulariser that the protocol does not name.
"""

from typing import Any

import torchvision
from torch import nn

from kd.models.network import Built, Modules, Route
from kd.names import ModelName

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


def resnet(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Four stages: `layer1` to `layer4`."""
    body = _body(model, num_classes=classes)
    if stem == "cifar":
        body.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        body.maxpool = nn.Identity()
    else:
        body.conv1 = _refitted(body.conv1, channels)
    return body, Route(
        (body.conv1, body.bn1, body.relu, body.maxpool),
        ((body.layer1,), (body.layer2,), (body.layer3,), (body.layer4,)),
        (body.avgpool, nn.Flatten(), body.fc),
    )


def mobilenet(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Five stages, one for each size of map; the 1x1 convolution to 1280 belongs to the head."""
    settings = {"inverted_residual_setting": MOBILENET_CIFAR_STAGES} if stem == "cifar" else {}
    body = _body(model, num_classes=classes, width_mult=model.width, dropout=0.0, **settings)
    layers = tuple(body.features)
    stride = (1, 1) if stem == "cifar" else None
    layers[0][0] = _refitted(layers[0][0], channels, stride)
    return body, Route(
        layers[:1],
        (layers[1:2], layers[2:4], layers[4:7], layers[7:14], layers[14:18]),
        (*layers[18:], *_pool(), body.classifier),
    )


def shufflenet(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Three stages, `stage2` to `stage4`; the 1x1 convolution after them belongs to the head."""
    body = _body(model, num_classes=classes)
    stride = (1, 1) if stem == "cifar" else None
    body.conv1[0] = _refitted(body.conv1[0], channels, stride)
    if stem == "cifar":
        body.maxpool = nn.Identity()
    return body, Route(
        (body.conv1, body.maxpool),
        ((body.stage2,), (body.stage3,), (body.stage4,)),
        (body.conv5, *_pool(), body.fc),
    )


def vgg(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Five stages, each read before the max-pool that ends it, so that no detail is lost."""
    body = _body(model, num_classes=classes, dropout=0.0)
    body.features[0] = _refitted(body.features[0], channels)
    if stem == "cifar":
        body.avgpool = nn.AdaptiveAvgPool2d(1)
        body.classifier = nn.Linear(512, classes)
    stages: list[Modules] = [()]
    for layer in body.features:
        if isinstance(layer, nn.MaxPool2d):
            stages.append(())
        stages[-1] += (layer,)
    *trunk, last_pool = stages
    return body, Route((), tuple(trunk), (*last_pool, body.avgpool, nn.Flatten(), body.classifier))


def _body(model: ModelName, **settings: Any) -> Any:
    return torchvision.models.get_model(model.base, weights=None, **settings)


def _refitted(conv: nn.Conv2d, channels: int, stride: tuple[int, int] | None = None) -> nn.Conv2d:
    """The same convolution for another number of input channels, and perhaps another stride."""
    return nn.Conv2d(
        channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride or (conv.stride[0], conv.stride[1]),
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )


def _pool() -> Modules:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten()
