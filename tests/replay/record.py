"""Trains random recipes of the built-in spaces to the horizon, and records their learning curves.

All are trained on two seeds; the best fifth on four more, which tell what a recipe is worth.

    python -m tests.replay.record TASK ROOT CIFAR      goes on where it was interrupted
    python -m tests.replay.record TASK ROOT            writes the table of what is recorded so far

TASK is one of `TASKS`, ROOT a folder for its studies, CIFAR a folder of CIFAR-10 as images. After
each epoch all signals are computed of the same network. The table is written to `TABLES`.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from optuna.trial import BaseTrial, FixedTrial
from torch.nn import functional

from conductor.command_line.cli import main as study
from conductor.stages.provenance import read_context
from kd.seeds import derive_seed
from kd.training.early import batch_logits
from kd.training.evaluation import predict
from search_spaces.context import StudyContext
from search_spaces.digest import seeded_trials
from search_spaces.space import Space, load_space
from storage.files.artifacts import read_json, write_json
from storage.files.layout import Layout
from tests.replay.tables import (
    FRESH_SEEDS,
    SEEDS,
    SIGNALS,
    Key,
    read_curves,
    write_table,
)
from tests.replay.training import Trained, trained
from workers.jobs import JobContext

Curves = dict[Key, list[dict[str, float]]]

RECIPES = {"scheduled": 300, "plain": 100}  # recipes of each arm
BEST = 5  # of so many recipes, the best one is trained on fresh seeds too
OLDER = ("airplane", "automobile", "bird", "cat", "deer")  # classes that weights are trained on
_SMALL = "--image-size 16 --batch-size 64 --confirm-epochs 1 "
TASKS = {  # its flags; CIFAR and ROOT stand for folders
    "digits": "",
    "cifar": _SMALL + "--dataset folder:CIFAR --train-size 1200 --teacher resnet14-w0.5 "
    "--teacher-epochs 20 --student resnet8-w0.25 --epochs 12",
    "pretrained": _SMALL + "--dataset folder:ROOT/newer --train-size 600 --teacher resnet14-w0.5 "
    "--teacher-weights ROOT/resnet14-w0.5.safetensors --teacher-epochs 15 --student resnet8-w0.25 "
    "--student-weights ROOT/resnet8-w0.25.safetensors --epochs 30",
}
EARLIER = _SMALL + "--dataset folder:ROOT/older --train-size 8000 --teacher-epochs 10 --epochs 1"


def prepare(task: str, root: Path, cifar: Path) -> JobContext:
    """Make a study, whose teacher and cache serve all runs; return the context of its jobs."""
    if task == "pretrained":
        _pretrain(root, cifar)
    made = Layout(root).study(task)
    if not made.report_json.exists():
        _study(TASKS[task], task, root, cifar)
    return read_context(made)


def _study(flags: str, name: str, root: Path, cifar: Path) -> None:
    places = flags.replace("CIFAR", str(cifar)).replace("ROOT", str(root))
    few = ["--trials", "1", "--seeds", "1", "--name", name, "--root", str(root)]
    if code := study([*places.split(), *few]):
        raise SystemExit(code)


def _pretrain(root: Path, cifar: Path) -> None:
    """Train student and teacher on half of the classes, as teachers of studies; copy the others."""
    for split in ("train", "test"):
        for found in sorted((cifar / split).iterdir()):
            copy = root / ("older" if found.name in OLDER else "newer") / split / found.name
            if not copy.exists():
                shutil.copytree(found, copy)
    for model in ("resnet14-w0.5", "resnet8-w0.25"):
        weights = root / f"{model}.safetensors"
        if weights.exists():
            continue
        more = f" --teacher {model} --student resnet8-w0.25"
        _study(EARLIER + more, f"older-{model}", root, cifar)
        context = read_context(Layout(root).study(f"older-{model}"))
        os.link(context.layout.teacher_weights(context.teachers[0]), weights)


def space_of(arm: str, context: JobContext) -> Space:
    protocol = context.protocol
    known = StudyContext(
        taps=context.taps,
        optimizer=protocol.optimizer,
        students=protocol.students,
        pretrained=protocol.student_weights != "none",
    )
    return load_space(arm, known)


def drawn(arm: str, context: JobContext) -> list[BaseTrial]:
    """Return trials with an arm's recipes: the enqueued ones, then random ones."""
    space = space_of(arm, context)
    first = [FixedTrial(dict(parameters)) for parameters in space.enqueued.values()]
    trials = [*first, *seeded_trials(RECIPES[arm] - len(first))]
    for trial in trials:
        space.suggest(trial)
    return trials


