"""Training: one run of one recipe, as a generator of epochs; its state can be kept in between."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kd import schedules
from kd.data.views import Augmentation, normalise, render, view
from kd.errors import ArtifactError, DivergenceError
from kd.losses.features import Adapters, feature_loss
from kd.losses.logits import SOFT_LOSSES, hard
from kd.models.build import Network
from kd.models.numerics import Forward, training_backward, training_forward
from kd.recipe import Recipe, Schedule
from kd.seeds import derive_seed
from kd.training import evaluation
from kd.training.evaluation import LabelledImages, predict
from kd.training.history import EpochMetrics
from kd.training.scoring import objective
from kd.training.teacher import Reading, TeacherSource

MOMENTUM = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run's protocol fixes: everything that the recipe does not say.

    Epoch e (from 0) is trained on view `views[e % len(views)]`. `seed` decides initialisation,
    batch order and dropout; `view_seed` the content of the views, the same for a whole study.
    """

    epochs: int  # the horizon: schedules are planned for it, however far the run is let go
    batch_size: int
    warmup: float
    augmentation: Augmentation
    view_seed: int
    views: Sequence[int]
    seed: int
    precision: str = "float32"  # of the forward pass; see `kd.models.numerics`
    compile: bool = False
    metric: str = "accuracy"  # of `EpochMetrics.objective`


