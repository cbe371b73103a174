"""Turns parsed options into the request of a study, or into an existing study."""

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from conductor.command_line.places import settled_words
from conductor.command_line.presets import PRESETS, preset, shortened
from conductor.request import KEPT, Request, choose_spaces
from conductor.stages.own_files import pin_functions, pin_sampler, pin_weights
from kd import optimizers
from kd.dataset_names import SOURCES, dataset_slug
from kd.errors import ProtocolError, StudyError
from kd.metrics import load_metric
from kd.names import WEIGHTS
from kd.own_files import read_kept
from kd.protocol import Protocol
from storage.files.artifacts import read_record
from storage.files.layout import Layout, StudyLayout, command_line
from storage.files.ownership import check_inside
from storage.files.records import StudySettings, WarmStart


def make_request(options: argparse.Namespace) -> Request:
    """Return the request: values come from flags, then the study's record, then its preset.

    Raises RetortError for invalid values.
    """
    given = received(options, Protocol)
    _check_folder(given.get("dataset", ""))
    if "teacher_weights" in given:
        given["teacher_weights"] = tuple(given["teacher_weights"])
    for field in ("teacher_weights", "student_weights"):
        weights = given.get(field, ())
        for one in (weights,) if isinstance(weights, str) else weights:
            _check_weights(field, one)
    given, own = pin_functions(pin_weights(given))
    sampler, own_sampler = pin_sampler(getattr(options, "sampler", None))
    named = getattr(options, "preset", None)
    base = named or _preset_of(given.get("dataset", "digits"))
    name = options.name
    if name is None:
        name = named or dataset_slug(given.get("dataset", base))
    layout = Layout(Path(options.root))
    paths = layout.study(name)
    kept = StudySettings.read(paths.settings) if paths.settings.exists() else None
    if paths.protocol.exists() and not named:
        kept_protocol = read_record(paths.protocol, Protocol)
        protocol_fields = {f.name: getattr(kept_protocol, f.name) for f in fields(Protocol)}
    else:
        protocol_fields = shortened(preset(base), given.get("epochs", math.inf))
    if "dataset" not in {**protocol_fields, **given}:
        raise ProtocolError(f"the preset {base} requires --dataset folder:PATH")
    if "margin" not in protocol_fields and "margin" not in given:
        metric = {**protocol_fields, **given}.get("metric", "accuracy")
        given["margin"] = load_metric(metric).MARGIN
    given = {**_teacher_defaults({**protocol_fields, **given}, protocol_fields), **given}
    arms, space = getattr(options, "arms", None), getattr(options, "space", None)
    if kept and not arms and not space:
        spaces = _kept_spaces(kept, layout)
    else:
        spaces = choose_spaces(arms, space)
    settings = {key: getattr(kept, key) for key in KEPT} if kept else {}
    changed = {**settings, **received(options, Request)}
    chosen: dict[str, Any] = {
        **changed,
        **sampler,
        "warm": _warm_start(layout, name, kept, changed),
        "name": name,
        "root": Path(options.root),
        "protocol": Protocol(**{**protocol_fields, **given}),
        "spaces": spaces,
        "command": ["python", "study.py", *settled_words(options.words)],
        "own": [*own, *own_sampler],
    }
    return Request(**chosen)


def _teacher_defaults(chosen: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """Return learning rate and weight decay of a teacher for which the base has none that fit.

    All teachers have those of the first. Those of the base, a preset or an existing study, hold
    for its own optimizer.
    """
    optimizer = chosen.get("teacher_optimizer", "sgd")
    pretrained = "none" not in chosen.get("teacher_weights", ("none",))
    ranges = optimizers.ranges(optimizer, chosen["teachers"][0], pretrained=pretrained)
    defaults = {
        "teacher_lr": ranges.lr.default,
        "teacher_weight_decay": ranges.weight_decay.default,
    }
    if optimizer != base.get("teacher_optimizer", "sgd"):
        return defaults
    return {name: value for name, value in defaults.items() if name not in base}


def _warm_start(
    layout: Layout, name: str, kept: StudySettings | None, chosen: dict[str, Any]
) -> WarmStart | None:
    """Return what a study takes from another one: as it recorded it, or as it is there."""
    other = chosen.get("warm_start", "")
    if not other:
        return None
    if kept and kept.warm_start == other:
        return kept.warm
    from conductor.stages.changing import read_warm_start  # which imports Optuna's storages

    return read_warm_start(layout, name, other, chosen.get("storage", ""))


def existing_study(options: argparse.Namespace, name: str | None = None) -> StudyLayout:
    """Return the named study, or the only one. Raises StudyError if there is none or several."""
    name = options.name if name is None else name
    layout = Layout(Path(options.root))
    names = layout.studies
    if name is not None:
        paths = layout.study(name)
        if name not in names:
            known = f"; there are {', '.join(names)}" if names else ""
            raise StudyError(f"there is no study {name} under {layout.root}{known}")
    elif len(names) != 1:
        begin = command_line(options.root)
        what = f"name one of {', '.join(names)} with --name" if names else f"run: {begin}"
        raise StudyError(f"there are {len(names)} studies under {layout.root}; {what}")
    else:
        paths = layout.study(names[0])
    check_inside(layout.root, paths.folder)
    return paths


def storage_url(options: argparse.Namespace, paths: StudyLayout) -> str:
    """Return the URL of the study's storage: by flag, as recorded, or the root's."""
    kept = StudySettings.read(paths.settings).storage
    return options.storage or kept or Layout(Path(options.root)).studies_url


def _kept_spaces(kept: StudySettings, layout: Layout) -> list[str]:
    """Return the search spaces of a study: names, and paths of copies of the user's files.

    Raises ArtifactError for a copy that is missing or changed.
    """
    sources = (kept.spaces[arm].source.partition("@") for arm in kept.arms)
    return [
        str(read_kept(layout.own, name, digest).path) if digest else name
        for name, _, digest in sources
    ]


def received(options: argparse.Namespace, kind: type[Any], *without: str) -> dict[str, Any]:
    """Return the received values of flags that set a field of `kind`, except `without`."""
    values = {field.name: getattr(options, field.name, None) for field in fields(kind)}
    return {
        name: value for name, value in values.items() if value is not None and name not in without
    }


def _check_folder(dataset: str) -> None:
    """Raise ProtocolError for a folder without the prefix `folder:`."""
    if dataset not in SOURCES.names and ":" not in dataset and dataset and Path(dataset).is_dir():
        raise ProtocolError(f"unknown dataset {dataset!r}; did you mean folder:{dataset}?")


def _check_weights(field: str, weights: str) -> None:
    """Raise ProtocolError for a missing file, before data are prepared."""
    path = Path(weights)
    if path.suffix in WEIGHTS and not path.is_file():
        flag = f"--{field.replace('_', '-')}"
        raise ProtocolError(f"{flag} must be an existing {path.suffix} file, got {weights}")


def _preset_of(dataset: str) -> str:
    """Return the default preset of a data set."""
    source, colon, _ = dataset.partition(":")
    if source in PRESETS.names:
        return source
    return "folder" if colon else "digits"  # a path is that of other images
