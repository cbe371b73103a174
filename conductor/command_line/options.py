"""The request that options make: flags, before what the study has kept, before its preset."""

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from conductor.command_line.lookup import kept_spaces
from conductor.command_line.places import settled_words
from conductor.command_line.presets import PRESETS, preset, shortened
from conductor.request import Request, choose_spaces, parse_size
from conductor.stages.own_models import pin_models
from kd.errors import ProtocolError
from kd.names import DATASETS
from kd.protocol import Protocol, dataset_slug
from storage.files.artifacts import read_json
from storage.files.layout import Layout
from storage.files.records import StudySettings

DEFAULTS = {"sampler": "tpe", "pruner": "median", "lag": 4, "storage": ""}


def make_request(options: argparse.Namespace, arguments: list[str]) -> Request:
    """Put the request together, and refuse what is mistyped before a study is begun."""
    given = {
        field.name: getattr(options, field.name)
        for field in fields(Protocol)
        if getattr(options, field.name, None) is not None
    }
    _check_folder(given.get("dataset", ""))
    _check_weights(given.get("teacher_weights", ""))
    given, models = pin_models(given)
    base = options.preset or _preset_of(given.get("dataset", "digits"))
    name = (
        options.name
        if options.name is not None
        else (options.preset or dataset_slug(given.get("dataset", base)))
    )
    paths = Layout(Path(options.root)).study(name)
    kept = StudySettings.read(paths.settings) if paths.settings.exists() else None
    if paths.protocol.exists() and not options.preset:
        kept_protocol = Protocol.from_json(read_json(paths.protocol))
        protocol_fields = {one.name: getattr(kept_protocol, one.name) for one in fields(Protocol)}
    else:
        protocol_fields = shortened(preset(base), given.get("epochs", math.inf))
    if "dataset" not in {**protocol_fields, **given}:
        raise ProtocolError(f"the preset {base} takes --dataset folder:PATH")
    chosen = {**protocol_fields, **given}
    if "margin" not in chosen:
        from kd.training.scoring import load_metric  # numpy, which help does not need

        chosen["margin"] = load_metric(chosen.get("metric", "accuracy")).MARGIN
    spaces = choose_spaces(list(options.arms) if options.arms else None, options.space)
    if kept and not options.arms and not options.space:
        spaces = kept_spaces(kept)
    tactics = {
        key: _first(getattr(options, key), getattr(kept, key, None), default)
        for key, default in DEFAULTS.items()
    }
    return Request(
        name=name,
        root=Path(options.root),
        protocol=Protocol(**chosen),
        trials=options.trials,
        seeds=options.seeds,
        ablate=options.ablate,
        spaces=spaces,
        workers=options.workers,
        ray_address=options.ray_address,
        gpus_per_trial=options.gpus_per_trial,
        data_dir=options.data_dir or "",
        cache_budget=parse_size(options.cache_budget),
        command=["python", "study.py", *settled_words(arguments)],
        models=models,
        **tactics,
    )


def _check_folder(dataset: str) -> None:
    """Raise ProtocolError for the bare name of a folder, which is no data set's."""
    if dataset not in DATASETS and ":" not in dataset and dataset and Path(dataset).is_dir():
        raise ProtocolError(f"unknown dataset {dataset!r}; did you mean folder:{dataset}?")


def _check_weights(weights: str) -> None:
    """Raise ProtocolError for a file that is not there, before data are prepared."""
    if weights.endswith(".safetensors") and not Path(weights).is_file():
        raise ProtocolError(
            f"--teacher-weights takes a .safetensors file, got {weights}, which is not a file"
        )


def _preset_of(dataset: str) -> str:
    """Return the preset that a data set begins with when none is named."""
    return (
        "folder" if dataset.startswith("folder:") else dataset if dataset in PRESETS else "digits"
    )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
