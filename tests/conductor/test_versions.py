"""The versions of libraries that a study records: those of its models too."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from conductor.tools.reproducing import known_reasons
from storage.files.layout import Layout
from storage.files.records import StudySettings
from tests.support.tiny import hasten, succeed


def test_the_version_of_a_library_of_models_is_recorded_and_may_explain_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hasten(monkeypatch)
    paths = Layout(tmp_path).study("digits")
    succeed(
        tmp_path, capsys, "--teacher", "timm:test_resnet", "--image-size", "32", "--trials", "1"
    )
    settings = StudySettings.read(paths.settings)
    assert settings.versions["timm"] == version("timm")
    kernels = settings.machine["kernels"]
    assert list(known_reasons(settings, paths, kernels)) == []
    old = replace(settings, versions={**settings.versions, "timm": "1.0.1"})
    assert list(known_reasons(old, paths, kernels)) == [f"timm was 1.0.1, is {version('timm')}"]
