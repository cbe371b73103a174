"""Whole studies whose taps are pairs of modules, are found in models, or are none in common."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from conductor.command_line.cli import main
from reports.write.page import render_page
from storage.files.artifacts import read_json, write_json
from storage.files.layout import Layout, StudyLayout
from storage.files.records import RunRecord, StudySettings
from tests.support.tiny import FLAGS, changed, hasten, refuse, succeed

PAIRS = ("--taps", "layer3=layer2,layer1=layer1")

timm = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs the extra timm")


@pytest.fixture(autouse=True)
def hastened(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


def study_in(root: Path) -> StudyLayout:
    return Layout(root).study("digits")


def trained(root: Path) -> list[Path]:
    """What a study that was refused should not have left: a teacher, or settings."""
    return [*Layout(root).teacher("").rglob("*"), *study_in(root).folder.glob("study.json")]


def recipes(root: Path) -> list[Any]:
    """The recipes of the arm that distils, by number of the trial."""
    found = sorted(study_in(root).folder.glob("trials/scheduled/*/result.json"))
    return [RunRecord.read(path).recipe for path in found]


def test_a_study_of_pairs_goes_to_its_report_and_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("reports.write.report.render_page", render_page)  # not hastened
    root = tmp_path / "runs"
    succeed(root, capsys, *PAIRS)
    assert StudySettings.read(study_in(root).settings).taps == {
        "last1": {"teacher": "layer3", "resnet8-w0.25": "layer2"},
        "last2": {"teacher": "layer1", "resnet8-w0.25": "layer1"},
    }
    assert recipes(root)[0].feature_taps == ("last1", "last2")
    page = study_in(root).report_html.read_text(encoding="utf-8")
    assert "last1 layer3 -&gt; layer2, last2 layer1 -&gt; layer1" in page
    succeed(root, capsys, "--trials", "3")  # without the flag, which the study has
    assert len(recipes(root)) == 3
    again = ["reproduce", "--trial", "0", "--workers", "inline", "--root", str(root)]
    assert main(again) == 0
    assert "equal to the last bit" in capsys.readouterr().out
    for verb in ("verify", "export"):
        assert main([verb, "--workers", "inline", "--root", str(root)]) == 0
    said = refuse(root, capsys, "--taps", "layer3=layer3,layer1=layer1")
    assert "has another protocol (taps: ['layer3=layer2', 'layer1=layer1'] -> ['layer3=" in said


def test_a_module_that_the_student_lacks_ends_a_study_before_it_begins(tmp_path, capsys):
    said = refuse(tmp_path / "runs", capsys, "--taps", "layer3=layer3,layer2=layr2")
    assert said == (
        "study.py: a tap of resnet8-w0.25: unknown module 'layr2'; did you mean layer2?\n"
    )
    assert not trained(tmp_path / "runs")


def test_a_study_is_refused_once_its_models_have_other_taps(tmp_path, capsys):
    """As after an update of their library."""
    root = tmp_path / "runs"
    succeed(root, capsys)
    path = study_in(root).settings
    settings = read_json(path)
    settings["taps"]["last1"]["teacher"] = "layer2"
    write_json(path, settings)
    assert "study digits was begun with other taps (last1 layer2 -> layer3, last2" in refuse(
        root, capsys, "--trials", "3"
    )
    del settings["taps"]  # as an older version left it
    write_json(path, settings)
    succeed(root, capsys, "--trials", "3")
    assert StudySettings.read(path).taps["last1"]["teacher"] == "layer3"


@timm
def test_without_taps_in_common_the_logit_losses_remain(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("reports.write.report.render_page", render_page)  # not hastened
    monkeypatch.setattr("kd.models.build.discover", lambda body, inputs: ())
    root = tmp_path / "runs"
    flags = ["--image-size", "32", "--augment", "none", "--teacher", "timm:test_vit"]
    more = [*flags, "--arms", "scheduled,constant,plain", "--ablate"]
    succeed(root, capsys, *more, "--trials", "4")
    assert StudySettings.read(study_in(root).settings).taps == {}
    assert {recipe.feature_kind for recipe in recipes(root)} == {"none"}
    assert "none" not in {recipe.soft_kind for recipe in recipes(root)}
    assert "none in common" in study_in(root).report_html.read_text(encoding="utf-8")
    succeed(root, capsys, *more, "--trials", "5")
    assert main(["verify", "--workers", "inline", "--root", str(root)]) == 0


@timm
def test_the_pairs_that_were_found_are_announced_and_none_in_common_too(
    tmp_path, capsys, monkeypatch
):
    flags = ["--image-size", "32", "--augment", "none", "--teacher", "timm:test_vit"]
    capsys.readouterr()
    assert announced(tmp_path / "one", capsys, *flags) == ["taps: last1 norm -> layer3"]
    assert announced(tmp_path / "two", capsys) == []
    assert announced(tmp_path / "three", capsys, *flags, "--arms", "plain") == []
    monkeypatch.setattr("kd.models.build.discover", lambda body, inputs: ())
    assert announced(tmp_path / "four", capsys, *flags) == [
        "taps: none in common; feature losses are left out"
    ]


def announced(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """Return what a study that trains nothing for long says of its taps."""
    assert main([*changed(FLAGS.split(), ["--trials", "1", *flags]), "--root", str(root)]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("taps: ")]


@timm
def test_a_space_of_the_user_that_reads_taps_needs_some(tmp_path, capsys, monkeypatch):
    """It is tried out at once with those that the models may have, and again with theirs."""
    (tmp_path / "mine.py").write_text(
        "from kd.recipe import Recipe\n\n\ndef suggest(trial):\n"
        '    return Recipe(feature_kind="hint", feature_weight=1.0, feature_taps=("last2",))\n'
    )
    space = ["--space", str(tmp_path / "mine.py")]
    flags = ["--image-size", "32", "--augment", "none", "--teacher", "timm:test_vit", *space]
    said = refuse(tmp_path / "runs", capsys, *flags)
    assert "it reads last2, and the protocol has last1: use only these in the space" in said
    (tmp_path / "mine.py").write_text("raise RuntimeError('early')\n")
    assert not trained(tmp_path / "runs")
    assert "early" in refuse(tmp_path / "early", capsys, *flags)
    assert not (tmp_path / "early").exists()
