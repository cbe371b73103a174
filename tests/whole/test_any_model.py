"""Whole studies of what people have: models of their own in a few lines, of many kinds."""

from pathlib import Path

import pytest

from conductor.command_line.cli import main
from tests.support.tiny import hasten, succeed

HEAD = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.head, self.aux, self.drop = *(nn.Linear(6, classes) for _ in "ab"), nn.Dropout(0.2)
        self.change(classes)

    def change(self, classes):
        pass

    def pool(self, x):
        return self.drop(self.b(self.a(x).relu()).relu().mean((2, 3)))


class Mine(Net):
"""
MODELS = {
    "dropout and stochastic depth": """
    def forward(self, x):
        x = self.a(x)
        kept = torch.rand(len(x), 1, 1, 1) > 0.2 if self.training else 1.0
        return self.head(self.drop((x + kept * self.b(x)).relu().mean((2, 3))))
""",
    "an output object": """
    def forward(self, x):
        return type("Output", (), {"logits": self.head(self.pool(x)), "loss": None})()
""",
    "a dict": """
    def forward(self, x):
        return {"logits": self.head(self.pool(x)), "hidden": x}
""",
    "a tuple with an auxiliary head": """
    def forward(self, x):
        x = self.pool(x)
        return self.head(x), self.aux(x)
""",
    "skips": """
    def forward(self, x):
        fine = self.a(x).relu()
        deep = nn.functional.interpolate(self.b(fine[..., ::2, ::2]), scale_factor=2)
        return self.head((fine + deep).mean((2, 3)))
""",
    "tied weights": """
    def change(self, classes):
        self.aux.weight = self.head.weight

    def forward(self, x):
        x = self.pool(x)
        return self.head(x) + self.aux(x)
""",
    "frozen layers": """
    def change(self, classes):
        self.a.requires_grad_(False)

    def forward(self, x):
        return self.head(self.pool(x))
""",
}
FIRST, *OTHERS = MODELS


@pytest.mark.parametrize(
    "what", [FIRST, *(pytest.param(other, marks=pytest.mark.thorough) for other in OTHERS)]
)
def test_a_model_of_a_few_lines_is_student_and_teacher(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hasten(monkeypatch)
    (tmp_path / "nets.py").write_text(HEAD + MODELS[what])
    name = f"{tmp_path}/nets.py:Mine"
    more = ["--teacher", name, "--student", name, "--taps", "last1"]
    succeed(tmp_path / "runs", capsys, *more)
    places = ["--root", str(tmp_path / "runs"), "--workers", "inline"]
    assert main(["reproduce", "--trial", "1", "--arm", "scheduled", *places]) == 0
