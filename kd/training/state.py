"""The state of a training run: everything that a checkpoint between two epochs must hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from kd import optimizers
from kd.errors import ArtifactError
from kd.losses.adapters import Adapters
from kd.models.build import Network
from kd.recipe import Recipe
from kd.training.averaging import WeightAverage
from kd.training.history import EpochMetrics


@dataclass(slots=True)
class TrainingState:
    """Everything that a run changes. Saved between two epochs, it resumes the run to the last bit.

    Batch order and dropout are drawn from (seed, epoch), so it has no generator's state. `average`
    is None if no average of the weights is kept.
    """

    network: Network
    adapters: Adapters
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None = None
    epoch: int = 0
    history: list[EpochMetrics] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        network: Network,
        adapters: Adapters,
        recipe: Recipe,
        optimizer: str = "sgd",
        ema: float = 0.0,
    ) -> Self:
        """Return the state before the first epoch, with the optimizer of student and adapters.

        `ema` is the decay of the average of the student's weights; 0 keeps none.
        """
        decayed, spared = optimizers.divided(network.body, adapters)
        device = next(network.parameters()).device
        member = optimizers.load(optimizer)
        made = member.make(decayed, spared, recipe.lr, recipe.weight_decay, device)
        return cls(network, adapters, made, WeightAverage(network, ema) if ema else None)

    @property
    def result(self) -> Network:
        """The network to evaluate and keep: the average of the weights if there is one."""
        return self.average.network if self.average else self.network

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters of student and adapters, in the order of the optimizer."""
        return [each for group in self.optimizer.param_groups for each in group["params"]]

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
        if self.average:
            modules["average"] = self.average.network
        return {
            f"{part}.{name}": value
            for part, module in modules.items()
            for name, value in module.state_dict().items()
        }

    def restore(self, named: dict[str, Tensor], history: list[EpochMetrics]) -> None:
        """Restore what `tensors` returned after the last epoch of `history`.

        Raises ArtifactError, and changes nothing, for tensors of another model or recipe.
        """
        parameters = self.trained
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
