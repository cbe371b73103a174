"""Whole studies that look at one test split again: each finds a true sentence in its report."""

import json
import shutil
from pathlib import Path

import pytest

from conductor.command_line.cli import main
from storage.files.layout import Layout
from storage.files.records import StudySettings
from tests.support.tiny import hasten, refuse, succeed

SHORT = ("--arms", "plain", "--trials", "1")  # one finalist


def looks(root: Path, name: str) -> list[str]:
    """The limitations on what opened the test split."""
    found = json.loads(Layout(root).study(name).report_json.read_text())
    return [text for text in found["caveats"] if "independent stud" in text or "anew" in text]


def test_another_name_another_margin_another_split_and_more_trials_are_named(
    tiny_study: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasten(monkeypatch)
    root = Path(shutil.copytree(tiny_study, tmp_path / "root"))
    assert looks(root, "digits") == []
    succeed(root, capsys, "--name", "renamed", *SHORT)
    [text] = looks(root, "renamed")
    assert text.startswith("This test split was opened by 1 other study too: digits")
    assert "of 2 independent" in text

    margin = ("--margin", "2")
    assert "another protocol (margin: 0.5 -> 2.0)" in refuse(root, capsys, *margin)
    succeed(root, capsys, "--name", "lenient", *margin, *SHORT)
    [text] = looks(root, "lenient")
    assert "opened by 2 other studies too: digits" in text

    succeed(root, capsys, "--name", "redrawn", "--split-seed", "1", *SHORT)
    [text] = looks(root, "redrawn")
    assert text.startswith("Another test split of the same data was opened by 3 other studies: d")
    assert "of 4 independent" in text
    datasets = [
        StudySettings.read(Layout(root).study(name).settings).dataset
        for name in ("digits", "renamed", "lenient", "redrawn")
    ]
    assert len(set(datasets[:3])) == 1
    assert datasets[3] not in datasets[:3]

    succeed(root, capsys, "--name", "lenient", *margin, "--arms", "plain", "--trials", "2")
    others, anew = looks(root, "lenient")
    assert "Another test split of the same data was opened by 1 other study: redrawn." in others
    assert anew.startswith(
        "The finalists were chosen anew after the test split had been opened: plain from 1 to 2 tr"
    )
    capsys.readouterr()
    assert main(["report", "digits", "lenient", "--format", "markdown", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "were opened by digits, lenient" in said
    assert "of 4 independent" in said
