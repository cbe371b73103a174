"""Taps: outputs of modules, in any layout, read by hooks of one forward pass alone."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn

from kd.data.examples import Examples
from kd.data.inputs import Images
from kd.errors import ProtocolError
from kd.models.build import Network, build
from kd.models.network import logits_of, run_on_meta, tap_shapes
from kd.models.taps import Tap
from kd.training.evaluation import predict
from tests.support.small import ONE_OF_EACH, floats, same_bits

INPUTS = floats(3, 32)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name: str = "resnet8-w0.5", seed: int = 0) -> Network:
    return build(name, classes=5, inputs=INPUTS, stem="cifar", seed=seed)


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def test_hooks_stand_at_the_requested_taps_while_they_are_read_and_never_else() -> None:
    network, seen = make(), []
    network.body.fc.register_forward_pre_hook(lambda *call: seen.append(hooks(network)))
    _, outputs = network.forward_taps(IMAGES, ("last1", "last3"))
    network(IMAGES)
    assert list(outputs) == ["last1", "last3"]
    assert seen == [2, 0]
    assert hooks(network) == 0


def test_no_hook_is_left_behind_after_an_error() -> None:
    network = make()
    with pytest.raises(RuntimeError):
        network.forward_taps(IMAGES[:, :1], network.taps)
    assert hooks(network) == 0


def test_a_copy_reads_its_own_modules_also_within_a_pass_of_the_original() -> None:
    network, found = make().eval(), []
    twin = copy.deepcopy(network).double()

    def read_twin(*call: object) -> None:
        found.append(twin.forward_taps(IMAGES.double(), ("last2",))[1]["last2"])

    network.body.layer3.register_forward_hook(read_twin)
    own = network.forward_taps(IMAGES, ("last2",))[1]["last2"]
    assert (own.dtype, found[0].dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(found[0].float(), own)
    _, shapes = run_on_meta(network)
    assert {value.device.type for value in shapes.values()} == {"meta"}


def test_a_module_that_runs_twice_is_refused_as_a_tap_and_taken_elsewhere() -> None:
    relu = nn.ReLU()
    body = sequence(conv=nn.Conv2d(3, 4, 3), first=relu, norm=nn.BatchNorm2d(4), second=relu)
    taken = Network("x", body, [Tap("norm")], INPUTS)
    assert list(taken.forward_taps(IMAGES, ("last1",))[1]) == ["last1"]
    refused = Network("x", body, [Tap("second")], INPUTS)
    with pytest.raises(ProtocolError, match=r"^x: second, the module of tap last1, runs twice in"):
        refused.forward_taps(IMAGES, ("last1",))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_nothing_changes_the_output_at_a_tap_in_place(name: str) -> None:
    network, versions, values = make(name), {}, {}
    for tap, place in network.places.items():

        def keep(*call: Any, tap: str = tap) -> None:
            versions[tap], values[tap] = call[-1]._version, call[-1].clone()

        network.body.get_submodule(place.path).register_forward_hook(keep)
    _, outputs = network.forward_taps(IMAGES, network.taps)
    assert {tap: output._version for tap, output in outputs.items()} == versions
    assert same_bits(outputs, values)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_step_with_taps_is_one_graph_for_all_networks_of_a_shape(name: str) -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounter()
    for seed in (0, 1):
        network, taps = make(name, seed).eval(), ("last1", "last3")
        compiled = torch.compile(network.traced, backend=graphs, fullgraph=True, dynamic=False)
        for images in (IMAGES, IMAGES + 1):  # the hooks of each step are new
            logits, outputs = network.forward_taps(images, taps, compiled)
            expected, maps = network.forward_taps(images, taps)
            assert torch.equal(logits, expected)
            assert same_bits(outputs, maps)
    assert graphs.frame_count == 1
    logits, none = network.forward_taps(IMAGES, (), compiled)
    assert torch.equal(logits, network(IMAGES))
    assert (none, graphs.frame_count) == ({}, 2)


# Layouts.


def test_an_output_that_is_a_map_is_returned_as_it_is() -> None:
    output = IMAGES.clone()
    assert Tap("stage").as_map(output) is output


def test_a_map_with_the_channels_last_is_turned_bit_for_bit() -> None:
    output = torch.randn(2, 3, 5, 4)  # [B, h, w, C]
    found = Tap("stage", "channels last").as_map(output)
    assert found.shape == (2, 4, 3, 5)
    for image, channel, row, column in np.ndindex(found.shape):
        assert found[image, channel, row, column] == output[image, row, column, channel]


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_are_laid_out_row_by_row_without_those_of_no_position(prefix: int) -> None:
    side = 3
    output = torch.randn(2, prefix + side**2, 4)
    found = Tap("blocks.2", "tokens", prefix).as_map(output)
    assert found.shape == (2, 4, side, side)
    for image, channel, row, column in np.ndindex(found.shape):
        token = prefix + side * row + column
        assert found[image, channel, row, column] == output[image, token, channel]


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_sequence_is_a_map_of_one_row_without_tokens_of_no_position(prefix: int) -> None:
    output = torch.randn(2, prefix + 5, 4)
    found = Tap("blocks.2", "sequence", prefix).as_map(output)
    turned = Tap("stage", "sequence, channels first", prefix).as_map(output.mT)
    assert found.shape == turned.shape == (2, 4, 1, 5)
    for row, channel, position in np.ndindex(2, 4, 5):
        assert found[row, channel, 0, position] == output[row, prefix + position, channel]
        assert turned[row, channel, 0, position] == output[row, prefix + position, channel]


def test_a_vector_is_a_map_of_one_position() -> None:
    output = torch.randn(2, 4)
    found = Tap("pooler", "vector").as_map(output)
    assert found.shape == (2, 4, 1, 1)
    for image, channel in np.ndindex(output.shape):
        assert found[image, channel, 0, 0] == output[image, channel]


class Turned(nn.Module):
    """Turns a map [B, C, h, w] into another layout."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.turn = turn

    def forward(self, given: Tensor) -> Tensor:
        return self.turn(given)


