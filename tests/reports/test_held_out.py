"""Verdicts on real students of imbalanced data, 95:5: false claims and coverage.

Sixty runs of each of two recipes, which differ by their seeds, learn whether a digit is an 8. All
images that they were not trained on are held out: their scores over all runs are the truth. A study
is drawn from these: six seeds of either side, and half of the held-out images as its test split.
Studies share runs and images, so the error of a share is that between blocks of runs apart.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kd.data.examples import Examples
from kd.data.inputs import describe
from kd.data.reading.source import Reading
from kd.data.splits import load_source
from kd.losses.adapters import Adapters
from kd.models.build import build
from kd.recipe import Recipe
from kd.training.evaluation import predict
from kd.training.loop import Plan, train
from kd.training.scoring import scores
from kd.training.state import TrainingState
from reports.statistics import paired_difference
from tests.reports.test_imbalance import METRICS, RARE
from workers.machine import usable_cores

RUNS, SEEDS, BLOCKS, STUDIES = 60, 6, 5, 400  # studies of a block
TRAINED = 600  # images
WEIGHTS = ("balanced", "none")  # of classes, in the two recipes
Scores = NDArray[np.float64]


def split() -> tuple[Examples, Examples]:
    """Training and held-out images, each with the same share of eights."""
    source = load_source("digits-rare", Reading(8), Path(gettempdir()))
    order = np.random.default_rng(0).permutation(len(source.labels))
    eights, others = (order[source.labels[order] == label] for label in (1, 0))
    rare = round(RARE * TRAINED)
    rows = np.concatenate([eights[:rare], others[: TRAINED - rare]])
    inputs = describe(source, np.sort(rows))
    parts = (np.sort(rows), np.setdiff1d(order, rows))
    trained, held_out = (
        Examples(
            values=torch.from_numpy(source.inputs[part]),
            labels=torch.from_numpy(source.labels[part]),
            inputs=inputs,
        )
        for part in parts
    )
    return trained, held_out


def answers(class_weights: str, seed: int) -> NDArray[np.float32]:
    """Train a student; return its logits [N, 2] of the held-out images."""
    torch.set_num_threads(1)
    data, held_out = split()
    network = build("resnet8-w0.25", classes=2, inputs=data.inputs, stem="cifar", seed=seed)
    recipe = Recipe(lr=0.05)
    state = TrainingState.start(network, Adapters({}, {}, seed=0), recipe)
    plan = Plan(
        epochs=8,
        batch_size=64,
        warmup=0.1,
        augment="crop=1",
        view_seed=0,
        views=range(8),
        seed=seed,
        class_weights=class_weights,
    )
    for _ in train(state, recipe, plan, data, data.first(64)):
        pass
    return np.asarray(predict(state.result, held_out))


@pytest.fixture(scope="module")
def students() -> dict[str, list[NDArray[np.float32]]]:
    """The held-out logits of all runs of each recipe."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), mp_context=context) as pool:
        runs = {
            weights: [pool.submit(answers, weights, seed) for seed in range(RUNS)]
            for weights in WEIGHTS
        }
        return {weights: [run.result() for run in found] for weights, found in runs.items()}


@pytest.mark.thorough
@pytest.mark.parametrize("metric", METRICS)
def test_false_claims_and_coverage_on_held_out_images(
    students: dict[str, list[NDArray[np.float32]]], metric: str
) -> None:
    labels = split()[1].labels.numpy()
    weighted, plain = (np.stack(students[weights]) for weights in WEIGHTS)

    def scored(logits: NDArray[np.float32], images: NDArray[np.intp]) -> Scores:
        return np.stack([scores(metric, one[images], labels[images]) for one in logits])

    whole = np.arange(len(labels))
    true = float(scored(weighted, whole).mean() - scored(plain, whole).mean())
    draw = np.random.default_rng(1)
    claimed, covered = np.zeros((2, BLOCKS))
    for block, runs in enumerate(np.array_split(draw.permutation(RUNS), BLOCKS)):
        for _ in range(STUDIES):
            images = half(labels, draw)
            one, other = draw.permutation(runs).reshape(2, SEEDS)
            same = paired_difference(*(scored(weighted[seeds], images) for seeds in (one, other)))
            claimed[block] += not same.low <= 0 <= same.high
            differs = paired_difference(scored(weighted[one], images), scored(plain[other], images))
            covered[block] += differs.low <= true <= differs.high
    for name, counts in (("false claims", claimed), ("coverage", covered)):
        shares = counts / STUDIES
        error = shares.std(ddof=1) / BLOCKS**0.5
        print(f"\n{metric}: {name} {shares.mean():.1%} ± {error:.1%}, true {true:+.4f}")
    assert claimed.mean() / STUDIES <= 0.05
    assert covered.mean() / STUDIES >= 0.93


def half(labels: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.intp]:
    """Draw half of the images of each class."""
    parts = [draw.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    return np.concatenate([part[: len(part) // 2] for part in parts])