@dataclass(slots=True)
class TrainingState:
    """Everything that a run changes; kept between two epochs, it lets the run go on bit by bit.

    Batch order and dropout are drawn from (seed, epoch), so no generator's state is part of it.
    """

    network: Network
    adapters: Adapters
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    history: list[EpochMetrics] = field(default_factory=list)

    @classmethod
    def start(cls, network: Network, adapters: Adapters, recipe: Recipe) -> "TrainingState":
        """Make the optimizer: SGD with Nesterov momentum over the student and its adapters.

        Every parameter has a momentum from the start, 0, also one that is frozen, or that no
        gradient ever reaches: the state is then the same after any epoch, and the fused step, which
        takes no tensor for missing, serves a parameter whose first gradient comes late.
        """
        parameters = [*network.parameters(), *adapters.parameters()]
        device = parameters[0].device.type
        optimizer = torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=recipe.weight_decay,
            fused=device in ("cpu", "cuda"),
        )
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())
        return cls(network, adapters, optimizer)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name."""
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, value in self.adapters.state_dict().items():
            named[f"adapters.{name}"] = value
        return named | self._momentum()

    def _momentum(self) -> dict[str, Tensor]:
        parameters = self.optimizer.param_groups[0]["params"]
        return {
            f"optimizer.{index}": self.optimizer.state[parameter]["momentum_buffer"]
            for index, parameter in enumerate(parameters)
        }

    def restore(self, named: dict[str, Tensor], history: list[EpochMetrics]) -> None:
        """Put back what `tensors` returned after the last epoch of `history`.

        Raises ArtifactError, and changes nothing, when they are those of another model or recipe.
        """
        modules = {"network": self.network, "adapters": self.adapters}
        targets = {
            f"{part}.{name}": value
            for part, module in modules.items()
            for name, value in module.state_dict().items()
        }
        targets |= self._momentum()
        _check_alike(named, targets)
        for name, target in targets.items():
            target.copy_(named[name])
        self.history = list(history)
        self.epoch = len(history)


def _check_alike(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Raise ArtifactError unless both have the same names, shapes and dtypes."""
    for name in sorted({*named, *targets}):
        found, wanted = _described(named.get(name)), _described(targets.get(name))
        if found != wanted:
            raise ArtifactError(
                f"the checkpoint is of another run: {name} is {found}, not {wanted}"
            )


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def train(
    state: TrainingState,
    recipe: Recipe,
    plan: Plan,
    data: LabelledImages,
    validation: LabelledImages,
    source: TeacherSource | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[EpochMetrics]:
    """Train from where `state` is to the plan's horizon, yielding after every epoch.

    `source` is needed by a recipe that distils; with it, every run is also compared with the
    teacher on the validation split. `stopped` is asked before each step: once it says True the
    generator ends at once, and the state, being amid an epoch, is not to be kept.
    Raises DivergenceError when a loss stops being finite.
    """
    device = data.labels.device
    forward = training_forward(state.network, device, plan.precision, plan.compile)
    while state.epoch < plan.epochs:
        started = time.perf_counter()
        trained = _train_epoch(state, forward, recipe, plan, data, source, stopped)
        if trained is None:
            return
        scores = _validate(state, plan.metric, validation, source)
        seconds = time.perf_counter() - started
        state.epoch += 1
        epoch = EpochMetrics(epoch=state.epoch, seconds=seconds, **trained, **scores)
        state.history.append(epoch)
        yield epoch


def _validate(
    state: TrainingState, metric: str, validation: LabelledImages, source: TeacherSource | None
) -> dict[str, Any]:
    logits = predict(state.network, validation)
    if not logits.isfinite().all():
        raise DivergenceError(f"the weights are not finite after epoch {state.epoch + 1}")
    teacher_logits = source.validation_logits if source else None
    labels = validation.labels.cpu()
    value = objective(metric, logits.numpy(), labels.numpy())
    return {"objective": value, **evaluation.scores(logits, labels, teacher_logits)}


def _train_epoch(
    state: TrainingState,
    forward: Forward,
    recipe: Recipe,
    plan: Plan,
    data: LabelledImages,
    source: TeacherSource | None,
    stopped: Callable[[], bool],
) -> dict[str, float] | None:
    """Train one epoch; None when stopped amid it. No step waits for the device.

    Returns the mean losses, and temperature, alpha and lr of the last step.
    """
    device = data.labels.device
    k = plan.views[state.epoch % len(plan.views)]
    rows = view(plan.view_seed, k, len(data), data.images.shape[-1], plan.augmentation).to(device)
    batches = _batches(plan, state.epoch, len(data), device)
    torch.manual_seed(derive_seed(plan.seed, "dropout", state.epoch))
    backward = training_backward(state.network, device)
    state.network.train()
    steps: list[Tensor] = []
    temperature = alpha = lr = 0.0
    for index, here in batches:
        if stopped():
            return None
        progress = (state.epoch + len(steps) / len(batches)) / plan.epochs
        temperature = scheduled(recipe.temperature, progress)
        alpha = scheduled(recipe.alpha, progress)
        lr = recipe.lr * schedules.warmup_cosine(progress, plan.warmup)
        images = data.images.index_select(0, here)
        images = render(images, rows.at(here), plan.augmentation)
        images = normalise(images, data.mean, data.deviation)
        logits, maps = forward(images, recipe.feature_taps)
        reading = _read(source, recipe, k, index, images)
        labels = data.labels[here]
        parts = _losses(recipe, temperature, logits, maps, labels, reading, state.adapters)
        loss = (1 - alpha) * parts[0] + alpha * parts[1] + recipe.feature_weight * parts[2]
        state.optimizer.param_groups[0]["lr"] = lr
        state.optimizer.zero_grad(set_to_none=True)
        backward(loss)
        state.optimizer.step()
        steps.append(torch.stack([loss, *parts]).detach())
    settings = {"temperature": temperature, "alpha": alpha, "lr": lr}
    return _means(steps, state.epoch) | settings


def scheduled(schedule: Schedule, progress: float) -> float:
    """Return a schedule's value at `progress` = step / total steps of the horizon."""
    return schedules.value(
        schedule.shape, schedule.initial, schedule.final, progress, schedule.sharpness
    )


def _batches(
    plan: Plan, epoch: int, count: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Shuffle the rows of the training split; a last incomplete batch is left out.

    Each batch is given twice: on the CPU, where shards are read, and on the device.
    """
    generator = torch.Generator().manual_seed(derive_seed(plan.seed, "order", epoch))
    size = min(plan.batch_size, count)
    order = torch.randperm(count, generator=generator)[: count // size * size]
    return list(zip(order.split(size), order.to(device).split(size), strict=True))


def _read(
    source: TeacherSource | None, recipe: Recipe, k: int, index: Tensor, images: Tensor
) -> Reading | None:
    """Ask the teacher about a batch of view `k`, if the recipe distils."""
    if not recipe.distils:
        return None
    if source is None:
        raise ValueError("a recipe that distils needs a teacher")
    return source.read(k, index, images, recipe.feature_taps)


def _losses(
    recipe: Recipe,
    temperature: float,
    logits: Tensor,
    maps: Mapping[str, Tensor],
    labels: Tensor,
    reading: Reading | None,
    adapters: Adapters,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hard, soft and feature losses of a batch; a term that a recipe lacks is 0."""
    hard_loss = hard(logits, labels, recipe.label_smoothing)
    soft_loss = feature = torch.zeros_like(hard_loss)
    if reading is not None:
        if recipe.soft_kind != "none":
            soft_loss = SOFT_LOSSES[recipe.soft_kind](logits, reading.logits, labels, temperature)
        if recipe.feature_kind != "none":
            feature = feature_loss(recipe.feature_kind, maps, reading.taps, adapters)
    return hard_loss, soft_loss, feature


def _means(steps: list[Tensor], epoch: int) -> dict[str, float]:
    """Average the losses of an epoch, the only time that its steps are waited for."""
    table = torch.stack(steps).cpu().double()
    finite = table.isfinite().all(1)
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise DivergenceError(f"the loss is not finite at step {step} of epoch {epoch + 1}")
    names = ("loss", "hard_loss", "soft_loss", "feature_loss")
    return dict(zip(names, table.mean(0).tolist(), strict=True))
