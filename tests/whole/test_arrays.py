"""Arrays that are no images, from a file or a function of the user's own, up to the export."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from conductor.command_line.cli import main
from reports.write.page import render_page
from storage.files.artifacts import read_json
from storage.files.datasets import open_part
from storage.files.layout import Layout
from storage.files.records import RunRecord, StudySettings
from storage.files.shards import CachedTeacher
from tests.support.tiny import changed, hasten, refuse, run, succeed

TEXT = Path(__file__).parents[1] / "data" / "sentences.txt"
WORDS = """
from pathlib import Path
import numpy as np


def words():
    labels = np.arange(160) % 2
    inputs = np.random.default_rng(0).integers(0, 19, (160, 12)) + 10 * labels[:, None]
    inputs[:, 0] = 29
    return {"x": inputs, "y": labels, "classes": np.array(["low", "high"])}


def sentences():
    # each word is a number from 1, and 0 stands behind the last
    lines = [line.split(None, 1) for line in Path(TEXT).read_text().splitlines()]
    known = sorted({word for _, text in lines for word in text.split()})
    inputs = np.zeros((len(lines), 8), np.int64)
    for row, (_, text) in zip(inputs, lines):
        words = text.split()[:8]
        row[: len(words)] = [1 + known.index(word) for word in words]
    return inputs, np.array([label for label, _ in lines])
"""
NETS = """
from collections import OrderedDict
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.embed = nn.Embedding(300, width)
        self.start = nn.Parameter(torch.zeros(1, width))
        layer = nn.TransformerEncoderLayer(width, 2, width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.classify = nn.Linear(width, classes)

    def forward(self, values):
        real = values > 0
        tokens = torch.cat([self.start.expand(len(values), 1, -1), self.embed(values)], 1)
        padding = nn.functional.pad(~real, (1, 0))
        return self.classify(self.blocks(tokens, src_key_padding_mask=padding)[:, 0])

    def token_mask(self, values):
        return values > 0


class Blind(Reader):
    token_mask = None

    def forward(self, values):
        return self.classify(self.blocks(self.embed(values)).mean(1))


class Late(Reader):
    def token_mask(self, values):
        assert len(values) < 9, "too many"
        return values > 0


def late(classes, channels):
    return Late(classes, 4)


def reader(classes, channels):
    return Reader(classes, 16)


def skimmer(classes, channels):
    return Reader(classes, 4)


def blind(classes, channels):
    return Blind(classes, 4)


def of_waves(width, classes, channels):
    layers = OrderedDict(
        rows=nn.Unflatten(2, (1, 24)),
        stage1=nn.Conv2d(channels, width, (1, 3)),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classify=nn.Linear(width, classes),
    )
    return nn.Sequential(layers)


def large(classes, channels):
    return of_waves(16, classes, channels)


def small(classes, channels):
    return of_waves(4, classes, channels)


class Begun(nn.Module):
    def forward(self, words):
        if not words.is_meta and not bool((words[:, 0] == 29).all()):
            raise ValueError("a row that the data set lacks")
        return words


def words(classes, channels):
    layers = OrderedDict(
        begun=Begun(),
        embed=nn.Embedding(30, 8),
        maps=nn.Unflatten(2, (8, 1)),
        stage1=nn.Conv2d(12, 6, 1),
        flatten=nn.Flatten(),
        classify=nn.Linear(48, classes),
    )
    return nn.Sequential(layers)
"""


def waves() -> dict[str, np.ndarray]:
    """Waves of two frequencies, in two channels, with splits of their own."""
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 2
    time = np.linspace(0, 6.28, 24)
    pure = np.sin((1 + 2 * labels)[:, None, None] * time + generator.random((160, 2, 1)))
    return {
        "x": (pure + generator.normal(0, 0.3, pure.shape)).astype(np.float32),
        "y": np.array(["slow", "fast"])[labels],
        "split": np.repeat(["train", "dev", "test"], [80, 40, 40]),
    }


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`waves.npz`, and `nets.py` and `data.py`, which have models and words."""
    hasten(monkeypatch)
    np.savez(tmp_path / "waves.npz", **waves())
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "data.py").write_text(WORDS.replace("TEXT", repr(str(TEXT))))


def flags(tmp_path: Path, dataset: str, teacher: str, student: str) -> list[str]:
    nets = tmp_path / "nets.py"
    models = ["--teacher", f"{nets}:{teacher}", "--student", f"{nets}:{student}"]
    return [
        "--dataset",
        dataset,
        *models,
        "--taps",
        "last1",
        "--train-size",
        "0",
        "--augment",
        "none",
    ]


