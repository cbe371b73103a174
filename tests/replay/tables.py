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
SEEDS = 2
DIGITS = 5
SIGNALS = ("accuracy", "nll", "hard_loss", "batch_nll", "early_nll")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The recipes of one arm in one task.

    `signals` have each [recipes, seeds, epochs]; from where a run diverged, accuracies are 0 and
    likelihoods infinite. `distributions` are those of all parameters.
    """

    task: str
    arm: str
    parameters: tuple[Mapping[str, Any], ...]
    distributions: Mapping[str, BaseDistribution]
    enqueued: int  # the first recipes, which are tried first
    signals: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def horizon(self) -> int:
        return int(self.signals["accuracy"].shape[2])

    @property
    def worth(self) -> Floats:
        """What each recipe is worth: its mean accuracy after the last epoch, over the seeds."""
        return np.asarray(self.signals["accuracy"][:, :, -1].mean(1))

    @property
    def deviation(self) -> float:
        """Standard deviation between seeds after the last epoch, pooled over the best tenth.

        Bad recipes differ far more from seed to seed, and are not what a search has to tell apart.
        """
        return float(np.sqrt(self.variances[np.argsort(-self.worth)[: -(-len(self) // 10)]].mean()))

    @property
    def variances(self) -> Floats:
        """The variance of each recipe's accuracy after the last epoch, between seeds.

        The deviations of the curves are inflated (`_spread`), so the divisor is their number.
        """
        return np.asarray(self.signals["accuracy"][:, :, -1].var(1))


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
    for row in rows:
        place = int(row["recipe"]), int(row["seed"]), int(row["epoch"]) - 1
        for name in SIGNALS:
            signals[name][place] = float(row[name])
    ranges = told["distributions"]
    return Table(
        task=task,
        arm=arm,
        parameters=tuple(told["parameters"]),
        distributions={name: json_to_distribution(json.dumps(one)) for name, one in ranges.items()},
        enqueued=int(told["enqueued"]),
        signals={name: _spread(name, found) for name, found in signals.items()},
    )


def _spread(name: str, found: Floats) -> Floats:
    """Return the curves with deviations from their mean as large as those from the true mean.

    Those from the mean of S seeds are too small by sqrt((S - 1) / S).
    """
    with np.errstate(invalid="ignore"):
        mean = found.mean(1, keepdims=True)
        spread = mean + np.sqrt(SEEDS / (SEEDS - 1)) * (found - mean)
    spread = np.clip(spread, 0.0, 1.0 if name == "accuracy" else None)
    return np.where(np.isfinite(found) & np.isfinite(spread), spread, found)
