"""Taps: outputs of modules, read by hooks that are there in one forward pass alone."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from kd.errors import ProtocolError
from kd.models.build import Network, build
from kd.models.network import run_on_meta
from tests.support.small import ONE_OF_EACH, same_bits, square

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name: str = "resnet8-w0.5", seed: int = 0) -> Network:
    return build(name, classes=5, channels=3, stem="cifar", seed=seed)


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
    _, shapes = run_on_meta(network, square(3, 32))
    assert {value.device.type for value in shapes.values()} == {"meta"}


def test_a_module_that_runs_twice_is_refused_as_a_tap_and_taken_elsewhere() -> None:
    relu = nn.ReLU()
    body = sequence(conv=nn.Conv2d(3, 4, 3), first=relu, norm=nn.BatchNorm2d(4), second=relu)
    assert list(Network("x", body, ["norm"]).forward_taps(IMAGES, ("last1",))[1]) == ["last1"]
    with pytest.raises(ProtocolError, match=r"^x: second, the module of tap last1, runs twice in"):
        Network("x", body, ["second"]).forward_taps(IMAGES, ("last1",))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_nothing_changes_the_output_at_a_tap_in_place(name: str) -> None:
    network, versions, values = make(name), {}, {}
    for tap, path in network.paths.items():

        def keep(*call: Any, tap: str = tap) -> None:
            versions[tap], values[tap] = call[-1]._version, call[-1].clone()

        network.body.get_submodule(path).register_forward_hook(keep)
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
