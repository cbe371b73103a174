"""Measures signals of early epochs: how they rank recipes, and what they cost.

    python -m tests.replay.signals ROOT CIFAR      writes docs/early-signal.md

ROOT is a folder for three studies, which are made if they are not there, CIFAR a folder of CIFAR-10
as images. Each recipe is a random one of `scheduled`, trained to the horizon without pruning; after
each epoch all signals are computed of the same network. A run that was measured is kept in ROOT.
"""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from conductor.command_line.cli import main as study
from conductor.stages.provenance import read_context
from kd.data.examples import Examples
from kd.models.network import Network
from kd.seeds import derive_seed
from kd.training.early import BATCH, SHARE, batch_logits, early_nll, scaled_nll
from kd.training.evaluation import predict
from search_spaces.context import StudyContext
from search_spaces.digest import seeded_trials
from search_spaces.space import load_space
from storage.files.artifacts import read_json, write_json
from storage.files.layout import Layout
from tests.benchmarks.machine import described
from tests.replay.training import Trained, trained
from tests.support.processes import ROOT, commit
from workers.jobs import JobContext

RECIPES = 40  # of each pair
PRECISE = (4, 128)  # batches, and images of each, that PreciseBN's statistics are computed over
SHOWN = (1, 2, 3, 4, 6, 8, 12)  # epochs
PAGE = ROOT / "docs" / "early-signal.md"
HEAD = f"""\
# The early signal, measured
Written by `python -m tests.replay.signals ROOT CIFAR`, at commit COMMIT. Kendall's rank correlation
of a signal after some epochs with the validation accuracy after the last one, over random recipes
of `scheduled` that are trained to the end; and what computing the signal costs, as a share of an
epoch. In the first epochs, scores that are measured with BatchNorm's running statistics may rank
recipes hardly better than chance; and how confident a recipe makes a student says little about its
accuracy. So `early_nll` of every epoch's record is the likelihood of validation images, at most an
eighth as many as are trained on, with the statistics of their own batch of {BATCH} and with logits
scaled by the best temperature. Without batch norm it is that of the whole validation split. The
early signal of a run is its mean over the epochs so far.

"""
# name of the study: what it is, and its flags
PAIRS = {
    "digits": ("The default study", ""),
    "layer-norm": (
        "resnet20 to a ConvNeXt, without batch norm, on the digits",
        "--student timm:test_convnext --image-size 32 --optimizer adamw",
    ),
    "many-steps": (
        "resnet14 to resnet8-w0.5 on CIFAR-10 (JPEG) at 16 pixels, 109 steps an epoch",
        "--dataset folder:CIFAR --image-size 16 --train-size 7000 --batch-size 64 "
        "--teacher resnet14 --teacher-epochs 6 --student resnet8-w0.5 --epochs 12 "
        "--confirm-epochs 1",
    ),
}
SIGNALS = {
    "accuracy": "accuracy, running statistics",
    "nll": "NLL, running statistics",
    "hard_loss": "hard loss of training",
    "batch": "NLL of up to an eighth as many images as are trained on, statistics of their batch",
    "early": "the same, logits scaled by the best temperature (`early_nll`)",
    "mean": "its mean over the epochs so far (the early signal)",
    "precise": f"`early_nll` with the statistics of {PRECISE[0]} training batches (PreciseBN)",
}
Row = dict[str, float]


def prepare(root: Path, name: str, cifar: str) -> JobContext:
    """Make a study, whose teacher and cache serve all runs; return the context of its jobs."""
    flags = [word.replace("CIFAR", cifar) for word in PAIRS[name][1].split()]
    made = Layout(root).study(name)
    if not made.report_json.exists():
        few = ["--trials", "1", "--seeds", "1", "--name", name, "--root", str(root)]
        if code := study([*flags, *few]):
            raise SystemExit(code)
    return read_context(made)


def measure(context: JobContext, name: str, number: int) -> list[Row]:
    """Train the recipe `number`; return the signals of each epoch, fewer if it diverges."""
    path = Path(context.root) / "signals" / name / f"{number}.json"
    if path.exists():
        return list(read_json(path)["rows"])
    protocol = context.protocol
    known = StudyContext(
        taps=context.taps, optimizer=protocol.optimizer, students=protocol.students
    )
    recipe = load_space("scheduled", known).suggest(list(seeded_trials(RECIPES))[number])
    rows = [_row(epoch) for epoch in trained(context, recipe, derive_seed(0, "signals", number))]
    for count, row in enumerate(rows, 1):
        row["mean"] = sum(one["early"] for one in rows[:count]) / count
    write_json(path, {"rows": rows})
    return rows


