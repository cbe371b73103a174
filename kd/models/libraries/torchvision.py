"""classifiers of torchvision, unchanged, as in torchvision:regnet_y_400mf."""

import inspect
from typing import Any

import torchvision
from torch import nn

from kd.errors import ProtocolError
from kd.models.families.torchvision import refitted
from kd.models.libraries import Pixels
from kd.registry import check_name


def names() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models))


def make(
    name: str, classes: int, channels: int, size: int, *, pretrained: bool = False
) -> nn.Module:
    """Return torchvision's model; the first convolution is replaced for other channels than 3."""
    model: nn.Module = torchvision.models.get_model(name, **_settings(name, classes, size))
    if channels != 3:
        path, first = _first_convolution(model)
        model.set_submodule(path, refitted(first, channels))
    if pretrained:
        raise ProtocolError("torchvision weights: not there yet")
    return model


def _settings(name: str, classes: int, size: int) -> dict[str, Any]:
    check_name("model of torchvision", name, names())
    settings: dict[str, Any] = {"weights": None, "num_classes": classes}
    builder = inspect.signature(torchvision.models.get_model_builder(name))
    if name.startswith("vit_"):
        settings["image_size"] = size
    if name.startswith(("googlenet", "inception")):
        settings |= {"aux_logits": False, "init_weights": True}
    if name.startswith("maxvit"):
        settings["input_size"] = (size, size)
    del builder
    return settings


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next(
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)
    )


def pixels(name: str) -> Pixels:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    size = transforms.crop_size[0]
    return Pixels(size=size, mean=tuple(transforms.mean), deviation=tuple(transforms.std))


def call(name: str, classes: int, channels: int, size: int) -> list[str]:
    settings = _settings(name, classes, size)
    arguments = [f"    {key}={value!r}," for key, value in settings.items()]
    lines = ["model = torchvision.models.get_model(", f'    "{name}",', *arguments, ")"]
    if channels != 3:
        path, layer = _first_convolution(make(name, classes, channels, size))
        lines.append(f'model.set_submodule("{path}", nn.{layer})')
    return [*lines, "return model"]
