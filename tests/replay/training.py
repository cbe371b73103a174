"""Trains a recipe by a study's own means, and yields the network after each epoch."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch

from kd.data.examples import Examples
from kd.errors import DivergenceError
from kd.models.network import Network
from kd.models.numerics import place
from kd.recipe import Recipe
from kd.training.history import EpochMetrics
from kd.training.loop import Plan, train
from kd.training.state import TrainingState
from workers.jobs import JobContext, TrainJob
from workers.runners.caching import view_seed
from workers.runners.loading import open_parts, starting_student, teacher_source
from workers.runners.training import adapters_of

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Trained:
    """The network after an epoch, what the study records of it, and the splits of the data."""

    metrics: EpochMetrics
    network: Network
    data: Examples
    validation: Examples


def trained(context: JobContext, recipe: Recipe, seed: int) -> Iterator[Trained]:
    """Train to the horizon on one thread; end where the run diverges."""
    torch.set_num_threads(1)
    protocol = context.protocol
    views = list(range(protocol.view_count))
    own = {"seed": seed, "horizon": protocol.epochs, "views": views}
    job = context.job(TrainJob, recipe=recipe, folder="", **own)
    network = place(starting_student(job, seed, recipe.student), CPU)
    data, validation = open_parts(job, CPU)
    state = TrainingState.start(
        network, adapters_of(job, network), recipe, protocol.optimizer, protocol.ema
    )
    shown = view_seed(protocol)
    plan = Plan.of(protocol, epochs=job.horizon, view_seed=shown, views=views, seed=seed)
    with suppress(DivergenceError):
        for metrics in train(state, recipe, plan, data, validation, teacher_source(job, CPU)):
            yield Trained(metrics, network, data, validation)
