"""Optimizers make the steps that their papers give, and go on bit by bit from a checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kd import optimizers
from kd.errors import ProtocolError
from kd.names import OPTIMIZERS
from kd.optimizers import Range
from kd.training.loop import train
from kd.training.state import TrainingState
from kd.training.teacher import LiveTeacher
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from tests.support.processes import python
from tests.support.small import (
    DISTILLED,
    begin,
    labelled,
    plan,
    protocol,
    same_bits,
    teacher,
)
from workers.runners.preparing import Tuning, teacher_identity

DATA, VALIDATION = labelled(24), labelled(12, seed=1)
HINT = replace(
    DISTILLED, lr=0.01, feature_kind="hint", feature_weight=0.5, feature_taps=("last1", "last2")
)


@pytest.fixture(scope="module")
def source() -> LiveTeacher:
    return teacher(DATA, VALIDATION)


def test_a_step_of_adamw_is_that_of_the_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with betas 0.9 and 0.999 and epsilon 1e-8."""
    weight = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = optimizers.load("adamw").make([weight], 0.01, 0.1, torch.device("cpu"))
    expected = weight.detach().clone()
    mean, square = torch.zeros(5), torch.zeros(5)
    for step in range(1, 4):
        gradient = torch.arange(5.0, dtype=torch.float64) - step
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = expected - 0.01 * (update + 0.1 * expected)
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_the_defaults_are_a_recipe_and_lie_in_the_ranges(name: str) -> None:
    member = optimizers.load(name)
    for held in (member.LR, member.WEIGHT_DECAY):
        assert 0 < held.low < held.default < held.high
    replace(DISTILLED, lr=member.LR.high, weight_decay=member.WEIGHT_DECAY.high)


@pytest.mark.parametrize("ends", [(0.0, 1.0, 0.5), (0.1, 1.0, 2.0), (1.0, 0.1, 0.5)])
def test_a_range_that_lacks_its_default_is_refused(ends: tuple[float, float, float]) -> None:
    with pytest.raises(ProtocolError, match="0 < low <= default <= high, got"):
        Range(*ends)


def begun(name: str, source: LiveTeacher) -> TrainingState:
    """A student whose first layer is frozen, and whose adapter of last2 learns from epoch 2 on."""
    state = begin(HINT, source, optimizer=name)
    next(state.network.parameters()).requires_grad_(False)
    late = state.adapters.layers["last2"]
    late.register_forward_pre_hook(lambda *_: late.requires_grad_(state.epoch > 0) and None)
    return state


@pytest.mark.parametrize("name", OPTIMIZERS.names)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_continues_bit_by_bit_with_frozen_parameters_and_late_gradients(
    name: str, epoch: int, source: LiveTeacher, tmp_path: Path
) -> None:
    given = plan(epochs=3, views=(0, 1, 2))
    whole, second = begun(name, source), begun(name, source)
    path = tmp_path / "checkpoint.safetensors"
    for metrics in train(whole, HINT, given, DATA, VALIDATION, source):
        if metrics.epoch == epoch:
            write_checkpoint(path, {}, whole.tensors(), whole.history)
    second.restore(*read_checkpoint(path, {}))
    list(train(second, HINT, given, DATA, VALIDATION, source))
    assert same_bits(second.tensors(), whole.tensors())
    fresh = begun(name, source).adapters.layers["last2"].weight
    assert not torch.equal(whole.adapters.layers["last2"].weight, fresh)


def test_the_state_of_adamw_is_in_the_checkpoint(source: LiveTeacher) -> None:
    state = begin(HINT, source, optimizer="adamw")
    next(train(state, HINT, plan(), DATA, VALIDATION, source))
    keys = [name.rpartition(".")[2] for name in state.tensors() if name.startswith("optimizer.")]
    parameters = len([*state.network.parameters(), *state.adapters.parameters()])
    assert {key: keys.count(key) for key in keys} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), parameters
    )


class Counting(torch.optim.SGD):
    """Keeps a number in its state, which no checkpoint can hold."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["count"] = 1


def test_a_state_that_a_checkpoint_cannot_hold_is_refused(source: LiveTeacher) -> None:
    state = begin(DISTILLED, source)
    state.optimizer = Counting(state.network.parameters(), lr=0.1)
    next(train(state, DISTILLED, plan(), DATA, VALIDATION, source))
    with pytest.raises(TypeError, match=r"^an optimizer's state must be tensors, got count 1$"):
        state.tensors()


def test_the_rate_of_every_group_follows_the_schedule(source: LiveTeacher) -> None:
    state = begin(DISTILLED, source)
    first, *others = state.network.parameters()
    state.optimizer = torch.optim.SGD([{"params": [first]}, {"params": others}], lr=1.0)
    (metrics,) = train(state, DISTILLED, plan(epochs=1), DATA, VALIDATION, source)
    assert [group["lr"] for group in state.optimizer.param_groups] == [metrics.lr] * 2


def test_ranges_are_read_without_torch() -> None:
    code = (
        "import sys; from kd import optimizers; from kd.names import OPTIMIZERS\n"
        "print([optimizers.load(name).LR.default > 0 for name in OPTIMIZERS.names])\n"
        "assert 'torch' not in sys.modules"
    )
    python(code)


def test_the_teacher_is_the_same_whatever_the_students_optimizer() -> None:
    given, other = protocol(), replace(protocol(), optimizer="adamw")
    identities = [teacher_identity(Tuning.of(each), "data") for each in (given, other)]
    assert identities[0] == identities[1]
    assert other.hash != given.hash
