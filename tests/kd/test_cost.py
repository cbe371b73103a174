"""What a network costs."""

import itertools
import json

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from kd.data.examples import Examples
from kd.errors import ProtocolError
from kd.models import cost
from kd.models.build import Network, build, export_state
from kd.models.cost import (
    LEAST_ROUNDS,
    TIME_LIMIT,
    WARM_UP_ROUNDS,
    Latency,
    macs,
    measure_latency,
    parameter_count,
    state_bytes,
)
from kd.models.taps import Tap
from kd.names import FAMILIES
from tests.support.small import copied, noise, same_bits, square


def tiny() -> Network:
    """A 3x3 convolution, a pool and a linear layer, under the name of a model with its layout."""
    conv, norm, linear = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Linear(5, 4)
    body = nn.Sequential(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return Network("resnet18", body, [Tap("1")], square(2, 6))


def shapes_of(name: str, stem: str, classes: int, size: int) -> Network:
    with torch.device("meta"):
        return build(name, classes=classes, inputs=square(3, size), stem=stem, seed=0)


def examples(count: int = 2, size: int = 6) -> Examples:
    labels = torch.zeros(count, dtype=torch.int64)
    return Examples(values=noise(count, 2, size), labels=labels, inputs=square(2, size))


def measured(networks: dict[str, Network], **more) -> dict[str, list[Latency]]:
    settings = {
        "examples": examples(),
        "batch_sizes": (1, 3),
        "device": torch.device("cpu"),
        "repeats": 4,
        "seed": 0,
    }
    return measure_latency(networks, **{**settings, **more})


def calls_of(**more) -> list[tuple[str, int]]:
    """Names and batch sizes of the passes that a measurement makes, in order."""
    calls: list[tuple[str, int]] = []
    networks = {name: tiny() for name in ("a", "b", "c")}
    for name, network in networks.items():
        network.register_forward_hook(
            lambda module, given, output, name=name: calls.append((name, len(given[0])))
        )
    measured(networks, **more)
    return calls


def test_parameters_are_counted_by_hand() -> None:
    assert parameter_count(tiny()) == (2 * 5 * 9 + 5) + 2 * 5 + (5 * 4 + 4)


def test_multiply_accumulates_are_counted_by_hand() -> None:
    assert macs(tiny()) == 6 * 6 * 5 * 2 * 9 + 5 * 4


def test_resnet20_costs_what_is_published() -> None:
    assert macs(shapes_of("resnet20", "cifar", 10, 32)) / 1e6 == pytest.approx(40.8, abs=0.1)


@pytest.mark.parametrize("name", FAMILIES.literals("torchvision")["MODELS"])
def test_imagenet_models_cost_what_torchvision_publishes(name: str) -> None:
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    network = shapes_of(name, "imagenet", 1000, 224)
    assert parameter_count(network) == published["num_params"]
    assert macs(network) / 1e9 == pytest.approx(published["_ops"], abs=2e-3)


def test_counting_leaves_the_network_alone() -> None:
    network = tiny()
    before = copied(network.state_dict())
    macs(network)
    assert network.training
    assert same_bits(network.state_dict(), before)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProtocolError, match="images of 3x16x16 do not fit vgg11_bn"):
        macs(shapes_of("vgg11_bn", "cifar", 10, 16))


def test_bytes_are_those_of_the_file(tmp_path) -> None:
    network = build("resnet8-w0.25", classes=10, inputs=square(3, 32), stem="cifar", seed=0)
    path = tmp_path / "student.safetensors"
    safetensors.torch.save_file(export_state(network), path)
    assert state_bytes(network) == path.stat().st_size


def test_latency_has_positive_figures_for_every_network_and_batch() -> None:
    results = measured({"student": tiny(), "student again": tiny()})
    assert list(results) == ["student", "student again"]
    for figures in results.values():
        assert [figure.batch_size for figure in figures] == [1, 3]
        assert all(0 < figure.median_ms <= figure.p95_ms for figure in figures)
        assert all(figure.repeats == 4 for figure in figures)


