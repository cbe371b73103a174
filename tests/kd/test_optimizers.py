"""Optimizers make the steps that their papers give, and go on bit by bit from a checkpoint."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kd import optimizers
from kd.errors import ProtocolError
from kd.names import FAMILIES, OPTIMIZERS, catalogue
from kd.optimizers import Range
from kd.registry import Kind
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
    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    weight, scale = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = optimizers.load("adamw").make([weight], [scale], 0.01, 0.1, torch.device("cpu"))
    for parameter, decay in ((weight, 0.1), (scale, 0.0)):
        expected = start
        mean, square = torch.zeros(5), torch.zeros(5)
        for step in range(1, 4):
            gradient = torch.arange(5.0, dtype=torch.float64) - step
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
            expected = expected - 0.01 * (update + decay * expected)
            weight.grad = scale.grad = None
            parameter.grad = gradient
            optimizer.step()
        torch.testing.assert_close(parameter.detach(), expected)


class Positions(nn.Module):
    """Names its embedding as timm's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
        self.other = nn.Parameter(torch.zeros(1, 4, 2))
        self.norm = nn.LayerNorm(2)
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(2, 3)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "inside another"])
def test_biases_normalisations_and_what_a_model_names_are_spared(wrapped: bool) -> None:
    model = nn.Sequential(nn.Identity(), Positions()) if wrapped else Positions()
    layer = nn.Conv2d(1, 2, 3)
    decayed, spared = optimizers.divided(model, layer)
    named = {**dict(model.named_parameters()), **dict(layer.named_parameters())}
    found = {id(parameter): name.removeprefix("1.") for name, parameter in named.items()}
    names = [found[id(parameter)] for parameter in (*decayed, *spared)]
    assert names[: len(decayed)] == ["other", "head.weight", "weight"]
    rest = ["pos_embed", "temperature", "norm.weight", "norm.bias", "head.bias", "bias"]
    assert names[len(decayed) :] == rest


def test_what_models_of_timm_name_is_spared() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    spared = {id(parameter) for parameter in optimizers.divided(model)[1]}
    names = {name for name, each in model.named_parameters() if id(each) in spared}
    long = {name for name, each in model.named_parameters() if each.ndim > 1 and name in names}
    assert long == {"pos_embed", "cls_token"}
    rule = importlib.import_module("timm.optim").param_groups_weight_decay
    groups = rule(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    assert spared == {id(parameter) for parameter in groups[0]["params"]}


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
    """A student whose first layer is frozen, and whose adapter of last2 learns from epoch 2 on.

    An average of its weights is kept.
    """
    state = begin(HINT, source, optimizer=name, ema=0.5)
    next(state.network.parameters()).requires_grad_(False)
    late = state.adapters.layers["last2"]
    late.register_forward_pre_hook(lambda *_: late.requires_grad_(state.epoch > 0) and None)
    return state


@pytest.mark.parametrize("name", OPTIMIZERS.names)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_continues_bit_by_bit_with_frozen_parameters_and_late_gradients(
    name: str, epoch: int, source: LiveTeacher, tmp_path: Path
) -> None:
    given = plan(epochs=3, views=(0, 1, 2), clip=1.0)
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


SGD, ADAMW = optimizers.load("sgd"), optimizers.load("adamw")
MOBILE = ("mobilenet_v2", "mobilenet_v2-w0.5", "shufflenet_v2_x0_5")


def test_ranges_follow_from_optimizer_model_and_weights() -> None:
    for model in ("", "vgg11_bn", "resnet18", "timm:mobilenetv3_small_050"):
        found = optimizers.ranges("sgd", model)
        assert (found.lr, found.weight_decay) == (SGD.LR, SGD.WEIGHT_DECAY)
    small = optimizers.ranges("sgd", "resnet8-w0.125")
    assert small.weight_decay == SGD.WEIGHT_DECAY
    assert small.lr.high > SGD.LR.high
    for model in MOBILE:
        assert optimizers.ranges("sgd", model).weight_decay.default == 4e-5
        assert optimizers.ranges("adamw", model) == optimizers.ranges("adamw")
    tuned = optimizers.ranges("adamw", "resnet18", pretrained=True)
    assert tuned.weight_decay == ADAMW.WEIGHT_DECAY
    assert tuned.lr == Range(ADAMW.LR.low / 10, ADAMW.LR.high / 10, ADAMW.LR.default / 10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names)
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_range_of_a_family_is_one_for_recipes(optimizer: str, pretrained: bool) -> None:
    for model in catalogue():
        found = optimizers.ranges(optimizer, model, pretrained=pretrained)
        for held in (found.lr, found.weight_decay):
            assert held.low < held.default < held.high
        replace(DISTILLED, lr=found.lr.high, weight_decay=found.weight_decay.high)
    for family in FAMILIES.names:
        for start, own in FAMILIES.literals(family).get("RANGES", {}).items():
            assert any(name.startswith(start) for name in catalogue())
            assert set(own) <= set(OPTIMIZERS.names)
            assert all(set(held) <= {"lr", "weight_decay"} for held in own.values())


def test_the_file_of_a_family_is_read_once_for_all_suggestions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = optimizers.ranges("sgd", "mobilenet_v2")
    monkeypatch.setattr(Kind, "_read", lambda *given: pytest.fail("it is read again"))
    assert optimizers.ranges("sgd", "mobilenet_v2") == known


def test_ranges_are_read_without_torch() -> None:
    code = (
        "import sys; from kd import optimizers; from kd.names import OPTIMIZERS\n"
        "print([optimizers.ranges(name, 'mobilenet_v2') for name in OPTIMIZERS.names])\n"
        "assert 'torch' not in sys.modules"
    )
    python(code)


def test_the_teacher_is_the_same_whatever_the_students_optimizer() -> None:
    given, other = protocol(), replace(protocol(), optimizer="adamw", ema=0.9)
    identities = [teacher_identity(Tuning.of(each), "data") for each in (given, other)]
    assert identities[0] == identities[1]
    assert other.hash != given.hash
