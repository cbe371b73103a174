"""Classifiers of torchvision, unchanged, as in torchvision:regnet_y_400mf."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from kd.models.families.torchvision import fetched, refitted
from kd.models.libraries import Pixels
from kd.registry import check_name

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception, which train alone


def names() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models))


def make(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """Return torchvision's model; the first convolution is replaced for other channels than 3."""
    settings = _settings(name, classes, size, channels)
    model: nn.Module = torchvision.models.get_model(name, **settings)
    if channels != 3:
        path, first = _first_convolution(model)
        model.set_submodule(path, refitted(first, channels))
    return model


def pretrained(name: str, classes: int, channels: int, size: int) -> Mapping[str, Tensor]:
    """Return torchvision's weights, with a head of their own classes, and without auxiliary heads.

    A ViT's position embeddings are fitted to the size.
    """
    check_name("model of torchvision", name, names())
    state = dict(fetched(_weights(name)))
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    if name.startswith("vit_"):
        patch = state["conv_proj.weight"].shape[-1]
        state = dict(interpolate_embeddings(size, patch, OrderedDict(state)))
    return state


def _weights(name: str) -> torchvision.models.WeightsEnum:
    """Return the weights of a model: V1 where there are any, for the reason in `fetched`."""
    known = torchvision.models.get_model_weights(name)
    return getattr(known, "IMAGENET1K_V1", known.DEFAULT)


def _settings(name: str, classes: int, size: int, channels: int = 3) -> dict[str, Any]:
    check_name("model of torchvision", name, names())
    settings: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name.startswith("vit_"):
        settings["image_size"] = size
    if name.startswith(("googlenet", "inception")):
        settings |= {"aux_logits": False, "init_weights": True}
        if channels == 3:  # their weights were trained on pixels that this makes of the usual ones
            settings["transform_input"] = True
    if name.startswith("maxvit"):
        settings["input_size"] = (size, size)
    return settings


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next(
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)
    )


def pixels(name: str) -> Pixels:
    transforms = _weights(name).transforms()
    size = transforms.crop_size[0]
    return Pixels(size=size, mean=tuple(transforms.mean), deviation=tuple(transforms.std))


def call(name: str, classes: int, channels: int, size: int) -> list[str]:
    settings = _settings(name, classes, size, channels)
    arguments = [f"    {key}={value!r}," for key, value in settings.items()]
    lines = ["model = torchvision.models.get_model(", f'    "{name}",', *arguments, ")"]
    if channels != 3:
        path, layer = _first_convolution(make(name, classes, channels, size))
        lines.append(f'model.set_submodule("{path}", nn.{layer})')
    return [*lines, "return model"]
