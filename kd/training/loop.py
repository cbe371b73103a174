"""Training: one run of one recipe, as a generator of epochs that can be saved and resumed."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor

from kd import optimizers, schedules
from kd.data.inputs import Examples
from kd.errors import ArtifactError, DivergenceError
from kd.losses import features
from kd.losses import logits as logit_losses
from kd.losses.adapters import Adapters, feature_loss
from kd.losses.features import FeatureLoss
from kd.losses.hard import hard
from kd.losses.logits import LogitLoss
from kd.models.build import Network
from kd.models.numerics import Forward, training_backward, training_forward
from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.evaluation import evaluate, predict
from kd.training.history import EpochMetrics
from kd.training.scoring import objective
from kd.training.teacher import TeacherReading, TeacherSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings of a run that are not in its recipe.

    Epoch e (from 0) is trained on view `views[e % len(views)]`. `seed` decides initialisation,
    batch order and dropout; `view_seed` the content of the views, the same for a whole study.
    """

    epochs: int  # the horizon: schedules are planned for it, even if the run is ended earlier
    batch_size: int
    warmup: float
    augment: str  # as the protocol's
    view_seed: int
    views: Sequence[int]
    seed: int
    precision: str = "float32"  # of the forward pass; see `kd.models.numerics`
    compile: bool = False
    metric: str = "accuracy"  # of `EpochMetrics.objective`

    @classmethod
    def of(cls, protocol: Protocol, **own: Any) -> Self:
        """Return a plan with the fields `own`, and all others from the protocol."""
        shared = {item.name: getattr(protocol, item.name, None) for item in fields(cls)}
        return cls(**{**shared, **own})


@dataclass(slots=True)
class TrainingState:
    """Everything that a run changes. Saved between two epochs, it resumes the run to the last bit.

    Batch order and dropout are drawn from (seed, epoch), so it has no generator's state.
    """

    network: Network
    adapters: Adapters
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    history: list[EpochMetrics] = field(default_factory=list)

    @classmethod
    def start(
        cls, network: Network, adapters: Adapters, recipe: Recipe, optimizer: str = "sgd"
    ) -> "TrainingState":
        """Return the state before the first epoch, with the optimizer of student and adapters."""
        parameters = [*network.parameters(), *adapters.parameters()]
        device = parameters[0].device
        made = optimizers.load(optimizer).make(parameters, recipe.lr, recipe.weight_decay, device)
        return cls(network, adapters, made)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name.

        Raises TypeError for an optimizer whose state has other values than tensors.
        """
        named = self._modules()
        for index, values in self.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if not isinstance(value, Tensor):
                    raise TypeError(f"an optimizer's state must be tensors, got {key} {value!r}")
                named[f"optimizer.{index}.{key}"] = value
        return named

    def _modules(self) -> dict[str, Tensor]:
        modules = {"network": self.network, "adapters": self.adapters}
        return {
            f"{part}.{name}": value
            for part, module in modules.items()
            for name, value in module.state_dict().items()
        }

    def restore(self, named: dict[str, Tensor], history: list[EpochMetrics]) -> None:
        """Restore what `tensors` returned after the last epoch of `history`.

        Raises ArtifactError, and changes nothing, for tensors of another model or recipe.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        entries: dict[int, dict[str, Tensor]] = {}
        first: dict[str, Tensor] = {}  # of parameters whose state begins with their first step
        for name, value in named.items():
            entry = re.fullmatch(r"optimizer\.(\d+)\.(\w+)", name)
            if entry and (index := int(entry[1])) < len(parameters):
                entries.setdefault(index, {})[entry[2]] = _laid_out(value, parameters[index])
                if parameters[index] not in self.optimizer.state:
                    first[name] = value
        _check_alike(named, self.tensors() | first)
        for name, target in self._modules().items():
            target.copy_(named[name])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.history = list(history)
        self.epoch = len(history)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy of an optimizer's tensor, with the parameter's strides if shapes are equal."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)