def test_a_study_of_float_arrays_goes_to_its_report_and_its_export(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("reports.write.report.render_page", render_page)  # not hastened
    root = tmp_path / "runs"
    code, said = run(root, capsys, *flags(tmp_path, f"npz:{tmp_path}/waves.npz", "large", "small"))
    assert (code, said) == (0, "")
    study = Layout(root).study("waves")
    folder = Layout(root).dataset(StudySettings.read(study.settings).dataset)
    train, validation = (open_part(folder, part) for part in ("train", "validation"))
    assert (train.values.dtype, tuple(train.values.shape)) == (torch.float32, (80, 2, 24))
    assert len(validation) == 40
    page = study.report_html.read_text(encoding="utf-8")
    assert "validation and test are the data set&#39;s own" in page
    assert main(["export", "--workers", "inline", "--root", str(root)]) == 0
    assert "safetensors: 40 validation examples, equal bit for bit" in capsys.readouterr().out
    [card] = study.folder.glob("export/*/README.md")
    assert "Arrays are float32 [B, 2, 24], as in the data set." in card.read_text()
    assert read_json(card.with_name("config.json"))["inputs"]["type"] == "Arrays"
    student = runpy.run_path(str(card.with_name("student.py")))["load"]()
    before = validation.values.clone()
    assert student(validation.values).shape == (40, 2)
    assert torch.equal(validation.values, before)


def test_a_study_of_whole_numbers_feeds_them_as_they_are(tmp_path, capsys):
    """Also where models are tried out, measured and exported: all rows begin with 29."""
    root = tmp_path / "runs"
    succeed(root, capsys, *flags(tmp_path, f"{tmp_path}/data.py:words", "words", "words"))
    settings = StudySettings.read(Layout(root).study("words").settings)
    train = open_part(Layout(root).dataset(settings.dataset), "train")
    assert (train.values.dtype, train.values.max()) == (torch.int64, 29)
    assert main(["export", "--workers", "inline", "--root", str(root)]) == 0


def test_a_study_of_sentences_with_padding_learns_from_the_tokens_of_its_teacher(tmp_path, capsys):
    root = tmp_path / "runs"
    given = flags(tmp_path, f"{tmp_path}/data.py:sentences", "reader", "skimmer")
    succeed(root, capsys, *given)
    study = Layout(root).study("sentences")
    settings = StudySettings.read(study.settings)
    assert {*settings.taps["last1"].values()} == {"blocks"}
    recipes = [
        RunRecord.read(path).recipe for path in study.folder.glob("trials/scheduled/*/result.json")
    ]
    assert ("hint", ("last1",)) in [(one.feature_kind, one.feature_taps) for one in recipes]

    [shards] = Layout(root).shards("").glob("*/manifest.json")
    identity = read_json(shards)["identity"]
    assert identity["taps"] == [
        {"tap": "last1", "path": "blocks", "layout": "sequence", "prefix": 1}
    ]
    [_, digest] = [name.partition("@")[2] for name in settings.taps["last1"]]  # of one file
    assert identity["code"] == digest
    train = open_part(Layout(root).dataset(settings.dataset), "train").values
    cached = CachedTeacher(shards.parent, torch.device("cpu"))
    reading = cached.read(0, torch.arange(len(train)), train, ["last1"]).taps["last1"]
    assert reading.features.shape[2:] == (1, 8)
    assert torch.equal(reading.features.any(1)[:, 0], train > 0)
    assert torch.equal(reading.attention[:, 0] > 0, train > 0)

    assert main(["verify", "--workers", "inline", "--root", str(root)]) == 0
    assert main(["export", "--workers", "inline", "--root", str(root)]) == 0
    assert "validation examples, equal bit for bit" in capsys.readouterr().out


def test_tokens_without_a_mask_are_refused_as_a_tap_in_one_line(tmp_path, capsys):
    given = flags(tmp_path, f"{tmp_path}/data.py:sentences", "reader", "blind")
    said = refuse(tmp_path / "runs", capsys, *changed(given, ["--taps", "blocks=blocks"]))
    assert "a tap of nets.py:blind@" in said
    assert "blocks returns tokens, which may be padded: give the model a method token_mask(" in said


def test_a_mask_that_fails_on_a_batch_of_the_study_is_refused_before_anything_is_trained(
    tmp_path, capsys
):
    root = tmp_path / "runs"
    said = refuse(root, capsys, *flags(tmp_path, f"{tmp_path}/data.py:sentences", "reader", "late"))
    assert "nets.py:late does not take a batch of the study: AssertionError: too many (" in said
    assert not [*Layout(root).teacher("").rglob("*")]


def test_images_of_16_bits_in_12_channels_go_to_the_report_and_the_export(tmp_path, capsys):
    draw = np.random.default_rng(0)
    labels = (np.arange(200) % 8 == 0).astype(int)
    images = draw.integers(0, 9000, (200, 12, 8, 8)).astype(np.uint16)
    images[labels == 1, 3] += 3000
    np.savez(tmp_path / "bands.npz", x=images, y=labels)
    root = tmp_path / "runs"
    rare = ["--metric", "macro-f1", "--class-weights", "balanced"]
    given = ["--dataset", f"npz:{tmp_path}/bands.npz", *rare]
    succeed(root, capsys, *given)
    settings = StudySettings.read(Layout(root).study("bands").settings)
    train = open_part(Layout(root).dataset(settings.dataset), "train")
    assert (train.values.dtype, train.values.shape[1:]) == (torch.float32, (12, 8, 8))
    assert 34 < train.values.max() < 9000 / 257 + 3000 / 257
    assert main(["export", "--workers", "inline", "--root", str(root)]) == 0
    assert "validation images, equal bit for bit" in capsys.readouterr().out
    [card] = root.glob("bands/export/*/README.md")
    assert "with pixels in 0-255: those of 16 bits divided by 257." in card.read_text()
    said = refuse(root, capsys, *given, "--name", "other", "--augment", "crop=1,jitter=0.4")
    assert "augment must leave out jitter, which takes 8 bits, for images of 12x8x8 of 16" in said


def test_what_needs_images_is_refused_in_one_line(tmp_path, capsys):
    root, given = tmp_path / "runs", flags(tmp_path, f"npz:{tmp_path}/waves.npz", "large", "small")
    said = refuse(root, capsys, *given[:-1], "crop=1,flip")
    assert (
        "augment must be none for arrays of 2x24 float32, which are no images, got 'crop=1," in said
    )
    said = refuse(root, capsys, *given, "--student", "resnet8")
    assert "a model of arrays of 2x24 float32 must be one of your own, as in nets.py:small" in said