@pytest.mark.parametrize(
    ("tap", "turn"),
    [
        (Tap("turned"), lambda given: given),
        (Tap("turned", "channels last"), lambda given: given.movedim(1, -1)),
        (Tap("turned", "tokens"), lambda given: given.flatten(2).mT),
        (
            Tap("turned", "tokens", 2),
            lambda given: torch.cat([given.flatten(2).mT[:, :2] + 1, given.flatten(2).mT], 1),
        ),
        (Tap("turned", "vector"), lambda given: given.mean((2, 3))),
    ],
    ids=lambda value: f"{value.layout}-{value.prefix}" if isinstance(value, Tap) else "",
)
def test_a_network_gives_the_map_of_a_tap_in_any_layout(
    tap: Tap, turn: Callable[[Tensor], Tensor]
) -> None:
    head = nn.LazyLinear(5)
    conv = nn.Conv2d(3, 4, 3)
    body = sequence(conv=conv, turned=Turned(turn), flat=nn.Flatten(), head=head)
    network = Network("x", body, [Tap("conv"), tap], INPUTS)
    logits, maps = network.forward_taps(IMAGES, ("last1", "last2"))
    assert torch.equal(logits, network(IMAGES))
    whole = maps["last2"]
    expected = whole.mean((2, 3), keepdim=True) if tap.layout == "vector" else whole
    assert torch.equal(maps["last1"], expected)
    maps["last1"].square().mean().backward()
    assert conv.weight.grad is not None
    shapes = {name: tuple(each.shape[1:]) for name, each in maps.items()}
    assert tap_shapes(network) == shapes


# What a network receives, and what it returns.


@dataclass
class Output:
    loss: float
    logits: object


class Named(NamedTuple):
    hidden: Tensor
    logits: Tensor


