"""A new optimizer or loss is one new file: it trains and is resumed, and no list is edited."""

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd.errors import ProtocolError
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES, OPTIMIZERS
from kd.registry import Kind
from search_spaces.context import StudyContext
from search_spaces.space import load_space
from storage.files.artifacts import read_json
from storage.files.layout import Layout
from tests.support.tiny import hasten, interrupt, succeed, timeless
from workers.runners import examining

LION = '''"""Lion, the sign of an interpolated momentum."""

from kd.optimizers import Range

LR = Range(1e-5, 1e-2, 1e-3)
WEIGHT_DECAY = Range(1e-3, 1.0, 0.1)


def make(parameters, lr, weight_decay, device):
    import torch

    class Lion(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    p.mul_(1 - group["lr"] * weight_decay)
                    p.sub_(group["lr"] * (0.9 * momentum + 0.1 * p.grad).sign())
                    momentum.mul_(0.99).add_(p.grad, alpha=0.01)

    return Lion(parameters, {"lr": lr})
'''
POWER = '''"""Distance of logits to a power."""

from dataclasses import dataclass

from torch import Tensor

from kd.errors import require

LEAST = 1


@dataclass(frozen=True)
class Parameters:
    power: float = 2.0

    def __post_init__(self):
        require(f"power must be at least {LEAST}", self.power >= LEAST, self.power)


def loss(student_logits: Tensor, teacher_logits, labels, temperature, parameters):
    return (student_logits - teacher_logits).abs().pow(parameters.power).mean()
'''
ABSOLUTE = '''"""Absolute distance of adapted maps."""

from kd.models.taps import matched

ADAPTED = True


def loss(student, reading):
    ours, theirs = matched(student, reading.features)
    return (ours - theirs).abs().mean()
'''
FILES = {
    OPTIMIZERS: ("tiny_lion", LION),
    LOGIT_LOSSES: ("mean_power", POWER),
    FEATURE_LOSSES: ("absolute", ABSOLUTE),
}
SPACE = """
from dataclasses import replace
from kd.recipe import Schedule
from search_spaces import plain

def suggest(trial, study):
    return replace(
        plain.suggest(trial, study), soft_kind="mean-power", alpha=Schedule.constant(0.5),
        soft_parameters={"power": trial.suggest_float("power", 1, 3)},
        feature_kind="absolute", feature_weight=0.1, feature_taps=("last1", "last2"),
    )
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file more in the folder of each kind."""
    for kind, (stem, text) in FILES.items():
        folder = tmp_path / kind.package
        folder.mkdir()
        (folder / f"{stem}.py").write_text(text)
        package = importlib.import_module(kind.package)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


@pytest.mark.parametrize(("kind", "typo"), [(OPTIMIZERS, "tiny-lyon"), (LOGIT_LOSSES, "mean-powr")])
def test_a_new_member_is_proposed_for_a_typo(added: None, kind: Kind, typo: str) -> None:
    with pytest.raises(ProtocolError, match=rf"did you mean {FILES[kind][0].replace('_', '-')}\?"):
        kind.check(typo)


def test_a_space_whose_parameters_break_a_rule_of_the_loss_is_refused(
    added: None, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SPACE.replace("1, 3", "0, 3"))
    with pytest.raises(
        ProtocolError, match=r"of mean-power: power must be at least 1, got 0\."
    ) as at:
        load_space(str(tmp_path / "mine.py"), StudyContext())
    assert "\n" not in str(at.value)


def test_the_doctor_computes_new_losses(added: None) -> None:
    computed = examining._computed(torch.device("cpu"))
    assert {"mean-power", "absolute", "the gradient of absolute"} <= set(computed)


def test_spaces_take_the_ranges_of_a_new_optimizer(added: None) -> None:
    space = load_space("plain", StudyContext(optimizer="tiny-lion"))
    assert space.enqueued["defaults"]["lr"] == 1e-3


def test_a_study_trains_with_new_members_and_goes_on_bit_by_bit_after_a_kill(
    added: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasten(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SPACE)
    flags = ("--optimizer", "tiny-lion", "--space", "mine.py")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    succeed(whole, capsys, *flags)
    interrupt(killed, capsys, monkeypatch, *flags)
    left = [*(killed / "digits" / "trials").rglob("checkpoint.safetensors")]
    assert len(left) == 1
    assert "optimizer.0.momentum" in load_file(left[0])
    succeed(killed, capsys, *flags)
    for arm in ("mine", "plain"):
        for number in range(2):
            once, again = (
                read_json(Layout(root).study("digits").trial(arm, number).result)
                for root in (whole, killed)
            )
            assert timeless(again) == timeless(once)
            recipe = once["recipe"]
            assert recipe["soft_kind"] == ("mean-power" if arm == "mine" else "none")
            assert [*recipe["soft_parameters"]] == ["power"] * (arm == "mine")
            assert all(epoch["feature_loss"] > 0 for epoch in once["history"]) == (arm == "mine")
    assert "tiny-lion" in Layout(whole).study("digits").protocol.read_text()
