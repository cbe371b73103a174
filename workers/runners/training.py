"""The job that trains a student, with checkpoints, and tests it if it is a finalist."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from kd.data.examples import Examples
from kd.errors import ArtifactError
from kd.json_data import plain
from kd.losses.adapters import Adapters
from kd.models.build import Network, tap_shapes
from kd.models.numerics import place
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.evaluation import evaluate, predict
from kd.training.loop import Plan, train
from kd.training.scoring import objective
from kd.training.state import TrainingState
from kd.training.teacher import TeacherSource
from storage.files.artifacts import locked, sweep
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from storage.files.datasets import open_test
from storage.files.layout import RunLayout
from storage.files.shards import read_projections
from storage.files.tensors import write_tensors
from workers.events import EpochDone, Event, Note, Result, ShouldStop
from workers.jobs import TrainJob
from workers.runners.caching import view_seed
from workers.runners.loading import open_parts, placed, starting_student, teacher_source


def run_train(job: TrainJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Train one student; an interrupted run continues after its last full epoch."""
    run = job.run
    with locked(run.lock, wait=True):
        network = place(starting_student(job, job.seed, job.recipe.student), device)
        data, validation = open_parts(job, device)
        adapters = adapters_of(job, network).to(device)
        optimizer, ema = job.protocol.optimizer, job.protocol.ema
        state = TrainingState.start(network, adapters, job.recipe, optimizer, ema)
        identity = {
            "protocol": job.protocol.hash,
            "recipe": plain(job.recipe, defaults=False),
            "seed": job.seed,
            "horizon": job.horizon,
            "views": job.views,
            "dataset": job.dataset,
            "shards": list(job.shards),
        }
        source = teacher_source(job, device)
        if len(source.validation_logits) != len(validation):
            folders = " and ".join(str(job.layout.shards(shards)) for shards in job.shards)
            raise ArtifactError(
                f"{folders} holds {len(source.validation_logits)} rows of the validation split, "
                f"not {len(validation)}; delete it to have it made again"
            )
        plan = Plan.of(
            job.protocol,
            epochs=job.horizon,
            view_seed=view_seed(job.protocol),
            views=job.views,
            seed=job.seed,
            files=job.layout.own,
            study_taps=job.taps,
            until=job.until,
        )
        yield from checkpointed(
            state, job.recipe, plan, data, validation, source, run, identity, stopped
        )
        if stopped():
            return
        test = _test(job, state.result, device) if job.confirm else None
    yield Result.of(test=test)


def adapters_of(job: TrainJob, network: Network) -> Adapters:
    """Return what the recipe's feature loss trains at each of its taps, if anything."""
    recipe = job.recipe
    if not recipe.feature_taps:
        return Adapters({}, {}, seed=0)
    shapes = tap_shapes(network)
    lead = job.shards[recipe.lead(len(job.shards))]
    projections, _ = read_projections(job.layout.shards(lead))
    return Adapters.of(
        recipe.feature_kind,
        {tap: shapes[tap][0] for tap in recipe.feature_taps},
        {tap: projections[tap].vectors.shape[1] for tap in recipe.feature_taps},
        seed=derive_seed(job.seed, "adapters"),
    )


def checkpointed(
    state: TrainingState,
    recipe: Recipe,
    plan: Plan,
    data: Examples,
    validation: Examples,
    source: TeacherSource | None,
    run: RunLayout,
    identity: Mapping[str, Any],
    stopped: ShouldStop,
) -> Iterator[Event]:
    """Train with a checkpoint after every epoch; report the epochs of an earlier one first."""
    sweep(run.checkpoint)
    if run.checkpoint.exists():
        yield from _resume(state, run, identity)
    for metrics in state.history[: plan.end]:  # a job that failed may have come further
        yield EpochDone(metrics=metrics, total=plan.epochs)
    for metrics in train(state, recipe, plan, data, validation, source, stopped):
        write_checkpoint(run.checkpoint, identity, state.tensors(), state.history)
        yield EpochDone(metrics=metrics, total=plan.epochs)


def _resume(state: TrainingState, run: RunLayout, identity: Mapping[str, Any]) -> Iterator[Event]:
    """Restore the checkpoint; if it does not fit, report that and start from the first epoch."""
    try:
        tensors, history = read_checkpoint(run.checkpoint, identity)
        state.restore(tensors, history)
    except ArtifactError as error:
        yield Note(text=f"training starts again from its first epoch: {error}")


def _test(job: TrainJob, network: Network, device: torch.device) -> dict[str, float | None]:
    """Test the student on the test split; write its weights and logits, return its scores."""
    folder = job.layout.dataset(job.dataset)
    test = open_test(folder, job.protocol.dataset, Path(job.seal), job.confirm)
    logits = predict(network, placed(test, device))
    write_tensors(job.run.weights, network.state_dict())
    write_tensors(job.run.predictions, {"logits": logits, "labels": test.labels})
    tested = evaluate(logits, test.labels)
    value = objective(job.protocol.metric, logits.numpy(), test.labels.numpy())
    return {"objective": value, **{key: tested[key] for key in ("accuracy", "nll", "ece")}}