LOGITS = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
OTHER = torch.zeros(2, 7)
FORMS = {
    "logits": LOGITS,
    "tuple": (LOGITS, OTHER),
    "list": [LOGITS, OTHER],
    "dict": {"loss": OTHER, "logits": LOGITS},
    "ordered mapping": OrderedDict(hidden=OTHER, logits=LOGITS),
    "object": Output(0.5, LOGITS),
    "named tuple, where they are not first": Named(OTHER, LOGITS),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_in_each_form_of_an_output(form: str) -> None:
    assert logits_of(FORMS[form]) is LOGITS


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ({"loss": OTHER, "scores": LOGITS}, "dict with the keys loss, scores"),
        ({"logits": [LOGITS]}, "dict with the keys logits"),
        (Output(0.5, None), "Output"),
        (([LOGITS],), "tuple"),
        ((), "tuple"),
        ([], "list"),
        (1.0, "float"),
        (None, "NoneType"),
    ],
    ids=repr,
)
def test_an_output_without_logits_is_refused_in_one_line(output: object, kind: str) -> None:
    with pytest.raises(ProtocolError, match=rf"^a model must return logits, .*; got {kind}$") as no:
        logits_of(output)
    assert "\n" not in str(no.value)


class Wrapped(nn.Module):
    """A model that returns its logits in another form."""

    def __init__(self, inner: nn.Module, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, given: Tensor) -> object:
        return self.wrap(self.inner(given))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: (logits, None),
        lambda logits: [logits],
        lambda logits: {"logits": logits},
        lambda logits: Output(0.5, logits),
    ],
    ids=["tuple", "list", "dict", "object"],
)
def test_a_network_returns_logits_alone_whatever_its_body_does(
    wrap: Callable[[Tensor], object],
) -> None:
    plain = make().eval()
    network = Network("x", Wrapped(plain.body, wrap), [Tap("inner.layer3")], INPUTS).eval()
    assert torch.equal(network(IMAGES), plain(IMAGES))
    logits, maps = network.forward_taps(IMAGES, ("last1",))
    expected, plain_maps = plain.forward_taps(IMAGES, ("last1",))
    assert torch.equal(logits, expected)
    assert same_bits(maps, plain_maps)


STORED = Examples(
    values=torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(2)).byte(),
    labels=torch.zeros(6, dtype=torch.int64),
    inputs=Images(shape=(3, 8, 8), mean=(0.1, 0.5, 0.9), deviation=(0.02, 0.3, 1.0)),
)
ARRAYS = replace(STORED, values=torch.randn(6, 3, 8, 8), inputs=floats(3))


@pytest.mark.parametrize("data", [STORED, ARRAYS], ids=["images", "arrays"])
@pytest.mark.parametrize("training", [True, False])
def test_a_network_normalises_what_it_receives_once(data: Examples, training: bool) -> None:
    network = build("resnet8-w0.5", classes=5, inputs=data.inputs, stem="cifar", seed=0)
    network.train(training)
    values, before = data.values, data.values.clone()
    normalised = data.inputs.normalise(values)
    with torch.inference_mode():
        expected = network.body(normalised)
        assert torch.equal(network(values), expected)
        for taps in ((), ("last1", "last3")):
            logits, maps = network.forward_taps(values, taps)
            assert torch.equal(logits, expected)
            assert list(maps) == list(taps)
        if not training:
            assert torch.equal(predict(network, data), expected)
        if data.inputs.are_images:
            twice = network.body(data.inputs.normalise(normalised))
            never = network.body(values.float())
            assert not torch.allclose(twice, expected)
            assert not torch.allclose(never, expected)
    assert torch.equal(values, before)


def test_a_layer_that_writes_into_its_input_leaves_stored_arrays_alone() -> None:
    body = sequence(relu=nn.ReLU(inplace=True), flat=nn.Flatten(), fc=nn.Linear(192, 5))
    network = Network("x", body, [Tap("relu")], ARRAYS.inputs)
    before = ARRAYS.values.clone()
    network(ARRAYS.values)
    network.forward_taps(ARRAYS.values, ("last1",))
    assert torch.equal(ARRAYS.values, before)
    assert before.min() < 0
