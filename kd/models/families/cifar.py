"""Residual networks for small images, as in resnet20 and wrn-16-2.

ResNets (He et al. 2015) and wide ResNets (Zagoruyko and Komodakis 2016), in the sizes of the
distillation literature (the CRD and mdistiller repositories): shortcuts are a 1x1 convolution with
batch norm (a bare one in the wide networks) where the shape changes, and the `x4` models have 32
channels in the stem and 64-128-256 in the stages. Published parameters for CIFAR-100: resnet20
0.28 M, resnet56 0.86 M, resnet8x4 1.23 M, resnet32x4 7.43 M, wrn-16-2 0.70 M, wrn-40-2 2.26 M. The
three stages of an image of 32 pixels are 32, 16 and 8 pixels wide.

The family has a fixed stem, a 3x3 convolution of stride 1: the protocol's `stem` affects only
torchvision's models.
"""

import re
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from kd.models.families import Built
from kd.names import ModelName

MODELS = {
    "resnet8": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet14": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet20": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet32": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet44": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet56": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet110": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "resnet8x4": {"taps": 3, "scalable": True, "channels_last": 0.5},
    "resnet32x4": {"taps": 3, "scalable": True, "channels_last": 0.5},
    "wrn-16-1": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "wrn-16-2": {"taps": 3, "scalable": True, "channels_last": 0.5},
    "wrn-40-1": {"taps": 3, "scalable": True, "channels_last": 0.5, "narrow": 0.125},
    "wrn-40-2": {"taps": 3, "scalable": True, "channels_last": 0.5},
}
# Small networks take large steps: the student of the preset `digits` learns best with rates of 0.2
# to 1 (sgd, whatever the decay up to 2e-3) and 0.03 to 0.1 (adamw); see docs/method.md.
RANGES = {
    "": {"sgd": {"lr": (0.01, 1.0, 0.1)}, "adamw": {"lr": (5e-4, 0.1, 5e-3)}},
}
NAME = re.compile(r"(resnet|wrn-)(\d+)[x-]?(\d*)")  # depth, and factor on the numbers of channels

Block = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride
Layers = dict[str, nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, figure 2 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.downsample(x)
        result: Tensor = self.relu(out)
        return result


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution (Zagoruyko and Komodakis 2016, figure 1a).

    Where the number of channels changes, the shortcut starts after the first ReLU, and is a bare
    1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        result: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return result


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with padding 1, which keeps the map's size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def build(model: ModelName, classes: int, channels: int, stem: str) -> Built:
    """Return three stages of n blocks: depth 6n + 2 (ResNets), or 6n + 4 (wide ResNets).

    The taps are the stages' outputs: after a ReLU, or in wide ResNets the sum before it.
    """
    [(kind, depth, factor)] = NAME.findall(model.base)
    wide, multiple = kind == "wrn-", int(factor or 1)
    first = 32 if not wide and multiple == 4 else 16  # mdistiller's x4 models have twice the stem
    full = (first, 16 * multiple, 32 * multiple, 64 * multiple)
    widths = [max(1, round(width * model.width)) for width in full]
    block: Block = PreActivationBlock if wide else BasicBlock
    blocks = (int(depth) - (4 if wide else 2)) // 6
    stages: Layers = {}
    for number, stride in enumerate((1, 2, 2), start=1):
        outputs = widths[number]
        rest = [block(outputs, outputs, 1) for _ in range(blocks - 1)]
        stages[f"layer{number}"] = nn.Sequential(block(widths[number - 1], outputs, stride), *rest)
    norm = nn.BatchNorm2d(widths[-1] if wide else widths[0])
    active: Layers = {"bn1": norm, "relu": nn.ReLU(inplace=True)}
    start: Layers = {"conv1": conv3x3(channels, widths[0])}
    head: Layers = {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(widths[-1], classes),
    }
    layers = stages | active if wide else active | stages
    return nn.Sequential(OrderedDict(start | layers | head)), tuple(stages)
