"""A model family is one new file: its models are built, trained, proposed for typos and shown."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kd.models.families
from conductor.command_line.cli import main
from kd.errors import ProtocolError
from kd.models.build import build, tap_shapes
from kd.models.taps import Tap
from kd.names import FAMILIES, catalogue, parse_model
from storage.files.artifacts import read_json
from storage.files.layout import Layout
from tests.support.small import floats, protocol
from tests.support.tiny import hasten, succeed

PLAIN = '''"""Plain convolutions, as in plain3."""

from collections import OrderedDict

from torch import nn

MODELS = {"plain3": {"taps": 3, "scalable": True}, "plain-odd": {"taps": 1}}


def build(model, classes, channels, stem):
    width = round(8 * model.width)
    layers = OrderedDict()
    for number, inputs in enumerate((channels, width, width)):
        layers[f"conv{number}"] = nn.Conv2d(inputs, width, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
    odd = {"norm": nn.GroupNorm(1, width)} if model.base == "plain-odd" else {}
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(width, classes)}
    layers.update(odd | head)
    return nn.Sequential(layers), ("relu0", "relu1", "relu2")
'''


@pytest.fixture(autouse=True)
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A family `plain`, in a folder of its own."""
    folder = tmp_path / "members"
    folder.mkdir()
    (folder / "plain.py").write_text(PLAIN)
    package = kd.models.families
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()
    sys.modules.pop("kd.models.families.plain", None)


def test_a_study_trains_and_exports_a_student_of_a_new_family(tmp_path, capsys, monkeypatch):
    hasten(monkeypatch)
    root = tmp_path / "runs"
    succeed(root, capsys, "--student", "plain3-w0.5")
    study = Layout(root).study("digits")
    assert read_json(study.protocol)["students"] == ["plain3-w0.5"]
    assert main(["export", "--workers", "inline", "--root", str(root)]) == 0
    [source] = study.folder.glob("export/*/student.py")
    assert 'self.add_module("conv0", nn.Conv2d(1, 4' in source.read_text()


def test_help_and_typos_propose_it(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "plain (Plain convolutions, as in plain3)" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ProtocolError, match=r"unknown model 'plain33'; did you mean plain3\?"):
        parse_model("plain33")
    with pytest.raises(ProtocolError, match=r"plain-odd has no width factor, .*mobilenet_v2"):
        parse_model("plain-odd-w0.5")
    with pytest.raises(
        ProtocolError, match=r"^there are no ImageNet weights for plain3; use --teacher"
    ):
        protocol(teachers=("plain3",), teacher_weights=("pretrained",))


def test_its_taps_are_read_at_its_module_paths():
    network = build("plain3", classes=3, inputs=floats(), stem="cifar", seed=0)
    assert network.places == {"last1": Tap("relu2"), "last2": Tap("relu1"), "last3": Tap("relu0")}
    assert tap_shapes(network)["last3"] == (8, 8, 8)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(
        network.forward_taps(images, ["last3"])[1]["last3"], network.body[:2](images)
    )


def test_a_layer_that_no_rule_initialises_is_refused():
    with pytest.raises(TypeError, match="plain-odd: no rule initialises a GroupNorm"):
        build("plain-odd", classes=3, inputs=floats(), stem="cifar", seed=0)


@pytest.mark.parametrize("family", FAMILIES.names)
def test_the_literals_of_a_family_need_no_import_and_are_its_own(family):
    module = FAMILIES.load(family)
    assert FAMILIES.literals(family)["MODELS"] == module.MODELS
    assert all(parse_model(name).facts.family == family for name in module.MODELS)