def _check_alike(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Raise ArtifactError unless both have the same names, shapes and dtypes."""
    for name in sorted({*named, *targets}):
        stored, wanted = _described(named.get(name)), _described(targets.get(name))
        if stored != wanted:
            raise ArtifactError(
                f"the checkpoint is of another run: {name} is {stored}, not {wanted}"
            )


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def train(
    state: TrainingState,
    recipe: Recipe,
    plan: Plan,
    data: Examples,
    validation: Examples,
    source: TeacherSource | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[EpochMetrics]:
    """Train from `state` to the plan's horizon, and yield the metrics of every epoch.

    A recipe that distils requires `source`; with it, the student is also compared with the teacher
    on the validation split. `stopped` is called before each step: once it returns True, the
    generator ends in the middle of an epoch, and the state must not be saved.
    Raises DivergenceError when a loss or a weight is not finite.
    """
    device = data.labels.device
    forward = training_forward(state.network, device, plan.precision, plan.compile)
    while state.epoch < plan.epochs:
        started = time.perf_counter()
        trained = _train_epoch(state, forward, recipe, plan, data, source, stopped)
        if trained is None:
            return
        validated = _validate(state, plan.metric, validation, source)
        seconds = time.perf_counter() - started
        state.epoch += 1
        epoch = EpochMetrics(epoch=state.epoch, seconds=seconds, **trained, **validated)
        state.history.append(epoch)
        yield epoch


def _validate(
    state: TrainingState, metric: str, validation: Examples, source: TeacherSource | None
) -> dict[str, Any]:
    logits = predict(state.network, validation)
    if not logits.isfinite().all():
        raise DivergenceError(f"the weights are not finite after epoch {state.epoch + 1}")
    teacher_logits = source.validation_logits if source else None
    labels = validation.labels.cpu()
    value = objective(metric, logits.numpy(), labels.numpy())
    return {"objective": value, **evaluate(logits, labels, teacher_logits)}


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
    device = data.labels.device
    k = plan.views[state.epoch % len(plan.views)]
    rows = data.view(plan.view_seed, k, plan.augment).to(device)
    batches = _batches(plan, state.epoch, len(data), device)
    torch.manual_seed(derive_seed(plan.seed, "dropout", state.epoch))
    backward = training_backward(state.network, device)
    losses = _Losses.of(recipe)
    state.network.train()
    steps: list[Tensor] = []
    temperature = alpha = lr = 0.0
    for index, here in batches:
        if stopped():
            return None
        progress = (state.epoch + len(steps) / len(batches)) / plan.epochs
        temperature = recipe.temperature.value(progress)
        alpha = recipe.alpha.value(progress)
        lr = recipe.lr * schedules.warmup_cosine(progress, plan.warmup)
        images = data.batch(here, rows.at(here))
        logits, maps = forward(images, recipe.feature_taps)
        reading = _read(source, recipe, k, index, images)
        labels = data.labels[here]
        parts = losses.compute(temperature, logits, maps, labels, reading, state.adapters)
        loss = (1 - alpha) * parts[0] + alpha * parts[1] + recipe.feature_weight * parts[2]
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.optimizer.zero_grad(set_to_none=True)
        backward(loss)
        state.optimizer.step()
        steps.append(torch.stack([loss, *parts]).detach())
    settings = {"temperature": temperature, "alpha": alpha, "lr": lr}
    return _means(steps, state.epoch) | settings


def _batches(
    plan: Plan, epoch: int, count: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return shuffled batches of training rows; a last incomplete batch is omitted.

    Each is a pair of the same indices: on the CPU, to read shards, and on the device.
    """
    generator = torch.Generator().manual_seed(derive_seed(plan.seed, "order", epoch))
    size = min(plan.batch_size, count)
    order = torch.randperm(count, generator=generator)[: count // size * size]
    return list(zip(order.split(size), order.to(device).split(size), strict=True))


def _read(
    source: TeacherSource | None, recipe: Recipe, k: int, index: Tensor, images: Tensor
) -> TeacherReading | None:
    """Return the teacher's output for a batch of view `k`; None if the recipe does not distil."""
    if not recipe.distils:
        return None
    if source is None:
        raise ValueError("a recipe that distils needs a teacher")
    return source.read(k, index, images, recipe.feature_taps)


@dataclass(frozen=True, slots=True)
class _Losses:
    """The losses of a recipe, loaded once and not at every step."""

    label_smoothing: float
    soft: LogitLoss | None
    feature: FeatureLoss | None

    @classmethod
    def of(cls, recipe: Recipe) -> "_Losses":
        soft, feature = recipe.soft_kind, recipe.feature_kind
        return cls(
            label_smoothing=recipe.label_smoothing,
            soft=None if soft == "none" else logit_losses.load(soft, recipe.soft_parameters),
            feature=(
                None if feature == "none" else features.load(feature, recipe.feature_parameters)
            ),
        )

    def compute(
        self,
        temperature: float,
        student_logits: Tensor,
        maps: Mapping[str, Tensor],
        labels: Tensor,
        reading: TeacherReading | None,
        adapters: Adapters,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hard, soft and feature losses of a batch; a term that is missing is 0."""
        hard_loss = hard(student_logits, labels, self.label_smoothing)
        soft_loss = feature = torch.zeros_like(hard_loss)
        if reading is not None:
            if self.soft:
                soft_loss = self.soft.loss(student_logits, reading.logits, labels, temperature)
            if self.feature:
                feature = feature_loss(self.feature, maps, reading.taps, adapters)
        return hard_loss, soft_loss, feature


def _means(steps: list[Tensor], epoch: int) -> dict[str, float]:
    """Return the mean losses of an epoch. Only this waits for the device.

    Raises DivergenceError for a loss that is not finite."""
    table = torch.stack(steps).cpu().double()
    finite = table.isfinite().all(1)
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise DivergenceError(f"the loss is not finite at step {step} of epoch {epoch + 1}")
    names = ("loss", "hard_loss", "soft_loss", "feature_loss")
    return dict(zip(names, table.mean(0).tolist(), strict=True))
