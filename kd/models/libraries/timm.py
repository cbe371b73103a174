"""Classifiers of timm, as in timm:resnet26t, with the extra `timm`."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kd.errors import DataError, ProtocolError, one_line
from kd.models.libraries import Pixels
from kd.registry import check_name

try:
    import huggingface_hub
    import timm
    from huggingface_hub.utils import logging as hub_logging
except ModuleNotFoundError as error:
    if error.name not in ("timm", "huggingface_hub"):
        raise
    raise ProtocolError(
        "a model of timm needs the package: pip install --editable '.[timm]'"
    ) from None


def names() -> list[str]:
    return list(timm.list_models())


def make(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """Return timm's model; one whose shape depends on the size of the images is made for `size`."""
    return _make(name, classes, channels, size)


def pretrained(name: str, classes: int, channels: int, size: int) -> Mapping[str, Tensor]:
    """Return timm's weights, which timm fits to channels and size; of another head, the shape.

    timm finds them in its cache, or downloads them.
    """
    check_name("model of timm", name.partition(".")[0], names())
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ProtocolError(f"timm has no weights for {name}; use none instead of pretrained")
    with torch.random.fork_rng(devices=[]):
        try:
            with _attempts_hidden():
                model = _make(name, classes, channels, size, pretrained=True)
        except ProtocolError:
            raise
        except Exception as error:  # sockets fail in many ways, and so does reading half a file
            raise DataError(_missing(name, config, error)) from None
    heads = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    new = tuple(f"{head}." for head in heads) if config.num_classes != classes else ()
    return {
        key: value.new_empty(config.num_classes, *value.shape[1:]) if key.startswith(new) else value
        for key, value in model.state_dict().items()
    }


@contextmanager
def _attempts_hidden() -> Iterator[None]:
    """Hide the two dozen warnings of a download that is tried again: the error says enough."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _missing(name: str, config: Any, error: Exception) -> str:
    """Return the line that says where timm looks for weights."""
    file = f"the file {config.url}" if config.url else "its weights"
    where = torch.hub.get_dir() + "/checkpoints"
    if config.hf_hub_id:
        file = (
            f"{config.hf_hub_filename or 'model.safetensors'} of huggingface.co/{config.hf_hub_id}"
        )
        where = f"the cache of huggingface_hub ({huggingface_hub.constants.HF_HUB_CACHE})"
    return (
        f"cannot load timm's weights of {name} ({one_line(error)}); download {file} into {where}, "
        "or to any folder and give its path instead of pretrained, or take none"
    )


def _make(
    name: str, classes: int, channels: int, size: int, *, pretrained: bool = False
) -> nn.Module:
    settings = _settings(name, classes, channels, size)
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