def test_latency_is_the_median_and_the_95th_percentile_in_ms(monkeypatch) -> None:
    clock = itertools.accumulate(  # pass n takes n seconds, the pauses between passes none
        itertools.chain.from_iterable((0, number) for number in itertools.count())
    )
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(cost, "TIME_LIMIT", 1e9)
    (figure,) = measured({"only": tiny()}, batch_sizes=(2,), repeats=21)["only"]
    first = WARM_UP_ROUNDS  # the passes before are not counted
    assert figure.to_json() == {
        "batch_size": 2,
        "median_ms": (first + 10) * 1000,
        "p95_ms": (first + 19) * 1000,
        "repeats": 21,
    }
    json.dumps(figure.to_json())


def test_slow_networks_have_fewer_rounds(monkeypatch) -> None:
    """Two networks of 10 s a pass: one round of warm-up, and the least that count."""
    clock = itertools.accumulate(itertools.cycle((0, 10)))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    networks = {"one": tiny(), "other": tiny()}
    calls: list[int] = []
    networks["one"].register_forward_hook(lambda module, given, output: calls.append(1))
    for figures in measured(networks, batch_sizes=(1,), repeats=40).values():
        assert [figure.repeats for figure in figures] == [LEAST_ROUNDS]
    assert len(calls) == 1 + LEAST_ROUNDS
    clock = itertools.accumulate(itertools.cycle((0, 1)))
    (figure,) = measured(networks, batch_sizes=(1,), repeats=40)["other"]
    assert LEAST_ROUNDS < figure.repeats == (TIME_LIMIT - 2 * WARM_UP_ROUNDS) // 2 + 1


def test_networks_take_turns_in_a_shuffled_order() -> None:
    calls = calls_of(repeats=12)
    assert [size for _, size in calls] == sorted(size for _, size in calls)
    names = [name for name, _ in calls]
    assert len(names) == 2 * 3 * (WARM_UP_ROUNDS + 12)
    rounds = [tuple(names[start : start + 3]) for start in range(0, len(names), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 3


def test_the_seed_decides_the_order() -> None:
    assert calls_of(seed=1) == calls_of(seed=1)
    assert calls_of(seed=1) != calls_of(seed=2)


def test_every_pass_is_on_stored_examples_which_are_repeated_in_a_larger_batch() -> None:
    batches: list[Tensor] = []
    network = tiny()
    network.register_forward_hook(lambda module, given, output: batches.append(given[0]))
    stored = examples(2)
    measured({"only": network}, examples=stored, batch_sizes=(1, 5))
    wanted = {1: stored.values[:1], 5: stored.values[[0, 1, 0, 1, 0]]}
    assert {len(batch) for batch in batches} == {1, 5}
    assert all(torch.equal(batch, wanted[len(batch)]) for batch in batches)


def test_examples_have_the_size_of_the_network_before_they_are_timed() -> None:
    batches: list[Tensor] = []
    network = tiny()
    network.register_forward_hook(lambda module, given, output: batches.append(given[0]))
    measured({"only": network}, examples=examples(2, 12), batch_sizes=(2,))
    fitted = network.inputs.fitted(noise(2, 2, 12)).byte()
    assert all(same_bits({"": batch}, {"": fitted}) for batch in batches)
    assert {(batch.dtype, batch.shape) for batch in batches} == {(torch.uint8, (2, 2, 6, 6))}


def test_timed_networks_are_copies_in_eval_and_inference_mode() -> None:
    modes: list[tuple[bool, bool]] = []
    network = tiny()
    network.register_forward_hook(
        lambda module, given, output: modes.append((module.training, output.is_inference()))
    )
    before = copied(network.state_dict())
    measured({"only": network})
    assert set(modes) == {(False, True)}
    assert network.training
    assert same_bits(network.state_dict(), before)


def test_an_accelerator_is_waited_for_before_and_after_each_pass(monkeypatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: events.append("wait"))
    network = tiny()
    network.register_forward_hook(lambda module, given, output: events.append("pass"))
    measured({"only": network}, batch_sizes=(1,), repeats=2)
    assert events == ["wait", "pass", "wait"] * (WARM_UP_ROUNDS + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"batch_sizes": (1, 0)}, r"batch_sizes must be at least 1, got \[1, 0\]"),
    ],
)
def test_counts_below_one_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        measured({"only": tiny()}, **change)
