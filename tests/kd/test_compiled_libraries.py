"""Compilation of models that are not of the catalogue, whose graphs may break."""

from typing import Any

import pytest
import torch
from torch import nn

from kd.models.network import Network
from kd.models.numerics import training_forward
from kd.models.taps import Tap
from tests.support.small import network, square

CPU = torch.device("cpu")
NAME = "mine.py:small@0123456789ab"


def test_only_a_model_of_the_catalogue_must_be_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(forward: Any, **settings: Any) -> Any:
        asked.append(settings["fullgraph"])
        return forward

    monkeypatch.setattr(torch, "compile", spy)
    for name in ("resnet8", NAME, "timm:resnet26t"):
        student = network()
        student.name = name
        training_forward(student, CPU, "float32", True)
    assert asked == [True, False, False]


class Breaking(nn.Module):
    """Two layers, and a branch between them that depends on values, which no graph contains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images.flatten(1))
        if features.sum().item() > 1e9:
            features = -features
        logits: torch.Tensor = self.last(self.drop(features.relu()))
        return logits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_breaks_gives_logits_and_taps_and_draws_by_the_seed() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    body = Breaking()
    student = Network(NAME, body, [Tap("first", "vector")], square(1, 2))
    images = torch.arange(32, dtype=torch.uint8).reshape(8, 1, 2, 2)
    with torch.random.fork_rng():
        usual, _ = student.eval().forward_taps(images, ("last1",))
        student.train()
        forward, drawn = training_forward(student, CPU, "float32", True), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            logits, maps = forward(images, ("last1",))
            drawn.append(logits.detach())
        assert maps["last1"].shape == (8, 4, 1, 1)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        student.eval()
        torch.testing.assert_close(forward(images, ("last1",))[0], usual)
    assert torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1
