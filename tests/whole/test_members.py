"""A new member of any kind is one new file: it works by name throughout a study, resumed or not."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from safetensors.torch import load_file

from conductor.command_line.cli import main
from conductor.command_line.places import settled_words
from conductor.search.methods import make_pruner, make_sampler
from conductor.search.pruners import PRUNERS
from conductor.search.samplers import SAMPLERS
from kd.data.reading.source import Reading
from kd.data.splits import listing_digest, passed_over
from kd.dataset_names import SOURCES
from kd.errors import ProtocolError
from kd.names import AUGMENTATIONS, FEATURE_LOSSES, LOGIT_LOSSES, OPTIMIZERS
from search_spaces.context import StudyContext
from search_spaces.space import load_space
from storage.files.artifacts import read_json, read_manifest
from storage.files.layout import Layout
from tests.support.small import protocol
from tests.support.tiny import hasten, interrupt, refuse, succeed, timeless
from workers.runners import examining

STRIPES = '''"""Stripes of two directions, 8x8."""

import numpy as np

from kd.data.reading.source import Source


def read(place, how, progress):
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 2
    images = generator.integers(0, 200, (160, 1, 8, 8)).astype(np.uint8)
    images[labels == 0, :, ::2] += 55
    images[labels == 1, :, :, ::2] += 55
    return Source(inputs=images, labels=labels, classes=("lying", "standing"))
'''
SOLARIZE = '''"""Invert pixels above this value, in half of the images."""

import torch

DEFAULT = 128
RANGE = (0, 255)


def draw(generator, count, shape, value):
    return {"chosen": torch.randint(0, 2, (count,), generator=generator).bool()}


def apply(batch, drawn, value):
    return torch.where(drawn["chosen"][:, None, None, None] & (batch > value), 255 - batch, batch)
'''
LION = '''"""Lion, the sign of an interpolated momentum."""

from kd.optimizers import Range

LR = Range(1e-5, 1e-2, 1e-3)
WEIGHT_DECAY = Range(1e-3, 1.0, 0.1)


def make(decayed, spared, lr, weight_decay, device):
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

    return Lion([*decayed, *spared], {"lr": lr})
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
SAMPLER = '''"""Random, by another name."""

from optuna.samplers import RandomSampler


def make(seed, startup, past):
    return RandomSampler(seed=seed)
'''
PRUNER = '''"""Patient."""

from optuna.pruners import PatientPruner


def make(horizon):
    return PatientPruner(None, patience=horizon)
'''
FILES = {
    SOURCES: ("stripes", STRIPES),
    AUGMENTATIONS: ("solarize", SOLARIZE),
    OPTIMIZERS: ("tiny_lion", LION),
    LOGIT_LOSSES: ("mean_power", POWER),
    FEATURE_LOSSES: ("absolute", ABSOLUTE),
    SAMPLERS: ("another", SAMPLER),
    PRUNERS: ("patient", PRUNER),
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


FLAGS = (
    *("--dataset", "stripes", "--name", "digits", "--optimizer", "tiny-lion", "--space", "mine.py"),
    *("--sampler", "another", "--pruner", "patient", "--clip", "1", "--ema", "0.5", "--augment"),
)


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file in the folder of each kind."""
    hasten(monkeypatch)
    for kind, (stem, text) in FILES.items():
        folder = tmp_path / "members" / kind.package
        folder.mkdir(parents=True)
        (folder / f"{stem}.py").write_text(text)
        package = importlib.import_module(kind.package)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for kind, (stem, _) in FILES.items():
        sys.modules.pop(f"{kind.package}.{stem}", None)


def test_a_space_whose_parameters_break_a_rule_of_the_loss_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SPACE.replace("1, 3", "0, 3"))
    with pytest.raises(
        ProtocolError, match=r"of mean-power: power must be at least 1, got 0\."
    ) as at:
        load_space(str(tmp_path / "mine.py"), StudyContext())
    assert "\n" not in str(at.value)


def test_new_members_are_listed_and_proposed_for_a_typo(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    for kind, (stem, text) in FILES.items():
        name = stem.replace("_", "-")
        with pytest.raises(ProtocolError, match=rf"did you mean {name}\?"):
            kind.check(f"{name}x")
        described = f"{name} ({text[3:].partition('.')[0]})"
        assert (described in help_text) == (kind != FEATURE_LOSSES)


def test_samplers_and_pruners_are_made_by_name() -> None:
    for name in SAMPLERS.names:
        assert isinstance(make_sampler(name, 2**40), optuna.samplers.BaseSampler)
    for name in PRUNERS.names:
        assert isinstance(make_pruner(name, 1), optuna.pruners.BasePruner)
    assert {"another", "gp", "random", "tpe"} == set(SAMPLERS.names)
    assert {"halving", "hyperband", "median", "none", "patient"} <= set(PRUNERS.names)


def test_the_doctor_computes_new_losses() -> None:
    computed = examining._computed(torch.device("cpu"))
    assert {"mean-power", "absolute", "the gradient of absolute"} <= set(computed)


def test_spaces_take_the_ranges_of_a_new_optimizer() -> None:
    space = load_space("plain", StudyContext(optimizer="tiny-lion"))
    assert space.enqueued["defaults"]["lr"] == 1e-3


def test_a_study_uses_new_members_and_continues_bit_by_bit_after_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SPACE)
    flags = (*FLAGS, "solarize=0,flip")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    succeed(whole, capsys, *flags)
    interrupt(killed, capsys, monkeypatch, *flags)
    left = [*(killed / "digits" / "trials").rglob("checkpoint.safetensors")]
    assert len(left) == 1
    assert {"optimizer.0.momentum", "average.body.fc.bias"} <= {*load_file(left[0])}
    succeed(killed, capsys, *flags)
    study = Layout(whole).study("digits")
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
    kept = read_json(study.protocol)
    named = [kept[name] for name in ("dataset", "augment", "optimizer")]
    assert named == ["stripes", "solarize=0,flip", "tiny-lion"]
    for kind, pattern in (("teacher", "cache/teachers/*/"), ("shards", "cache/shards/*/")):
        [folder] = [path for path in whole.glob(pattern) if (path / "manifest.json").exists()]
        identity = read_manifest(folder, kind).identity
        assert identity.get("plan", identity)["augment"] == "solarize=0,flip"
    assert '"solarize=0,flip"' in study.report_json.read_text()
    assert "augment: solarize=0,flip -> solarize=128,flip" in refuse(
        whole, capsys, *FLAGS, "solarize,flip"
    )
    assert main(["export", "--workers", "inline", "--root", str(whole)]) == 0
    [card] = study.folder.glob("export/*/README.md")
    assert "augmentation: solarize=0,flip." in card.read_text().replace("\\", "")


def test_a_new_source_may_take_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = 'PATH = "a.txt"\n\n\ndef listing(place, how):\n    return place.read_text()\n'
    (tmp_path / "members" / "kd.data.sources" / "stripes.py").write_text(text)
    with pytest.raises(ProtocolError, match=r"stripes: requires a path, as in stripes:a\.txt"):
        protocol(dataset="stripes")
    [_, dataset] = settled_words(["--dataset", "stripes:b.txt"])
    assert protocol(dataset=dataset).dataset == f"stripes:{tmp_path / 'b.txt'}"
    (tmp_path / "b.txt").write_text("one")
    before = listing_digest(dataset, Reading(8))
    (tmp_path / "b.txt").write_text("two")
    assert listing_digest(dataset, Reading(8)) != before
    assert passed_over(dataset, Reading(8)) == ""
