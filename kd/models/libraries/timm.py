"""classifiers of timm, as in timm:resnet26t, with the extra `timm`."""

from typing import Any

from torch import nn

from kd.errors import DataError, ProtocolError, one_line
from kd.models.libraries import Pixels
from kd.registry import check_name

try:
    import timm
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ProtocolError(
        "a model of timm needs the package: pip install --editable '.[timm]'"
    ) from None


def names() -> list[str]:
    return list(timm.list_models())


def make(
    name: str, classes: int, channels: int, size: int, *, pretrained: bool = False
) -> nn.Module:
    """Return timm's model; one whose shape depends on the size of the images is made for `size`."""
    settings = _settings(name, classes, channels, size)
    if pretrained and not timm.is_model_pretrained(name):
        raise ProtocolError(f"timm has no weights for {name}; use --teacher-weights none")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **settings)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        wanted = pixels(name).size
        if size != wanted:
            raise ProtocolError(
                f"timm:{name} takes images of {wanted} pixels alone, got {size}; use another model"
            ) from None
        del settings["img_size"]
        model = timm.create_model(name, pretrained=pretrained, **settings)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise DataError(
            f"cannot download the weights of timm:{name} ({one_line(error)}); take "
            "--teacher-weights none, or a file"
        ) from None
    return model


def _settings(name: str, classes: int, channels: int, size: int) -> dict[str, Any]:
    check_name("model of timm", name.partition(".")[0], names())
    config = timm.models.get_pretrained_cfg(name)
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if config is not None and config.fixed_input_size:
        settings["img_size"] = size
    return settings


def pixels(name: str) -> Pixels:
    config = timm.models.get_pretrained_cfg(name)
    if config is None:
        raise ProtocolError(f"timm has no weights for {name}; use --teacher-weights none")
    return Pixels(size=config.input_size[-1], mean=config.mean, deviation=config.std)


def call(name: str, classes: int, channels: int, size: int) -> list[str]:
    settings = _settings(name, classes, channels, size)
    arguments = [f"    {key}={value!r}," for key, value in settings.items()]
    return ["return timm.create_model(", f'    "{name}",', *arguments, ")"]
