"""Layout, precision and compilation: what a protocol asks arrives, and nothing else changes."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from kd.errors import ProtocolError
from kd.models import numerics
from kd.models.network import Network
from kd.models.numerics import (
    check_device,
    memory_format,
    place,
    training_backward,
    training_forward,
)
from kd.names import catalogue
from kd.training.loop import train
from kd.training.state import TrainingState
from tests.support.small import (
    DISTILLED,
    PLAIN,
    STUDENT,
    begin,
    copied,
    labelled,
    network,
    plan,
    same_bits,
    square,
)
from tests.support.small import teacher as make_teacher

CPU = torch.device("cpu")
DATA, VALIDATION = labelled(24), labelled(12, seed=1)
WIDE = "resnet8-w0.5"  # the narrowest whose convolutions have 8 channels
IMAGES = labelled(4, seed=2).values


@pytest.fixture
def channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small models of the tests be among those in channels last."""
    for name, least in {"resnet8": 0.2, "resnet32x4": 0.1, "resnet14": math.inf}.items():
        facts = replace(catalogue()[name], channels_last=least)
        monkeypatch.setitem(catalogue(), name, facts)


def is_last(module: nn.Module) -> bool:
    """Whether all weights of convolutions whose layouts differ at all are in channels last."""
    weights = [each for each in module.parameters() if each.dim() == 4 and each.shape[1] > 1]
    wide = [each for each in weights if each.shape[2] > 1]
    found = {each.is_contiguous(memory_format=torch.channels_last) for each in wide}
    assert len(found) == 1
    return found.pop()


def test_a_model_has_the_layout_of_the_table_on_a_cpu_and_channels_last_elsewhere(
    channels_last: None,
) -> None:
    assert memory_format(network(WIDE), CPU) == torch.channels_last
    assert memory_format(network("resnet14"), CPU) == torch.contiguous_format
    own = network(WIDE)
    own.name = "mine.py:small@0123456789ab"
    assert memory_format(own, CPU) == torch.contiguous_format
    assert memory_format(network("resnet14"), torch.device("meta")) == torch.channels_last
    assert is_last(place(network(WIDE), CPU))
    assert is_last(place(network(WIDE), torch.device("meta")))
    assert not is_last(network(WIDE))


@pytest.mark.parametrize("name", ["resnet8-w0.25", "resnet8-w0.4375", "resnet32x4-w0.1"])
def test_a_convolution_of_few_channels_is_never_in_channels_last_on_a_cpu(
    name: str, channels_last: None
) -> None:
    assert memory_format(network(name), CPU) == torch.contiguous_format
    assert memory_format(network(name), torch.device("meta")) == torch.channels_last


@pytest.mark.parametrize(
    ("first", "second", "fewest"),
    [
        (nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), 16),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 16, 3), 4),
        (nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, groups=4), 4),
        (nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), 32),
    ],
)
def test_images_and_depthwise_convolutions_do_not_count_as_few_channels(
    first: nn.Module, second: nn.Module, fewest: int
) -> None:
    body = nn.Sequential(first, second)
    assert numerics._fewest_channels(Network("", body, [], square(3))) == fewest


def test_a_layout_changes_no_weight_and_the_logits_by_rounding_alone(channels_last: None) -> None:
    usual, last = network(WIDE), place(network(WIDE), CPU)
    assert same_bits(usual.state_dict(), last.state_dict())
    torch.testing.assert_close(usual.eval()(IMAGES), last.eval()(IMAGES))


def test_a_run_in_channels_last_continues_bit_by_bit_in_its_layout(channels_last: None) -> None:
    source = make_teacher(DATA, VALIDATION)

    def started() -> Any:
        state = begin(DISTILLED, source, name=WIDE)
        return TrainingState.start(place(state.network, CPU), state.adapters, DISTILLED)

    whole, second = started(), started()
    training = train(whole, DISTILLED, plan(), DATA, VALIDATION, source)
    next(training)
    kept = {name: value.contiguous() for name, value in copied(whole.tensors()).items()}
    second.restore(kept, list(whole.history))
    list(training)
    list(train(second, DISTILLED, plan(), DATA, VALIDATION, source))
    assert same_bits(second.tensors(), whole.tensors())
    for state in (whole, second):
        assert is_last(state.network)
        momentum = {
            parameter: value["momentum_buffer"]
            for parameter, value in state.optimizer.state.items()
        }
        assert {*momentum} == {*state.network.parameters(), *state.adapters.parameters()}
        assert all(strides(kept) == strides(parameter) for parameter, kept in momentum.items())


