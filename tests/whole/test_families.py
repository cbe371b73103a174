"""Whole studies of raw models of timm and torchvision: each family teaches, and learns from, a CNN.

Also across signals that kill a worker or the supervisor in the middle of a run.
"""

import csv
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from conductor.command_line.cli import main
from kd.data.inputs import Images
from kd.models.build import build, export_state
from storage.files.layout import Layout
from storage.files.records import Finalists
from tests.support.processes import ROOT, command, descendants
from tests.support.tiny import changed, hasten

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs the extra timm")
ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnxscript")))

SECONDS = 300  # that a test waits for what happens soon, on a machine under load
TINY = shlex.split(
    "--dataset digits --train-size 60 --image-size 32 --teacher-epochs 1 --epochs 2 "
    "--batch-size 16 --seeds 1 --trials 2"
)
VIT, MOBILE = "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"
CNN = "resnet8-w0.25"
SIZES = {"timm:mobilevit_xxs": 64, "timm:swin_tiny_patch4_window7_224": 64}
PAIRS = [
    ("timm:resnet26t", CNN),
    (CNN, "torchvision:resnet18"),
    (MOBILE, CNN),
    ("timm:resnet10t", MOBILE),
    ("timm:convnext_atto", CNN),
    (CNN, "timm:convnext_atto"),
    (VIT, CNN),
    ("torchvision:resnet18", VIT),
    ("timm:swin_tiny_patch4_window7_224", CNN),
    (CNN, "torchvision:swin_t"),
    ("timm:mobilevit_xxs", MOBILE),
    (CNN, "timm:mobilevit_xxs"),
]
MORE: dict[str, Sequence[str]] = {
    "taps": ("--taps", "blocks.5=blocks.3,blocks.9=blocks.2"),
    "sizes": ("--teacher-size", "64", "--image-size", "32", "--augment", "crop=4"),
}
COSTLY = [pytest.param(*pair, marks=pytest.mark.thorough) for pair in PAIRS]


def go_through(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *models: str,
    onnx: bool = ONNX,
) -> str:
    """Search, confirm, report, export, reproduce and verify; return what the study printed."""
    hasten(monkeypatch)
    places = ["--workers", "inline", "--root", str(root)]
    capsys.readouterr()
    assert main([*changed(TINY, models), *places]) == 0
    said, error = capsys.readouterr()
    assert error == ""
    paths = Layout(root).study("digits")
    assert paths.report_json.exists()
    assert main(["export", *places]) == 0
    if onnx:
        assert main(["export", "--format", "onnx", "--out", str(root / "onnx"), *places]) == 0
        assert (root / "onnx" / "student.onnx").exists()
    finalist = Finalists.read(paths.finalists).finalists[0].name
    capsys.readouterr()
    assert main(["reproduce", "--finalist", finalist, *places]) == 0
    assert "equal to the last bit" in capsys.readouterr().out
    assert main(["verify", *places]) == 0
    assert "views agree with the teacher to 0\n" in capsys.readouterr().out
    return said


def pair(teacher: str, student: str) -> list[str]:
    size = max(SIZES.get(name, 32) for name in (teacher, student))
    return ["--teacher", teacher, "--student", student, "--image-size", str(size)]


@pytest.mark.slow
def test_a_transformer_teaches_a_cnn_through_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [*pair(VIT, MOBILE), "--trials", "1", "--epochs", "1"]
    said = go_through(tmp_path / "runs", monkeypatch, capsys, *models, onnx=False)
    assert "taps: last1 norm -> blocks.3\n" in said


@pytest.mark.parametrize(("teacher", "student"), COSTLY)
def test_each_family_teaches_a_cnn_and_learns_from_one(
    teacher: str,
    student: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = go_through(tmp_path / "runs", monkeypatch, capsys, *pair(teacher, student))
    assert "taps: last1 " in said


@pytest.mark.thorough
@pytest.mark.parametrize("what", MORE)
def test_a_transformer_teaches_with_given_taps_and_with_larger_images(
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = ["--teacher", VIT, "--student", MOBILE, *MORE[what]]
    go_through(tmp_path / "runs", monkeypatch, capsys, *models)


@pytest.mark.thorough
def test_raw_models_start_from_files_of_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = Images(shape=(1, 32, 32), mean=(0.5,), deviation=(0.5,))
    flags = []
    for name, flag, classes in ((VIT, "--teacher", 10), (MOBILE, "--student", 7)):
        file = tmp_path / f"{flag[2:]}.pth"
        network = build(name, classes=classes, inputs=inputs, stem="cifar", seed=4)
        torch.save({"state_dict": export_state(network)}, file)
        flags += [flag, name, f"{flag}-weights", str(file)]
    said = go_through(tmp_path / "runs", monkeypatch, capsys, *flags)
    assert "teacher weights: all " in said
    assert "classifier.weight and classifier.bias are new (10 classes instead of 7)\n" in said


# Killed in the middle. The student has dropout, the teacher stochastic depth.

KILLED = [
    *("--teacher", "timm:test_vit", "--student", "torchvision:mobilenet_v3_small"),
    *("--teacher-epochs", "6", "--epochs", "4", "--workers", "1"),
]


def start(root: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "study.py", *changed(TINY, KILLED), "--root", str(root)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(line, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)


def kill_worker(process: subprocess.Popen[str]) -> None:
    """Kill the worker: the process whose parent is the server that forks."""
    workers = [
        pid
        for child in descendants(process.pid)
        for pid in descendants(child)
        if "forkserver" in command(pid)
    ]
    assert workers
    for pid in set(workers):
        os.kill(pid, signal.SIGKILL)


def kill_supervisor(process: subprocess.Popen[str]) -> None:
    process.kill()


def trials_of(root: Path) -> list[dict[str, str]]:
    with (root / "digits" / "trials.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in ("started", "seconds")}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    root = tmp_path_factory.mktemp("undisturbed")
    process = start(root)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    return trials_of(root)


@pytest.mark.thorough
@pytest.mark.parametrize("kill", [kill_worker, kill_supervisor])
@pytest.mark.parametrize("where", ["cache/teachers*/**", "digits/trials/*/*"])
def test_a_study_killed_amid_a_transformer_or_a_student_with_dropout_ends_as_if_it_were_not(
    where: str,
    kill: Callable[[subprocess.Popen[str]], None],
    tmp_path: Path,
    undisturbed: list[dict[str, str]],
) -> None:
    process = start(tmp_path)
    try:
        deadline = time.monotonic() + SECONDS
        while not [*tmp_path.glob(f"{where}/checkpoint.safetensors")]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        kill(process)
        process.communicate(timeout=SECONDS)
        if kill is kill_supervisor:
            assert process.returncode == -signal.SIGKILL
            process = start(tmp_path)
            process.communicate(timeout=SECONDS)
        assert process.returncode == 0
    finally:
        process.kill()
    assert trials_of(tmp_path) == undisturbed
