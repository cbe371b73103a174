"""student.py of every kind of model gives the student's logits to the last bit, without Retort.

`written` compares them, as an export does, before it returns.
"""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import kd.models.families
from kd.data.inputs import Arrays, Inputs
from kd.errors import ArtifactError
from kd.json_data import to_wire
from kd.models.network import Network, logits_of
from kd.names import FAMILIES, catalogue
from storage.files.artifacts import read_json
from storage.files.tensors import map_tensors
from tests.support.small import square
from tests.support.students import kept, student, written
from workers.runners.standalone import standalone_source

ARRAYS = Arrays(shape=(2, 24), kept="float32")
TOKENS = Arrays(shape=(12,), kept="int64")
TIMM = (
    *("resnet26t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "levit_128s"),
    *("swin_tiny_patch4_window7_224", "mobilevit_xxs", "efficientnet_lite0", "mixer_s32_224"),
    *("deit_tiny_distilled_patch16_224", "regnetx_002", "coat_tiny", "inception_next_atto"),
)
TORCHVISION = (
    *("resnet18", "mobilenet_v3_small", "swin_t", "vit_b_32", "convnext_tiny", "googlenet"),
    *("regnet_y_400mf", "efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1", "densenet121"),
)
MANY = [
    pytest.param(f"{library}:{name}", channels, 64, marks=pytest.mark.thorough)
    for library, names in (("timm", TIMM), ("torchvision", TORCHVISION))
    for name in names
    for channels in (1, 3)
]


def imported(source: str) -> set[str]:
    """Return the packages that a file imports."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in plain | named}


def source_of(root: Path) -> str:
    return (root / "out" / "student.py").read_text()


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("timm:test_vit", 1, 64), ("torchvision:mnasnet0_5", 1, 32), *MANY],
)
def test_a_library_builds_its_model(tmp_path: Path, name: str, channels: int, size: int) -> None:
    library = name.partition(":")[0]
    pytest.importorskip(library)
    written(tmp_path, student(tmp_path, name, square(channels, size)))
    source = source_of(tmp_path)
    assert imported(source) == {"pathlib", "torch", "safetensors", library}
    needed = f"{library} {version(library)}"
    assert f"It needs PyTorch, {needed} and safetensors, and nothing of Retort" in source
    assert read_json(tmp_path / "out" / "config.json")["needs"] == [needed]


OWN = """
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Output:
    loss: object
    logits: torch.Tensor


class Model(nn.Module):
    def __init__(self, inputs, classes, answer):
        super().__init__()
        self.hidden, self.norm, self.drop = nn.Linear(inputs, 6), nn.LayerNorm(6), nn.Dropout()
        self.head, self.unused = nn.Linear(6, classes), nn.Linear(6, 2)
        self.answer = answer

    def forward(self, values):
        hidden = self.hidden(values.flatten(1)).relu()
        return self.answer(self.head(self.drop(self.norm(hidden))))


class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.back = nn.Embedding(30, classes), nn.Linear(classes, 30, bias=False)
        self.back.weight = self.embed.weight

    def forward(self, tokens):
        return self.back(self.embed(tokens).mean(1)) @ self.embed.weight


def sized(classes, channels, size):
    return Model(channels * size * size, classes, lambda logits: logits)


def tied(classes, channels):
    return Tied(classes)


def answers(classes, channels):
    return Model(INPUTS, classes, lambda logits: ANSWER)
"""
ANSWERS = {
    "tuple": ("(logits, None)", "[0]"),
    "list": ("[logits, logits]", "[0]"),
    "dict": ("{'loss': None, 'logits': logits}", '["logits"]'),
    "object": ("Output(None, logits)", ".logits"),
    "float64": ("logits.double()", ".float()"),
}


def own(root: Path, function: str, inputs: Inputs, answer: str = "logits") -> Network:
    count = 48 if inputs is ARRAYS else 64
    source = OWN.replace("INPUTS", str(count)).replace("ANSWER", answer)
    return student(root, kept(root, source, function), inputs)


@pytest.mark.parametrize("inputs", [square(1), ARRAYS], ids=["images", "arrays"])
@pytest.mark.parametrize(("answer", "taken"), ANSWERS.values(), ids=ANSWERS)
def test_logits_are_taken_from_any_form_of_output(
    tmp_path: Path, answer: str, taken: str, inputs: Inputs
) -> None:
    plain, some = written(tmp_path, own(tmp_path, "answers", inputs, answer))
    logits = plain(inputs.exported(some.values))
    assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (3, 5))
    assert re.search(rf"return self\.body\(.*\){re.escape(taken)}", source_of(tmp_path))


class Constant(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, values: torch.Tensor) -> Any:
        return self.output


def test_student_py_takes_the_logits_that_a_network_takes() -> None:
    logits, other = torch.zeros(1, 5), torch.ones(1, 5)

    class Both(dict[str, torch.Tensor]):
        logits = other

    forms: list[tuple[Any, str]] = [
        (logits, ""),
        ((logits, other), "[0]"),
        ([logits], "[0]"),
        (Both(logits=logits), '["logits"]'),
        (SimpleNamespace(logits=logits), ".logits"),
    ]
    for output, taken in forms:
        network = Network("torchvision:resnet18", Constant(output), (), square())
        config = {"classes": 5, "channels": 1, "inputs": to_wire(network.inputs)}
        found = re.findall(r"return self\.body\(.*\)(.*)", standalone_source(network, config))
        assert found == [taken]
        assert logits_of(output) is logits


def test_a_function_that_takes_the_size_gets_it(tmp_path: Path) -> None:
    written(tmp_path, own(tmp_path, "sized", square(1)))
    assert "return made_by.sized(classes=5, channels=1, size=8)" in source_of(tmp_path)
    config = read_json(tmp_path / "out" / "config.json")
    assert (config["needs"], config["arguments"]["size"]) == ([], 8)


def test_tied_weights_of_a_model_of_tokens_are_written_once(tmp_path: Path) -> None:
    plain, _ = written(tmp_path, own(tmp_path, "tied", TOKENS))
    assert set(map_tensors(tmp_path / "out" / "student.safetensors")) == {"embed.weight"}
    body = plain.get_submodule("body").state_dict()
    assert torch.equal(body["back.weight"], body["embed.weight"])


FAMILY = '''"""Networks with skip connections."""

import torch
from torch import nn
from torch.nn import functional

MODELS = {"skipping": {"taps": 1}, "branching": {"taps": 1}}


class Down(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        return functional.max_pool2d(self.layers(x).relu(), 2)


class Skipping(nn.Module):
    def __init__(self, classes, channels, branches):
        super().__init__()
        self.first, self.second = Down(channels, 4), Down(4, 4)
        self.head, self.branches = nn.Linear(8, classes), branches

    def forward(self, x):
        if self.branches and x.sum() > 0:
            x = -x
        shallow = self.first(x)
        deep = functional.interpolate(self.second(shallow), scale_factor=2.0)
        deep += shallow
        return self.head(torch.cat([deep, shallow], 1).mean((2, 3)))


def build(model, classes, channels, stem):
    return Skipping(classes, channels, model.base == "branching"), ("first",)
'''


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A family in a folder of its own."""
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "skips.py").write_text(FAMILY)
    places = [*kd.models.families.__path__, str(tmp_path / "members")]
    monkeypatch.setattr(kd.models.families, "__path__", places)
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


@pytest.mark.usefixtures("family")
def test_a_new_family_is_written_as_its_layers_and_its_forward_pass(tmp_path: Path) -> None:
    written(tmp_path, student(tmp_path, "skipping", square(1, 16)))
    source = source_of(tmp_path)
    assert imported(source) == {"pathlib", "torch", "safetensors"}
    assert "for 5 classes" in source
    with pytest.raises(ArtifactError, match=r"^branching cannot be written in plain PyTorch: .*$"):
        written(tmp_path, student(tmp_path, "branching", square(1, 16)))


@pytest.mark.parametrize(
    "name",
    [
        next(name for name, facts in catalogue().items() if facts.family == family)
        for family in FAMILIES.names
    ],
)
def test_every_family_can_be_exported(tmp_path: Path, name: str) -> None:
    written(tmp_path, student(tmp_path, name, square(3, 32)))
