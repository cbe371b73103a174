"""A small discrete search space, every recipe of which was trained: learning curves to replay.

`record.py` trains the whole grid on three seeds and writes the table, one row a run.
"""

import csv
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optuna.trial import BaseTrial

from kd.recipe import Recipe, Schedule

TABLE = Path(__file__).parents[1] / "data" / "digits-curves.csv.gz"
SEEDS = 3
CHOICES: dict[str, tuple[float | str, ...]] = {
    "lr": (0.02, 0.06, 0.2),
    "temperature": (2.0, 4.0, 8.0),
    "temperature_shape": ("constant", "linear"),  # linear ends at 1
    "alpha": (0.3, 0.6, 0.9),
    "alpha_shape": ("constant", "linear"),  # linear ends at 0.1
    "feature_kind": ("none", "hint", "attention"),
}
Point = tuple[int, ...]  # of the grid: the place of each choice, in the order of CHOICES


def points() -> Iterator[Point]:
    yield from itertools.product(*(range(len(choices)) for choices in CHOICES.values()))


def recipe_at(point: Point) -> Recipe:
    chosen = {
        name: choices[place] for (name, choices), place in zip(CHOICES.items(), point, strict=True)
    }
    feature = str(chosen["feature_kind"])
    return Recipe(
        lr=float(chosen["lr"]),
        soft_kind="kl",
        temperature=_schedule(str(chosen["temperature_shape"]), float(chosen["temperature"]), 1.0),
        alpha=_schedule(str(chosen["alpha_shape"]), float(chosen["alpha"]), 0.1),
        feature_kind=feature,
        feature_weight=0.0 if feature == "none" else 1.0,
        feature_taps=() if feature == "none" else ("last1",),
    )


def _schedule(shape: str, initial: float, final: float) -> Schedule:
    if shape == "constant":
        return Schedule.constant(initial)
    return Schedule(shape=shape, initial=initial, final=final)


def suggest_point(trial: BaseTrial) -> Point:
    """Suggest numbers as integers, and kinds as categories."""
    point = []
    for name, choices in CHOICES.items():
        if isinstance(choices[0], str):
            point.append(choices.index(trial.suggest_categorical(name, choices)))
        else:
            point.append(trial.suggest_int(name, 0, len(choices) - 1))
    return tuple(point)


def write_table(path: Path, curves: dict[tuple[Point, int], list[float]]) -> None:
    """Write validation accuracies by point, seed and epoch; equal tables are equal bytes."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        for (point, seed), accuracies in sorted(curves.items()):
            row = ["-".join(map(str, point)), str(seed), *(f"{one:.6f}" for one in accuracies)]
            packed.write((",".join(row) + "\n").encode())


def read_table(path: Path = TABLE) -> dict[Point, NDArray[np.float64]]:
    """Return the validation accuracy of every point: [seeds, epochs]."""
    found: dict[Point, list[list[float]]] = {}
    with gzip.open(path, "rt", newline="") as file:
        for name, _, *accuracies in csv.reader(file):
            point = tuple(map(int, name.split("-")))
            found.setdefault(point, []).append([float(one) for one in accuracies])
    return {point: np.asarray(curves) for point, curves in found.items()}
