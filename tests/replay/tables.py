"""Tables of recorded learning curves: recipes of an arm, each trained on some seeds.

`record.py` writes them. A task has two files: its curves, one row for each epoch of a run, and its
recipes, with the parameters that the space suggested.
"""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

Floats = NDArray[np.float64]

FOLDER = Path(__file__).parents[1] / "data" / "curves"
SEEDS = 2  # of each recipe, which searches see
FRESH_SEEDS = 4  # of the best recipes, which they do not
DIGITS = 5
SIGNALS = ("accuracy", "nll", "hard_loss", "batch_nll", "early_nll")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The recipes of one arm in one task.

    `signals` have each [recipes, seeds, epochs]; from where a run diverged, accuracies are 0 and
    likelihoods infinite. `fresh` [recipes, fresh seeds] are accuracies after the last epoch on
    further seeds, NaN where there is none. `distributions` are those of all parameters.
    """

    task: str
    arm: str
    parameters: tuple[Mapping[str, Any], ...]
    distributions: Mapping[str, BaseDistribution]
    enqueued: int  # the first recipes, which are tried first
    signals: Mapping[str, Floats]
    fresh: Floats

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def horizon(self) -> int:
        return int(self.signals["accuracy"].shape[2])

    @property
    def worth(self) -> Floats:
        """What each recipe is worth: its mean accuracy after the last epoch.

        That of the best fifth is over fresh seeds, which no search sees: the highest of many means
        over the seeds that it saw would be luck.
        """
        fresh = self.fresh.mean(1)
        return np.where(np.isnan(fresh), self.signals["accuracy"][:, :, -1].mean(1), fresh)

    @property
    def variances(self) -> Floats:
        """The variance of each recipe's accuracy after the last epoch, between seeds."""
        seen = self.signals["accuracy"][:, :, -1]
        return np.asarray(np.nanvar(np.concatenate([seen, self.fresh], 1), axis=1, ddof=1))

    @property
    def deviation(self) -> float:
        """Standard deviation between seeds after the last epoch, pooled over the best tenth.

        Bad recipes differ far more from seed to seed, and are not what a search has to tell apart.
        """
        best = np.argsort(-self.worth)[: -(-len(self) // 10)]
        return float(np.sqrt(self.variances[best].mean()))


def write_table(
    task: str,
    arms: Mapping[str, Mapping[str, Any]],
    curves: Mapping[tuple[str, int, int], Sequence[Mapping[str, float]]],
) -> None:
    """Write a task's files; equal tables are equal bytes.

    `arms` has `enqueued`, `distributions` and `parameters` as in a `Table`; `curves` a row of
    signals for each epoch that was trained, by arm, recipe and seed.
    """
    lines = [",".join(["arm", "recipe", "seed", "epoch", *SIGNALS])]
    for key, rows in curves.items():
        for epoch, row in enumerate(rows, 1):
            figures = (f"{row[name]:.{DIGITS}g}" for name in SIGNALS)
            lines.append(",".join([*map(str, key), str(epoch), *figures]))
    _pack(f"{task}-curves.csv.gz", "\n".join(lines) + "\n")
    written = {
        arm: {**content, "distributions": _written(content)} for arm, content in arms.items()
    }
    _pack(f"{task}-recipes.json.gz", json.dumps(written, indent=0))


def _written(content: Mapping[str, Any]) -> dict[str, Any]:
    ranges = content["distributions"].items()
    return {name: json.loads(distribution_to_json(one)) for name, one in sorted(ranges)}


def _pack(name: str, text: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / name).open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as into:
        into.write(text.encode())


@cache
def read_table(task: str, arm: str) -> Table:
    """Return one arm of a task."""
    with gzip.open(FOLDER / f"{task}-recipes.json.gz", "rt", encoding="utf-8") as file:
        told = json.load(file)[arm]
    with gzip.open(FOLDER / f"{task}-curves.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == arm]
    horizon = max(int(row["epoch"]) for row in rows)
    shape = (len(told["parameters"]), SEEDS, horizon)
    signals = {name: np.full(shape, 0.0 if name == "accuracy" else np.inf) for name in SIGNALS}
    fresh = np.full((shape[0], FRESH_SEEDS), np.nan)
    for row in rows:
        recipe, seed, epoch = int(row["recipe"]), int(row["seed"]), int(row["epoch"])
        for name in SIGNALS if seed < SEEDS else ():
            signals[name][recipe, seed, epoch - 1] = float(row[name])
        if seed >= SEEDS:
            fresh[recipe, seed - SEEDS] = float(row["accuracy"]) if epoch == horizon else 0.0
    ranges = told["distributions"]
    return Table(
        task=task,
        arm=arm,
        parameters=tuple(told["parameters"]),
        distributions={name: json_to_distribution(json.dumps(one)) for name, one in ranges.items()},
        enqueued=int(told["enqueued"]),
        signals=signals,
        fresh=fresh,
    )