def strides(tensor: torch.Tensor) -> list[int]:
    """The strides that place numbers: that of a dimension of one is of no account."""
    return [step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


class Watched(nn.Module):
    """A layer that does nothing but note whose kernels are asked for, there and back.

    Each note is whether oneDNN's and whether NNPACK's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[tuple[bool, bool]] = []
        self.back: list[tuple[bool, bool]] = []

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        self.passed.append(asked())
        if flow.requires_grad:
            flow.register_hook(lambda gradient: self.back.append(asked()))
        return flow


def asked() -> tuple[bool, bool]:
    return bool(torch.backends.mkldnn.enabled), torch._C._get_nnpack_enabled()


@pytest.mark.parametrize(("name", "used"), [("resnet8-w0.125", False), ("resnet8-w0.25", True)])
def test_only_a_narrow_student_goes_back_without_onednn(name: str, used: bool) -> None:
    source = make_teacher(DATA, VALIDATION)
    state = begin(DISTILLED, source, name=name)
    layer = Watched()
    state.network.body.avgpool = nn.Sequential(layer, state.network.body.avgpool)
    next(train(state, DISTILLED, plan(), DATA, VALIDATION, source))
    assert layer.back == [(used, used)] * (len(DATA) // plan().batch_size)
    assert set(layer.passed) == {(True, True)}
    assert asked() == (True, True)


def test_kernels_are_as_before_after_an_error() -> None:
    loss = torch.zeros(1, requires_grad=True).sum()
    loss.register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        training_backward(network(STUDENT), CPU)(loss)
    assert asked() == (True, True)


def fail(gradient: torch.Tensor) -> None:
    assert asked() == (False, False)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("name", "device"),
    [
        (STUDENT, torch.device("meta")),
        ("resnet8x4-w0.125", CPU),
        ("mine.py:small@0123456789ab", CPU),
    ],
)
def test_kernels_of_accelerators_and_of_other_models_are_left_alone(
    name: str, device: torch.device
) -> None:
    student = network(STUDENT)
    student.name = name
    assert training_backward(student, device) is torch.Tensor.backward


def test_whose_kernels_changes_a_gradient_by_rounding_alone() -> None:
    student = network(STUDENT)
    gradients = []
    for backward in (training_backward(student, CPU), torch.Tensor.backward):
        student.zero_grad()
        backward(student(IMAGES).square().mean())
        gradients.append([each.grad.clone() for each in student.parameters()])
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)


def test_bfloat16_rounds_inside_and_gives_float32() -> None:
    taps = ("last1",)
    exact, maps = network().forward_taps(IMAGES, taps)
    logits, rounded = training_forward(network(), CPU, "bfloat16", False)(IMAGES, taps)
    assert (logits.dtype, rounded["last1"].dtype) == (torch.float32, torch.float32)
    assert torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(rounded["last1"], maps["last1"], rtol=0.05, atol=0.05)


def test_a_plan_in_bfloat16_trains_float32_weights_otherwise_than_one_in_float32() -> None:
    source = make_teacher(DATA, VALIDATION)
    states = []
    for precision in ("float32", "bfloat16"):
        states.append(begin(DISTILLED, source))
        given = plan(precision=precision)
        list(train(states[-1], DISTILLED, given, DATA, VALIDATION, source))
    usual, mixed = (state.tensors() for state in states)
    assert {value.dtype for value in mixed.values()} == {torch.float32, torch.int64}
    assert not same_bits(usual, mixed)
    gaps = [
        left.loss - right.loss for left, right in zip(*(s.history for s in states), strict=True)
    ]
    assert max(map(abs, gaps)) < 0.1


def test_a_plan_is_compiled_if_it_reports_it_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    compiled = []

    def spy(forward: Any, **settings: Any) -> Any:
        compiled.append((forward.__self__, settings))
        return forward

    monkeypatch.setattr(torch, "compile", spy)
    for asked in (False, True):
        state = begin(PLAIN, None)
        list(train(state, PLAIN, plan(compile=asked), DATA, VALIDATION, None))
        assert compiled == (
            [(state.network, {"dynamic": False, "fullgraph": True})] if asked else []
        )
    assert torch._dynamo.config.recompile_limit == numerics.MOST_COMPILED  # else: eager after 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_is_the_usual_one_but_for_rounding() -> None:
    source = make_teacher(DATA, VALIDATION)
    recipe = replace(
        DISTILLED, feature_kind="attention", feature_weight=1.0, feature_taps=("last2",)
    )
    histories = []
    for compiled in (False, True):
        state = begin(recipe, source)
        given = plan(compile=compiled)
        histories.append(list(train(state, recipe, given, DATA, VALIDATION, source)))
    for usual, other in zip(*histories, strict=True):
        assert usual.loss == pytest.approx(other.loss, rel=1e-3)
        assert usual.feature_loss == pytest.approx(other.feature_loss, rel=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_a_device_without_bfloat16_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(CPU, "bfloat16", False)
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: kind != "cpu")
    with pytest.raises(ProtocolError, match=r"^cpu does not compute in bfloat16; use --precision"):
        check_device(CPU, "bfloat16", False)
    check_device(CPU, "float32", False)


@pytest.mark.parametrize("emulated", [False, True])
def test_a_gpu_that_would_emulate_bfloat16_is_refused(
    emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or not emulated

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    if emulated:
        with pytest.raises(ProtocolError, match=r"^cuda:0 does not compute in bfloat16"):
            check_device(torch.device("cuda:0"), "bfloat16", False)
    else:
        check_device(torch.device("cuda:0"), "bfloat16", False)


def test_a_machine_that_cannot_compile_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*given: Any, **settings: Any) -> Any:
        raise RuntimeError("no C++\ncompiler")

    monkeypatch.setattr(torch, "compile", fail)
    check_device(CPU, "float32", False)
    with pytest.raises(ProtocolError) as caught:
        check_device(CPU, "float32", True)
    assert str(caught.value) == (
        "torch.compile does not work on cpu: no C++ compiler; use --no-compile"
    )
