"""ONNX of every kind of model gives the student's logits, or one line says that it cannot."""

from pathlib import Path

import pytest
import torch

from kd.data.inputs import Arrays, Inputs
from kd.errors import ArtifactError
from tests.support.small import square
from tests.support.students import kept, student, written
from workers.runners.exporting import ONNX_BATCHES, ONNX_TOLERANCE, export_onnx

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

ARRAYS = Arrays(shape=(2, 8, 9), kept="float32")
TOKENS = Arrays(shape=(12,), kept="int64")
MODELS = (
    *("timm:swin_tiny_patch4_window7_224", "timm:vit_tiny_patch16_224", "timm:mobilevit_xxs"),
    *("timm:mobilenetv3_small_050", "timm:convnext_atto", "timm:resnet26t", "timm:levit_128s"),
    *("torchvision:swin_t", "torchvision:vit_b_32", "torchvision:mobilenet_v3_small"),
    *("torchvision:regnet_y_400mf", "torchvision:efficientnet_b0", "resnet8", "resnet18"),
)
NETS = """
import torch
from torch import nn


class Words(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.drop = nn.Embedding(30, 6), nn.Dropout()
        layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.back, self.head = nn.Linear(6, 30, bias=False), nn.Linear(30, classes)
        self.back.weight = self.embed.weight

    def forward(self, tokens):
        hidden = self.layers(self.embed(tokens)).mean(1)
        return {"logits": self.head(self.drop(self.back(hidden)))}


class Waves(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, arrays):
        maps = self.norm(self.conv(arrays)).relu_()
        return self.head(maps.mean((2, 3))), maps


class Bessel(Waves):
    def forward(self, arrays):
        return super().forward(torch.special.bessel_j0(arrays))


def words(classes, channels):
    return Words(classes)


def waves(classes, channels):
    return Waves(classes, channels)


def bessel(classes, channels):
    return Bessel(classes, channels)
"""


def differences(root: Path, name: str, inputs: Inputs) -> dict[str, float]:
    plain, some = written(root, student(root, name, inputs), count=max(ONNX_BATCHES))
    return export_onnx(root / "out", name, plain, some)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [("words", TOKENS), ("waves", ARRAYS), ("waves", square(3, 16))],
    ids=["tokens", "floats", "images"],
)
def test_models_of_the_users_own(tmp_path: Path, function: str, inputs: Inputs) -> None:
    found = differences(tmp_path, kept(tmp_path, NETS, function), inputs)
    assert set(found) == {"1", "7", "64"}
    assert max(found.values()) < ONNX_TOLERANCE


@pytest.mark.parametrize(
    "name",
    ["timm:test_vit", *(pytest.param(name, marks=pytest.mark.thorough) for name in MODELS)],
)
def test_models_of_libraries_and_of_the_catalogue(tmp_path: Path, name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    assert differences(tmp_path, name, square(3, 64))


def test_a_model_that_torch_cannot_write_is_refused_in_one_line(tmp_path: Path) -> None:
    name = kept(tmp_path, NETS, "bessel")
    plain, some = written(tmp_path, student(tmp_path, name, ARRAYS), count=3)
    with pytest.raises(ArtifactError) as caught:
        export_onnx(tmp_path / "out", name, plain, some)
    message = str(caught.value)
    assert message.startswith(f"{name} cannot be exported as ONNX with torch {torch.__version__} (")
    assert message.endswith("); without --format onnx it is exported as safetensors")
    assert "\n" not in message
    print(message)
