"""The examples of docs/guide.md run as they are printed, on tiny data."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from conductor.cli import main
from storage.layout import Layout, StudyLayout
from storage.records import StudySettings
from tests.tiny import hasten

GUIDE = (Path(__file__).parents[1] / "docs" / "guide.md").read_text()
TINY = (
    "--trials 2 --seeds 1 --epochs 2 --teacher-epochs 1 --train-size 48 --image-size 8 "
    "--batch-size 16 --workers inline"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    hasten(monkeypatch)
    monkeypatch.chdir(tmp_path)


def section(title: str) -> str:
    return GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def follow(title: str, name: str) -> StudyLayout:
    """Save the files of a section, run what writes data, then its commands; return the study."""
    text = section(title)
    for file, block in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```", text, re.M | re.S):
        Path(file).write_text(block)
        if file.startswith("make_"):
            runpy.run_path(file)
    commands = re.findall(r"^    python study\.py (.*)$", text, re.M)
    assert commands
    for line in commands:
        arguments = shlex.split(line)
        tiny = TINY if arguments[0].startswith("-") else "--workers inline"
        assert main([*arguments, *tiny.split()]) == 0
    return Layout(Path("runs")).study(name)


def report_of(paths: StudyLayout) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(paths.report_json.read_text())
    assert report["study"]["missing"] == []
    return report


def test_every_python_block_of_the_guide_is_in_a_section_that_is_followed():
    titles = ("Your own images", "Your own models", "Your own search space")
    blocks = sum(section(title).count("```python") for title in titles)
    assert blocks == GUIDE.count("```python") == len(titles)


def test_images_of_ones_own():
    paths = follow("Your own images", "photos")
    dataset = StudySettings.read(paths.settings).dataset
    manifest = json.loads((Layout(Path("runs")).dataset(dataset) / "manifest.json").read_text())
    assert manifest["info"]["classes"] == ["digit-0", "digit-1", "digit-2"]
    assert report_of(paths)["protocol"]["dataset"] == f"folder:{Path('photos').resolve()}"


def test_models_of_ones_own():
    paths = follow("Your own models", "own")
    report = report_of(paths)
    students = {one["student"] for one in report["finalists"]}
    assert [re.sub("@.*", "", name) for name in students] == ["networks.py:small"]
    assert report["teacher"]["model"].startswith("networks.py:large@")
    [folder] = (paths.folder / "export").iterdir()
    student = runpy.run_path(str(folder / "student.py"))["load"]()
    assert student(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


def test_a_search_space_of_ones_own():
    report = report_of(follow("Your own search space", "hints"))
    assert report["study"]["arms"] == ["hints", "plain"]
    [first] = [one for one in report["finalists"] if one["title"] == "hints"]
    assert first["recipe"]["feature_taps"] == ["last1"]
