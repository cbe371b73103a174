"""An augmentation and a data source that are one new file each work by name throughout a study."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kd.augmentations
import kd.data.sources
from conductor.command_line.cli import main
from conductor.command_line.places import settled_words
from kd.data.splits import listing_digest, passed_over
from kd.errors import ProtocolError
from kd.names import SOURCES, parse_augment
from storage.files.artifacts import read_json, read_manifest
from storage.files.layout import Layout
from tests.support.small import protocol
from tests.support.tiny import hasten, refuse, succeed

STRIPES = '''
"""Stripes of two directions, 8x8."""

import numpy as np

from kd.data.sources import Source


def read(place, image_size, progress):
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 2
    images = generator.integers(0, 200, (160, 1, 8, 8)).astype(np.uint8)
    images[labels == 0, :, ::2] += 55
    images[labels == 1, :, :, ::2] += 55
    return Source(inputs=images, labels=labels, classes=("lying", "standing"))
'''
SOLARIZE = '''
"""Invert pixels above this value, in half of the images."""

import torch

DEFAULT = 128
RANGE = (0, 255)


def draw(generator, count, shape, value):
    return {"chosen": torch.randint(0, 2, (count,), generator=generator).bool()}


def apply(batch, drawn, value):
    return torch.where(drawn["chosen"][:, None, None, None] & (batch > value), 255 - batch, batch)
'''


@pytest.fixture(autouse=True)
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A source `stripes` and an augmentation `solarize`, in a folder of their own."""
    hasten(monkeypatch)
    (tmp_path / "members").mkdir()
    for package, name, text in (
        (kd.data.sources, "stripes", STRIPES),
        (kd.augmentations, "solarize", SOLARIZE),
    ):
        folder = tmp_path / "members" / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text.lstrip())
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for name in ("kd.data.sources.stripes", "kd.augmentations.solarize"):
        sys.modules.pop(name, None)


def test_a_study_uses_them_and_its_records_name_them(tmp_path, capsys) -> None:
    flags = ("--dataset", "stripes", "--augment", "solarize=0,flip", "--name", "new")
    root = tmp_path / "runs"
    succeed(root, capsys, *flags)
    layout = Layout(root)
    study = layout.study("new")
    protocol = read_json(study.protocol)
    assert (protocol["dataset"], protocol["augment"]) == ("stripes", "solarize=0,flip")
    for kind, pattern in (("teacher", "cache/teachers/*/"), ("shards", "cache/shards/*/")):
        [folder] = [path for path in root.glob(pattern) if (path / "manifest.json").exists()]
        identity = read_manifest(folder, kind).identity
        assert identity.get("plan", identity)["augment"] == "solarize=0,flip"
    assert '"solarize=0,flip"' in (study.folder / "report.json").read_text()
    succeed(root, capsys, *flags[:3], "solarize=0,flip", "--name", "new")  # nothing is left to do
    assert "augment: solarize=0,flip -> solarize=128,flip" in refuse(
        root, capsys, *flags[:3], "solarize,flip", "--name", "new"
    )
    assert main(["export", "--workers", "inline", "--root", str(root)]) == 0
    [card] = study.folder.glob("export/*/README.md")
    assert "augmentation: solarize=0,flip." in card.read_text().replace("\\", "")


def test_help_and_typos_propose_them(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "stripes (Stripes of two directions, 8x8)" in said
    assert "solarize (Invert pixels above this value, in half of the images)" in said
    with pytest.raises(ProtocolError, match=r"unknown dataset 'stripe'; did you mean stripes\?"):
        SOURCES.check("stripe")
    with pytest.raises(ProtocolError, match=r"'solarise'; did you mean solarize\?"):
        parse_augment("solarise", 8)


def test_a_new_source_may_take_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = 'PATH = "a.txt"\n\n\ndef listing(place):\n    return place.read_text()\n'
    (tmp_path / "members" / "kd.data.sources" / "stripes.py").write_text(text)
    with pytest.raises(ProtocolError, match=r"stripes: takes a path, as in stripes:a\.txt, got 's"):
        protocol(dataset="stripes")
    [_, dataset] = settled_words(["--dataset", "stripes:b.txt"])
    assert protocol(dataset=dataset).dataset == f"stripes:{tmp_path / 'b.txt'}"
    (tmp_path / "b.txt").write_text("one")
    before = listing_digest(dataset, 8)
    (tmp_path / "b.txt").write_text("two")
    assert listing_digest(dataset, 8) != before
    assert passed_over(dataset) == ""
