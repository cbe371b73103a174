"""Studies whose teacher and student start from files."""

import json
from pathlib import Path

import pytest
import torch

from conductor.command_line.cli import main
from kd.models.build import build, export_state
from tests.support.small import STUDENT, TEACHER, square

LINE = (
    f"--dataset digits --image-size 8 --train-size 60 --teacher {TEACHER} --student {STUDENT} "
    "--epochs 1 --batch-size 16 --seeds 1 --trials 1 --workers inline --augment none --arms plain "
    "--name tiny --confirm-epochs 1"
).split()


def keep(path: Path, name: str, *, classes: int = 10, seed: int = 4) -> None:
    network = build(name, classes=classes, inputs=square(1, 8), stem="cifar", seed=seed)
    torch.save({"model": export_state(network)}, path)


def first_epoch(root: Path) -> float:
    result = root / "tiny" / "trials" / "plain" / "00000" / "result.json"
    return float(json.loads(result.read_text())["history"][0]["loss"])


def test_a_study_starts_from_files_and_is_bound_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keep(Path("large.pth"), TEACHER)
    keep(Path("small.pt"), STUDENT, classes=7)
    ready = ["--teacher-weights", "large.pth", "--teacher-epochs", "0"]
    given = [*LINE, *ready, "--root", "one", "--student-weights", "small.pt"]
    assert main(given) == 0
    said = capsys.readouterr().out
    total = len(torch.load("large.pth")["model"])
    assert f"teacher weights: all {total} tensors of {tmp_path}/large.pth (model) loaded\n" in said
    assert (
        f"student weights: {total - 2} of {total} tensors of {tmp_path}/small.pt (model) loaded, "
        "fc.weight and fc.bias are new (10 classes instead of 7)\n"
    ) in said
    assert f"teacher: {TEACHER}, as it is, " in said
    assert main([*LINE, *ready, "--root", "two"]) == 0
    assert first_epoch(tmp_path / "one") != first_epoch(tmp_path / "two")
    capsys.readouterr()

    monkeypatch.chdir("/")
    again = ["--root", str(tmp_path / "one"), "--name", "tiny", "--workers", "inline"]
    again += ["--arms", "plain", "--trials", "1", "--seeds", "1"]
    assert main(again) == 0
    keep(tmp_path / "small.pt", STUDENT, classes=7, seed=5)
    capsys.readouterr()
    named = ["--student-weights", str(tmp_path / "small.pt")]
    for more, reason in ((named, "restore it, or choose another --name"), ([], "its SHA-256")):
        assert main([*again, *more]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"{tmp_path}/small.pt has changed since " in line
        assert reason in line


@pytest.mark.parametrize("flag", ["--teacher-weights", "--student-weights"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, suffix: str
) -> None:
    path = tmp_path / f"gone{suffix}"
    assert main([*LINE, "--root", str(tmp_path / "runs"), flag, str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{flag} must be an existing {suffix} file, got {path}")
    assert not (tmp_path / "runs").exists()


def test_a_teacher_as_it_is_needs_a_head_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path / "seven.pth", TEACHER, classes=7)
    given = ["--teacher-weights", str(tmp_path / "seven.pth"), "--teacher-epochs", "0"]
    assert main([*LINE, "--root", str(tmp_path / "runs"), *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "10 classes instead of 7); use --teacher-epochs 1 or more" in line
    assert not list((tmp_path / "runs" / "cache").glob("teachers/*/manifest.json"))
