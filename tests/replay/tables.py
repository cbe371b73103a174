"""Tables of recorded learning curves: recipes of an arm, each trained on some seeds.

`record.py` writes them. A task has two files: its curves, one row for each epoch of a run, and its
recipes, with the parameters that the space suggested.
"""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

Floats = NDArray[np.float64]
Key = tuple[str, int, int]  # arm, recipe, seed

FOLDER = Path(__file__).parents[1] / "data" / "curves"
CURVES, RECIPES = "-curves.csv.gz", "-recipes.json.gz"  # ends of the names of a task's files
SEEDS = 2  # of each recipe
FRESH_SEEDS = 4  # of the best recipes, beside those
DIGITS = 5
SIGNALS = {  # column: what it is
    "accuracy": "accuracy, running statistics",
    "nll": "NLL, running statistics",
    "hard_loss": "hard loss of training",
    "batch_nll": "NLL, statistics of the batch",
    "early_nll": "the same, logits scaled by the best temperature (`early_nll`)",
}
EARLY = "early_signal"
MEAN = {EARLY: "its mean over the epochs so far (the early signal)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The recipes of one arm in one task.

    `seeds` has how many seeds each recipe was trained on. `signals` have each [recipes, most seeds,
    epochs], NaN where a recipe has fewer seeds; from where a run diverged, accuracies are 0 and
    likelihoods infinite. `EARLY` is one of them. `distributions` are those of all parameters.
    """

    task: str
    arm: str
    parameters: tuple[Mapping[str, Any], ...]
    distributions: Mapping[str, BaseDistribution]
    enqueued: int  # the first recipes, which are tried first
    seeds: NDArray[np.int64]
    signals: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def horizon(self) -> int:
        return int(self.signals["accuracy"].shape[2])

    @property
    def last(self) -> Floats:
        """The accuracy of each run after the last epoch: [recipes, most seeds]."""
        return self.signals["accuracy"][:, :, -1]

    @property
    def worth(self) -> Floats:
        """What each recipe is worth: its mean accuracy after the last epoch, over its seeds."""
        return np.asarray(np.nanmean(self.last, axis=1))

    @property
    def variances(self) -> Floats:
        """The variance of each recipe's accuracy after the last epoch, between seeds."""
        return np.asarray(np.nanvar(self.last, axis=1, ddof=1))

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
    curves: Mapping[Key, Sequence[Mapping[str, float]]],
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
    _pack(f"{task}{CURVES}", "\n".join(lines) + "\n")
    written = {
        arm: {**content, "distributions": _written(content)} for arm, content in arms.items()
    }
    _pack(f"{task}{RECIPES}", json.dumps(written, indent=0))


def _written(content: Mapping[str, Any]) -> dict[str, Any]:
    ranges = content["distributions"].items()
    return {name: json.loads(distribution_to_json(one)) for name, one in sorted(ranges)}


def _pack(name: str, text: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / name).open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as into:
        into.write(text.encode())


def read_curves(task: str) -> dict[Key, list[dict[str, float]]]:
    """Return a task's curves as `write_table` received them; none if there is no table."""
    path = FOLDER / f"{task}{CURVES}"
    curves: dict[Key, list[dict[str, float]]] = {}
    for row in _rows(path) if path.exists() else ():
        key = row["arm"], int(row["recipe"]), int(row["seed"])
        curves.setdefault(key, []).append({name: float(row[name]) for name in SIGNALS})
    return curves


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def complete_tasks() -> list[str]:
    """Return the tasks of which every recipe was recorded."""
    files = sorted(FOLDER.glob(f"*{CURVES}"))
    return [name for file in files if _is_complete(name := file.name.removesuffix(CURVES))]


def _is_complete(task: str) -> bool:
    arms = _recipes(task)
    counts = Counter((arm, seed) for arm, _, seed in read_curves(task))
    wanted = product(((arm, len(told["parameters"])) for arm, told in arms.items()), range(SEEDS))
    return all(counts[arm, seed] == count for (arm, count), seed in wanted)


def _recipes(task: str) -> dict[str, Any]:
    with gzip.open(FOLDER / f"{task}{RECIPES}", "rt", encoding="utf-8") as file:
        return dict(json.load(file))


@cache
def read_table(task: str, arm: str) -> Table:
    """Return one arm of a task."""
    told = _recipes(task)[arm]
    rows = [row for row in _rows(FOLDER / f"{task}{CURVES}") if row["arm"] == arm]
    horizon = max(int(row["epoch"]) for row in rows)
    shape = (len(told["parameters"]), SEEDS + FRESH_SEEDS, horizon)
    places = np.array([[int(row["recipe"]), int(row["seed"])] for row in rows])
    recorded = np.zeros(shape[:2], dtype=bool)
    recorded[tuple(places.T)] = True
    signals = {name: np.full(shape, 0.0 if name == "accuracy" else np.inf) for name in SIGNALS}
    for row, (recipe, seed) in zip(rows, places, strict=True):
        for name in SIGNALS:
            signals[name][recipe, seed, int(row["epoch"]) - 1] = float(row[name])
    for found in signals.values():
        found[~recorded] = np.nan
    signals[EARLY] = signals["early_nll"].cumsum(axis=2) / np.arange(1, horizon + 1)
    ranges = told["distributions"]
    return Table(
        task=task,
        arm=arm,
        parameters=tuple(told["parameters"]),
        distributions={name: json_to_distribution(json.dumps(one)) for name, one in ranges.items()},
        enqueued=int(told["enqueued"]),
        seeds=recorded.sum(1),
        signals=signals,
    )