def product_of(counts: Iterable[tuple[str, int]], seeds: Iterable[int]) -> Iterator[Key]:
    for (arm, count), seed in product(counts, seeds):
        yield from ((arm, number, seed) for number in range(count))


def _best(arm: str, curves: Curves) -> list[int]:
    """Return the part of an arm's recipes with the highest mean accuracy after the last epoch."""
    horizon = max(map(len, curves.values()))

    def worth(number: int) -> float:
        rows = [curves[arm, number, seed] for seed in range(SEEDS)]
        return sum(each[-1]["accuracy"] for each in rows if len(each) == horizon)

    return sorted(range(RECIPES[arm]), key=worth, reverse=True)[: RECIPES[arm] // BEST]


def measure(context: JobContext, key: Key, path: Path) -> list[dict[str, float]]:
    """Train a recipe on a seed; return the signals by epoch, fewer if it diverges."""
    arm, number, seed = key
    fixed = FixedTrial(drawn(arm, context)[number].params)
    recipe = space_of(arm, context).suggest(fixed)
    rows = [_signals(epoch) for epoch in trained(context, recipe, derive_seed(0, "record", seed))]
    write_json(path, {"rows": rows})
    return rows


def _signals(epoch: Trained) -> dict[str, float]:
    network, validation = epoch.network, epoch.validation
    row = {name: getattr(epoch.metrics, name) for name in SIGNALS if name != "batch_nll"}
    early, labels = batch_logits(network, validation, len(epoch.data)) or (
        predict(network, validation),
        validation.labels,
    )
    return {**row, "batch_nll": float(functional.cross_entropy(early.double(), labels))}


def record(task: str, root: Path, cifar: Path) -> None:
    """Train what is neither in the table nor in ROOT, and write the table."""
    context = prepare(task, root, cifar)
    curves = known(task, root)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:

        def run(keys: Iterable[Key]) -> None:
            new = [key for key in keys if key not in curves]
            jobs = {key: pool.submit(measure, context, key, _file(root, task, key)) for key in new}
            for done, (key, job) in enumerate(jobs.items(), 1):
                curves[key] = job.result()
                print(task, *key, f"{done} of {len(jobs)}", flush=True)

        run(product_of(RECIPES.items(), range(SEEDS)))
        best = {arm: _best(arm, curves) for arm in RECIPES}
        further = range(SEEDS, SEEDS + FRESH_SEEDS)
        run((arm, number, seed) for arm in RECIPES for number in best[arm] for seed in further)
    write(task, context, curves)


def known(task: str, root: Path) -> Curves:
    """Return the curves in the table, and those that were recorded since."""
    every = product_of(RECIPES.items(), range(SEEDS + FRESH_SEEDS))
    files = {key: _file(root, task, key) for key in every}
    new = {key: list(read_json(file)["rows"]) for key, file in files.items() if file.exists()}
    return {**read_curves(task), **new}


def _file(root: Path, task: str, key: Key) -> Path:
    arm, number, seed = key
    return root / "curves" / task / arm / f"{number}-{seed}.json"


def write(task: str, context: JobContext, curves: Curves) -> None:
    trials = {arm: drawn(arm, context) for arm in RECIPES}
    arms = {
        arm: {
            "enqueued": len(space_of(arm, context).enqueued),
            "distributions": {name: one for t in found for name, one in t.distributions.items()},
            "parameters": [trial.params for trial in found],
        }
        for arm, found in trials.items()
    }
    write_table(task, arms, dict(sorted(curves.items())))


def main(task: str, root: Path, cifar: Path | None) -> None:
    if cifar:
        record(task, root, cifar)
    else:
        write(task, read_context(Layout(root).study(task)), known(task, root))


if __name__ == "__main__":
    task, *folders = sys.argv[1:]
    root, *more = (Path(folder).resolve() for folder in folders)
    main(task, root, *more or (None,))
