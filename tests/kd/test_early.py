"""The early signal: calibrated likelihood under batch statistics; the network stays as it is."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from kd.data.examples import Examples
from kd.models.network import Network
from kd.training.early import BATCH, batch_logits, early_nll, scaled_nll
from kd.training.loop import train
from tests.support.small import PLAIN, begin, copied, labelled, plan, same_bits

MANY = 10_000  # training images


def run() -> Network:
    """Train a student for some steps: its running statistics lag behind its weights."""
    state = begin(PLAIN, None)
    list(train(state, PLAIN, plan(epochs=1), labelled(), labelled(seed=1)))
    return state.network


@pytest.fixture
def trained() -> Network:
    return run()


def by_hand(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The least likelihood over all factors, by SciPy in float64."""

    def at(log: float) -> float:
        scaled = logits * np.exp(log)
        log_p = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        return float(np.average(-log_p[np.arange(len(labels)), labels], weights=weights))

    return float(minimize_scalar(at, bounds=(-4.2, 4.2), method="bounded").fun)


def signal(network: Network, some: Examples, images: int = MANY, metric: str = "accuracy") -> float:
    return early_nll(network, some, images, torch.zeros(len(some), 3), metric)


def test_it_is_the_calibrated_likelihood_with_the_batch_s_own_statistics(trained: Network) -> None:
    some = labelled(seed=2)
    logits = copy.deepcopy(trained).train()(some.values).detach().numpy().astype(float)
    expected = by_hand(logits, some.labels.numpy())
    assert signal(trained, some) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("factor", [0.05, 1.0, 20.0])
def test_it_does_not_depend_on_how_confident_a_network_is(factor: float) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(64, 5)), generator.integers(5, size=64)
    logits[np.arange(64), labels] += 1  # right more often than not
    weights = generator.random(64)
    found = scaled_nll(*map(torch.from_numpy, (factor * logits, labels, weights)))
    assert found == pytest.approx(by_hand(logits, labels, weights), abs=1e-6)


def test_images_weigh_as_much_as_in_the_metric(trained: Network) -> None:
    some = labelled(seed=2, count=40)
    some.labels[:30] = 0
    logits, labels = batch_logits(trained, some, MANY) or pytest.fail("there is batch norm")
    counts = np.bincount(labels.numpy())
    weights = 1 / counts[labels.numpy()]
    expected = by_hand(logits.double().numpy(), labels.numpy(), weights)
    found = signal(trained, some, metric="balanced-accuracy")
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(signal(trained, some), abs=1e-3)


def modes(network: Network) -> list[tuple[bool, object]]:
    return [(one.training, getattr(one, "track_running_stats", 0)) for one in network.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_weights_statistics_and_modes_as_they_are(
    trained: Network, training: bool
) -> None:
    before, was = copied(trained.train(training).state_dict()), modes(trained)
    signal(trained, labelled())
    assert same_bits(trained.state_dict(), before)
    assert modes(trained) == was


def test_only_batch_norms_compute_as_in_training(trained: Network) -> None:
    """Dropout and stochastic depth do not."""
    seen: list[tuple[bool, bool]] = []

    def note(module: Module, given: object, output: object) -> None:
        seen.append((module.training, isinstance(module, _BatchNorm)))

    for module in trained.modules():
        module.register_forward_hook(note)
    signal(trained, labelled())
    assert {(True, True), (False, False)} == set(seen)


@pytest.mark.parametrize(("images", "count"), [(MANY, 300), (1600, 200), (240, 30), (8, 2)])
@pytest.mark.parametrize("labels", [torch.arange(300) // 100, torch.arange(300) % 3])
def test_its_images_are_few_and_each_batch_has_all_classes_whatever_their_order(
    trained: Network, monkeypatch: pytest.MonkeyPatch, images: int, count: int, labels: Tensor
) -> None:
    seen = list[Tensor]()

    def forward(network: Network, places: Tensor) -> Tensor:
        seen.append(places)
        return torch.zeros(len(places), 3)

    monkeypatch.setattr(Network, "forward", forward)
    split = replace(labelled(count=300), values=torch.arange(300), labels=labels)
    found = batch_logits(trained, split, images)
    assert found
    assert torch.equal(found[1], labels[torch.cat(seen)])
    assert len(set(torch.cat(seen).tolist())) == count
    sizes = [len(batch) for batch in seen]
    assert max(sizes) <= BATCH
    assert max(sizes) - min(sizes) <= 1
    assert count < 30 or all(len(set(labels[batch].tolist())) == 3 for batch in seen)
    assert signal(trained, split, images) == pytest.approx(np.log(3))


@pytest.mark.parametrize(("size", "largest"), [(96, 128), (128, 72), (224, 32)])
def test_large_images_come_in_smaller_batches(
    trained: Network, monkeypatch: pytest.MonkeyPatch, size: int, largest: int
) -> None:
    seen = list[int]()

    def forward(network: Network, places: Tensor) -> Tensor:
        seen.append(len(places))
        return torch.zeros(len(places), 3)

    monkeypatch.setattr(Network, "forward", forward)
    monkeypatch.setattr(trained, "inputs", replace(trained.inputs, shape=(1, size, size)))
    count = 4 * largest
    split = replace(labelled(count=count), values=torch.arange(count))
    assert batch_logits(trained, split, 8 * count)
    assert seen == [largest] * 4


def test_without_batch_norm_it_is_that_of_all_validation_images() -> None:
    bare = Network.__new__(Network)
    Module.__init__(bare)
    bare.layer = torch.nn.LayerNorm(4)
    some = labelled()
    predicted = torch.randn(len(some), 3, generator=torch.Generator().manual_seed(0))
    predicted[torch.arange(len(some)), some.labels] += 1
    expected = by_hand(predicted.double().numpy(), some.labels.numpy())
    found = early_nll(bare, some, MANY, predicted, "accuracy")
    assert found == pytest.approx(expected, abs=1e-6)