def _row(epoch: Trained) -> Row:
    network, data, validation = epoch.network, epoch.data, epoch.validation
    row = {
        name: getattr(epoch.metrics, name) for name in ("accuracy", "nll", "hard_loss", "seconds")
    }
    predicted = predict(network, validation)
    row["batch"], row["batch seconds"] = _timed(
        lambda: _unscaled(batch_logits(network, validation, len(data)), epoch.metrics.nll)
    )
    row["early"], row["early seconds"] = _timed(
        lambda: early_nll(network, validation, len(data), predicted, "accuracy")
    )
    row["precise"], row["precise seconds"] = _timed(lambda: _precise(network, data, validation))
    return row


def _unscaled(found: tuple[Tensor, Tensor] | None, otherwise: float) -> float:
    return float(functional.cross_entropy(*found)) if found else otherwise


def _timed(compute: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    return compute(), time.perf_counter() - started


@torch.no_grad()
def _precise(network: Network, data: Examples, validation: Examples) -> float:
    """Return the likelihood with statistics recomputed over training images, which are undone."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    before = [{name: kept.clone() for name, kept in one.named_buffers()} for one in layers]
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    if layers:
        for batch in _spread(data, PRECISE[0] * PRECISE[1])[0].split(PRECISE[1]):
            network(batch)
    network.eval()
    values, labels = _spread(validation, max(2, len(data) // SHARE))
    logits = network(values).double()
    found = scaled_nll(logits, labels, torch.ones(len(labels), dtype=torch.float64))
    for layer, buffers, momentum in zip(layers, before, momenta, strict=True):
        layer.load_state_dict(buffers, strict=False)
        layer.momentum = momentum
    return found


def _spread(split: Examples, most: int) -> tuple[Tensor, Tensor]:
    count = min(most, len(split))
    chosen = torch.arange(count) * len(split) // count
    return split.values[chosen], split.labels[chosen]


def table(runs: Sequence[list[Row]]) -> str:
    """Return, in Markdown, the rank correlation of each signal with the accuracy at the end."""
    horizon = max(map(len, runs))
    whole = [rows for rows in runs if len(rows) == horizon]
    final = [rows[-1]["accuracy"] for rows in whole]
    epoch = float(np.median([row["seconds"] for rows in whole for row in rows]))
    shown = [one for one in SHOWN if one <= horizon]
    lines = [
        f"| signal | {' | '.join(f'epoch {one}' for one in shown)} | cost |",
        f"|---|{'---|' * (len(shown) + 1)}",
    ]
    for key, name in SIGNALS.items():
        sign = 1 if key == "accuracy" else -1
        taus = [
            float(kendalltau([sign * rows[one - 1][key] for rows in whole], final).statistic)
            for one in shown
        ]
        cost = "none"
        if f"{key} seconds" in whole[0][0]:
            spent = np.median([row[f"{key} seconds"] for rows in whole for row in rows])
            cost = f"{100 * float(spent) / epoch:.1f} %"
        lines.append(f"| {name} | {' | '.join(f'{tau:.2f}' for tau in taus)} | {cost} |")
    lost = len(runs) - len(whole)
    lines.append(f"\n{len(whole)} recipes{f'; {lost} more diverged' if lost else ''}.")
    return "\n".join(lines)


def main(root: Path, cifar: str) -> None:
    machine, sections = described(), []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for name, (what, _) in PAIRS.items():
            context = prepare(root, name, cifar)
            jobs = [pool.submit(measure, context, name, number) for number in range(RECIPES)]
            sections.append(f"## {what}\n\n{table([job.result() for job in jobs])}\n")
    rows = [f"| {name} | {text} |" for name, text in machine.items()]
    sections.append("\n".join(["| machine | |", "|---|---|", *rows]))
    text = HEAD.replace("COMMIT", commit()) + "\n".join(sections) + "\n"
    print(text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
