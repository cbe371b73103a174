"""Training: one run of one recipe, as a generator of epochs that can be saved and resumed."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from kd import schedules
from kd.data.examples import Examples
from kd.errors import DivergenceError
from kd.losses.hard import balanced_weights
from kd.models.numerics import Forward, training_backward, training_forward
from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.early import early_nll
from kd.training.evaluation import evaluate, predict
from kd.training.history import EpochMetrics
from kd.training.recipe_losses import RecipeLosses
from kd.training.scoring import objective
from kd.training.state import TrainingState
from kd.training.teacher import TeacherReading, TeacherSource

LOSSES = ("loss", "hard_loss", "soft_loss", "feature_loss")  # of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings of a run that are not in its recipe.

    Epoch e (from 0) is trained on view `views[e % len(views)]`. `seed` decides initialisation,
    batch order and dropout; `view_seed` the content of the views, the same for a whole study.
    """

    epochs: int  # the horizon: schedules are planned for it, even if the run is ended earlier
    until: int = 0  # the last epoch that is trained (0: the horizon)
    batch_size: int
    warmup: float
    augment: str  # as the protocol's
    view_seed: int
    views: Sequence[int]
    seed: int
    precision: str = "float32"  # of the forward pass; see `kd.models.numerics`
    compile: bool = False
    metric: str = "accuracy"  # of `EpochMetrics.objective`
    clip: float = 0.0  # largest norm of the gradient of all trained parameters; 0: no limit
    class_weights: str = "none"  # of the hard loss: none, or balanced
    files: Path | None = None  # folder with the copy of a soft loss of the user's own
    study_taps: tuple[str, ...] = ()  # all of which that loss reads

    @property
    def end(self) -> int:
        """The last epoch that is trained."""
        return self.until or self.epochs

    @classmethod
    def of(cls, protocol: Protocol, **own: Any) -> Self:
        """Return a plan with the fields `own`, and all others from the protocol."""
        names = (item.name for item in fields(cls) if hasattr(protocol, item.name))
        return cls(**{**{name: getattr(protocol, name) for name in names}, **own})


def train(
    state: TrainingState,
    recipe: Recipe,
    plan: Plan,
    data: Examples,
    validation: Examples,
    source: TeacherSource | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[EpochMetrics]:
    """Train from `state` to the plan's end, and yield the metrics of every epoch.

    A recipe that distils requires `source`; with it, the student is also compared with the teacher
    on the validation split. `stopped` is called before each step: once it returns True, the
    generator ends in the middle of an epoch, and the state must not be saved.
    Raises DivergenceError when a loss or a weight is not finite.
    """
    forward = training_forward(state.network, data.device, plan.precision, plan.compile)
    while state.epoch < plan.end:
        started = time.perf_counter()
        trained = _train_epoch(state, forward, recipe, plan, data, source, stopped)
        if trained is None:
            return
        validated = _validate(state, plan.metric, validation, source, len(data))
        seconds = time.perf_counter() - started
        state.epoch += 1
        epoch = EpochMetrics(epoch=state.epoch, seconds=seconds, **trained, **validated)
        state.history.append(epoch)
        yield epoch


def _validate(
    state: TrainingState,
    metric: str,
    validation: Examples,
    source: TeacherSource | None,
    trained: int,
) -> dict[str, Any]:
    logits = predict(state.result, validation)
    if not logits.isfinite().all():
        raise DivergenceError(f"the weights are not finite after epoch {state.epoch + 1}")
    teacher_logits = source.validation_logits if source else None
    labels = validation.labels.cpu()
    value = objective(metric, logits.numpy(), labels.numpy())
    scores = evaluate(logits, labels, teacher_logits)
    early = early_nll(state.result, validation, trained, logits, metric)
    if not math.isfinite(early):
        raise DivergenceError(f"the weights are not finite after epoch {state.epoch + 1}")
    return {"objective": value, **scores, "early_nll": early}


def _train_epoch(
    state: TrainingState,
    forward: Forward,
    recipe: Recipe,
    plan: Plan,
    data: Examples,
    source: TeacherSource | None,
    stopped: Callable[[], bool],
) -> dict[str, float] | None:
    """Train one epoch; no step waits for the device.

    Returns mean losses, and temperature, alpha and lr of the last step; None if it was stopped.
    """
    k = plan.views[state.epoch % len(plan.views)]
    rows = data.view(plan.view_seed, k, plan.augment)
    order = _order(plan, state.epoch, len(data))
    torch.manual_seed(derive_seed(plan.seed, "dropout", state.epoch))
    backward = training_backward(state.network, data.device)
    weights = None
    if plan.class_weights == "balanced":
        weights = balanced_weights(data.labels)
    losses = RecipeLosses.of(recipe, plan.files, plan.study_taps, weights)
    state.network.train()
    # one table, since small tensors that stay between large ones would fragment the heap
    steps = torch.empty(len(order), len(LOSSES), device=data.device)
    temperature = alpha = lr = 0.0
    batches = zip(order, data.batches(order, rows), strict=True)
    for done, (index, (images, labels)) in enumerate(batches):
        if stopped():
            return None
        progress = (state.epoch + done / len(order)) / plan.epochs
        temperature = recipe.temperature.value(progress)
        alpha = recipe.alpha.value(progress)
        lr = recipe.lr * schedules.warmup_cosine(progress, plan.warmup)
        logits, maps = forward(images, losses.taps)
        reading = _read(source, recipe, losses.taps, k, index, images)
        parts = losses.compute(temperature, logits, maps, labels, reading, state.adapters)
        loss = (1 - alpha) * parts[0] + alpha * parts[1] + recipe.feature_weight * parts[2]
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.optimizer.zero_grad(set_to_none=True)
        backward(loss)
        if plan.clip:
            clip_grad_norm_(state.trained, plan.clip)
        state.optimizer.step()
        if state.average:
            state.average.update(state.epoch * len(order) + done)
        steps[done] = torch.stack([loss, *parts]).detach()
    settings = {"temperature": temperature, "alpha": alpha, "lr": lr}
    return _means(steps, state.epoch) | settings


def _order(plan: Plan, epoch: int, count: int) -> list[Tensor]:
    """Return shuffled batches of training rows, on the CPU; a last incomplete one is omitted."""
    generator = torch.Generator().manual_seed(derive_seed(plan.seed, "order", epoch))
    size = min(plan.batch_size, count)
    order = torch.randperm(count, generator=generator)[: count // size * size]
    return list(order.split(size))


def _read(
    source: TeacherSource | None,
    recipe: Recipe,
    taps: Sequence[str],
    k: int,
    index: Tensor,
    images: Tensor,
) -> TeacherReading | None:
    """Return the teacher's output for a batch of view `k`; None if the recipe does not distil."""
    if not recipe.distils:
        return None
    if source is None:
        raise ValueError("a recipe that distils needs a teacher")
    return source.read(k, index, images, taps)


def _means(steps: Tensor, epoch: int) -> dict[str, float]:
    """Return the mean losses of an epoch, of those of each step. Only this waits for the device.

    Raises DivergenceError for a loss that is not finite."""
    table = steps.cpu().double()
    finite = table.isfinite().all(1)
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise DivergenceError(f"the loss is not finite at step {step} of epoch {epoch + 1}")
    return dict(zip(LOSSES, table.mean(0).tolist(), strict=True))
