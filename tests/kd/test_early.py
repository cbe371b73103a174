"""The early signal: likelihood under a batch's own statistics, which leaves the network alone."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from kd.data.inputs import Examples
from kd.models.network import Network
from kd.training import loop
from kd.training.early import BATCH, early_nll
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


def by_hand(network: Network, some: Examples) -> float:
    """The likelihood in float64 by NumPy, from the logits of a copy in training mode."""
    logits = copy.deepcopy(network).train()(some.values).detach().numpy().astype(float)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(some)), some.labels.numpy()].mean())


def test_it_is_the_likelihood_with_the_batch_s_own_statistics(trained: Network) -> None:
    some = labelled(seed=2)
    assert early_nll(trained, some, MANY) == pytest.approx(by_hand(trained, some), rel=1e-5)


def modes(network: Network) -> list[tuple[bool, object]]:
    return [(one.training, getattr(one, "track_running_stats", 0)) for one in network.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_weights_statistics_and_modes_as_they_are(
    trained: Network, training: bool
) -> None:
    before, was = copied(trained.train(training).state_dict()), modes(trained)
    early_nll(trained, labelled(), MANY)
    assert same_bits(trained.state_dict(), before)
    assert modes(trained) == was


def test_only_batch_norms_compute_as_in_training(trained: Network) -> None:
    """Dropout and stochastic depth do not."""
    seen: list[tuple[bool, bool]] = []

    def note(module: Module, given: object, output: object) -> None:
        seen.append((module.training, isinstance(module, _BatchNorm)))

    for module in trained.modules():
        module.register_forward_hook(note)
    early_nll(trained, labelled(), MANY)
    assert {(True, True), (False, False)} == set(seen)


@pytest.mark.parametrize(("images", "count"), [(MANY, 300), (1600, 200), (240, 30), (8, 2)])
def test_its_images_are_few_and_spread_over_the_split(
    trained: Network, monkeypatch: pytest.MonkeyPatch, images: int, count: int
) -> None:
    split, seen = labelled(count=300), list[Tensor]()

    def forward(network: Network, values: Tensor) -> Tensor:
        seen.append(values)
        return torch.zeros(len(values), 3)

    monkeypatch.setattr(Network, "forward", forward)
    assert early_nll(trained, split, images) == pytest.approx(np.log(3))
    expected = split.values[[place * 300 // count for place in range(count)]]
    assert torch.equal(torch.cat(seen), expected)
    sizes = [len(batch) for batch in seen]
    assert max(sizes) <= BATCH
    assert max(sizes) - min(sizes) <= len(sizes)


def test_without_batch_norm_it_is_that_of_all_validation_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = Network.__new__(Network)
    Module.__init__(bare)
    bare.layer = torch.nn.LayerNorm(4)
    assert early_nll(bare, labelled(), MANY) is None
    monkeypatch.setattr(loop, "early_nll", lambda *given: None)
    state = begin(PLAIN, None)
    [epoch] = train(state, PLAIN, plan(epochs=1), labelled(), labelled(seed=1))
    assert epoch.early_nll == epoch.nll


def test_a_run_is_the_same_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = run().state_dict()
    monkeypatch.setattr(loop, "early_nll", lambda *given: None)
    assert same_bits(run().state_dict(), with_it)
