"""Students taken away: the right one, checked before it is there, and of use without Retort."""

import ast
import json
import re
import runpy
import stat
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest
import safetensors.torch
import torch

from conductor.command_line.cli import main
from conductor.stages.own_files import keep_own, pin_functions
from conductor.tools.exporting import ONNX_PACKAGES, building, choose
from kd.data.examples import Examples
from kd.data.inputs import read_inputs
from kd.errors import ArtifactError, ProtocolError, StudyError
from kd.json_data import to_wire
from kd.models.build import build, export_state
from kd.models.cost import state_bytes
from kd.models.numerics import memory_format
from kd.protocol import Protocol
from kd.training.evaluation import accuracy, predict
from reports.read.collect import collect
from reports.read.data import StudyData
from storage.files.artifacts import read_json, read_manifest, read_record
from storage.files.datasets import open_part
from storage.files.layout import Layout, RunLayout
from storage.files.records import RunRecord, StudySettings
from storage.files.tensors import map_tensors, write_tensors
from tests.support.small import square
from tests.support.study_fixture import Plan, fabricate
from tests.support.tiny import FLAGS, assert_one_line, changed, hasten
from workers.events import Result
from workers.execute import execute
from workers.jobs import ExportJob
from workers.runners import exporting
from workers.runners.loading import untrained_student
from workers.runners.standalone import standalone_source

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ONNX_PACKAGES), reason="the extra is not installed"
)
AVERAGED = ("--optimizer", "adamw", "--clip", "1", "--ema", "0.5")
FILES = {"README.md", "config.json", "manifest.json", "student.py", "student.safetensors"}


@pytest.fixture(autouse=True)
def _hastened(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The root of a study with three confirmation runs of each finalist.

    What it validates and keeps is an average of weights, trained with AdamW and clipped gradients.
    """
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert (
            main([*changed(FLAGS.split(), ["--seeds", "3", *AVERAGED]), "--root", str(root)]) == 0
        )
    return root


@pytest.fixture(scope="module")
def exported(finished) -> Path:
    """The folder that the command makes unless it is told otherwise."""
    assert main(["export", "--root", str(finished), "--workers", "inline"]) == 0
    [folder] = Layout(finished).study("digits").export("x", 0).parent.iterdir()
    return folder


def export(root: Path, capsys, *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, and what was said on both outputs."""
    capsys.readouterr()
    code = main(["export", "--root", str(root), "--workers", "inline", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def refuse(root: Path, capsys, *arguments: str) -> str:
    code, _, said = export(root, capsys, *arguments)
    assert_one_line(code, said)
    return said


def confirmed(finished: Path, exported: Path) -> RunLayout:
    """The run that was exported, by the name of the folder."""
    name, _, replicate = exported.name.rpartition("-")
    return Layout(finished).study("digits").confirmation(name, int(replicate))


def validation(finished: Path) -> Any:
    layout = Layout(finished)
    settings = StudySettings.read(layout.study("digits").settings)
    return open_part(layout.dataset(settings.dataset), "validation")


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory) -> StudyData:
    """A study whose best seed on the test split is not the one in the middle of validation."""
    made = fabricate(tmp_path_factory.mktemp("fabricated"), Plan(trials=4, seeds=6))
    return collect(made.layout, made.name, made.url)


def test_the_default_is_the_median_of_validation_of_the_recipe_of_the_verdict(fabricated):
    data = fabricated
    choice = choose(data, None, "confirm")
    assert choice.finalist is data.tuned("scheduled")
    runs = choice.finalist.runs
    accuracies = [run.record.objective(0.0) for run in runs]
    assert choice.run.record.objective(0.0) == median_low(accuracies)
    tested = [run.record.test["accuracy"] for run in runs if run.record.test]
    assert max(tested) > choice.run.record.test["accuracy"], "the fixture must tell them apart"
    named = choose(data, data.tuned("plain").key, "confirm")
    assert named.finalist.finalist.arm == "plain"


def test_an_unconfirmed_study_or_a_missing_run_is_refused_with_what_to_run(fabricated):
    data = fabricated
    with pytest.raises(ProtocolError, match=r"unknown finalist of study \w+ 'x'; known: sched"):
        choose(data, "x", "confirm")
    one = data.tuned("scheduled")
    lacking = tuple(
        replace(each, runs=each.runs[:1]) if each is one else each for each in data.finalists
    )
    with pytest.raises(StudyError, match=r"1 of 6 confirmation runs of .* run: CONFIRM$"):
        choose(replace(data, finalists=lacking), None, "CONFIRM")
    with pytest.raises(StudyError, match=r"has not been confirmed; run: CONFIRM$"):
        choose(replace(data, finalists=()), None, "CONFIRM")


def test_the_folder_has_the_very_weights_and_nothing_of_the_losses(finished, exported):
    assert {path.name for path in exported.iterdir()} == FILES
    trained = map_tensors(confirmed(finished, exported).weights)
    kept = map_tensors(exported / "student.safetensors")
    assert {f"body.{name}" for name in kept} == set(trained)
    assert all(torch.equal(kept[name], trained[f"body.{name}"]) for name in kept)
    read_manifest(exported, "export").verify()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()}
    assert len(modes) == 1


def test_the_test_split_is_not_opened_for_an_export(finished, tmp_path, capsys):
    seal = Layout(finished).study("digits").seal
    before = seal.read_bytes()
    code, said, _ = export(finished, capsys, "--out", str(tmp_path / "a" / "b"))
    assert code == 0
    assert seal.read_bytes() == before
    assert "60 validation images, equal bit for bit" in said
    assert said.endswith(f"export: {tmp_path / 'a' / 'b'}\n")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_student_py_needs_nothing_of_retort_and_answers_as_the_student(finished, exported):
    source = (exported / "student.py").read_text()
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom | ast.Import)
    }
    assert imported == {"collections", "pathlib", "torch", "safetensors.torch"}
    student = runpy.run_path(str(exported / "student.py"))["load"]()
    data = validation(finished)
    network = build("resnet8-w0.25", classes=10, inputs=data.inputs, stem="cifar", seed=0)
    network.load_state_dict(map_tensors(confirmed(finished, exported).weights))
    with torch.inference_mode():
        assert torch.equal(student(data.values / 255), predict(network, data))


def test_code_on_the_card_runs_and_both_ways_agree(exported, monkeypatch):
    monkeypatch.chdir(exported)
    monkeypatch.syspath_prepend(str(exported))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    card = (exported / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    answers = []
    for block in blocks:
        names: dict[str, Any] = {"images": images}
        exec(compile(block, "card", "exec"), names)
        answers.append(names["logits"])
    del sys.modules["student"]
    assert len(blocks) == 2
    torch.testing.assert_close(answers[0], answers[1])


def test_the_card_states_verdict_choice_figures_and_provenance(finished, exported):
    card = (exported / "README.md").read_text()
    record = RunRecord.read(confirmed(finished, exported).result)
    settings = StudySettings.read(Layout(finished).study("digits").settings)
    assert card.startswith("# resnet8-w0.25 on digits\n")
    for part in (
        "> No verdict: a verdict requires at least 6 pairs",
        f"these weights, test accuracy | {100 * record.test['accuracy']:.2f} %",
        "selection on the test split",
        "this recipe, test accuracy, 3 seeds",
        "| parameters | 5142 |",
        "latency of a batch of 256, ms",
        settings.dataset,
        *settings.teachers,
        settings.versions["torch"],
        "## Limits",
    ):
        assert part in card, part
    assert "onnx" not in card.lower()


def test_config_has_what_it_takes_to_build_the_student(finished, exported):
    config = read_json(exported / "config.json")
    assert config["class_names"] == list("0123456789")
    assert (config["classes"], config["channels"]) == (10, 1)
    assert read_inputs(config) == validation(finished).inputs


def test_a_target_that_holds_something_is_refused_and_kept(finished, exported, tmp_path, capsys):
    said = refuse(finished, capsys)
    assert f"{exported} exists; delete it, or name another folder with --out" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    refuse(finished, capsys, "--out", str(tmp_path / "full"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert export(finished, capsys, "--out", str(tmp_path / "empty"))[0] == 0


@pytest.mark.parametrize("file", ["student.safetensors", "student.py"])
def test_a_file_that_differs_from_the_student_leaves_nothing(
    finished, tmp_path, capsys, monkeypatch, file
):
    def wrong_weights(network: Any) -> dict[str, torch.Tensor]:
        state = {name: value.clone() for name, value in export_state(network).items()}
        state["fc.bias"][0] += 1e-3
        return state

    def wrong_source(network: Any, config: Any) -> str:
        return standalone_source(network, {**config, "inputs": to_wire(square())})

    if file == "student.py":
        monkeypatch.setattr(exporting, "standalone_source", wrong_source)
    else:
        monkeypatch.setattr(exporting, "export_state", wrong_weights)
    said = refuse(finished, capsys, "--out", str(tmp_path / "deep" / "out"))
    assert f"{file} gives other logits than the student" in said
    assert list(tmp_path.iterdir()) == []


def export_job(finished: Path, exported: Path, folder: Path, **changes: Any) -> ExportJob:
    layout, run = Layout(finished), confirmed(finished, exported)
    study = layout.study("digits")
    return ExportJob(
        **{
            "protocol": read_record(study.protocol, Protocol),
            "root": str(finished),
            "dataset": StudySettings.read(study.settings).dataset,
            "weights": str(run.weights),
            "folder": str(folder),
            "accuracy": RunRecord.read(run.result).objective(0.0),
            "onnx": False,
            **changes,
        }
    )


def last_event(job: ExportJob) -> dict[str, Any]:
    *_, last = execute(job, torch.device("cpu"), lambda: False)
    return last


def test_weights_of_another_run_or_model_are_refused(finished, exported, tmp_path):
    accuracy = RunRecord.read(confirmed(finished, exported).result).objective(0.0)
    write_tensors(tmp_path / "other", {"x": torch.zeros(1)})
    damaged = bytearray((exported / "student.safetensors").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    for changes, reason in (
        ({"accuracy": accuracy + 0.05}, "one of the two belongs to another run"),
        ({"weights": str(tmp_path / "other")}, "does not fit resnet8-w0.25"),
        ({"weights": str(tmp_path / "damaged")}, "is damaged"),
    ):
        assert reason in last_event(export_job(finished, exported, tmp_path, **changes)).reason


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="cannot be written"), building(tmp_path / "file" / "x"):
        pass
    with pytest.raises(KeyError), building(tmp_path / "a" / "b"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_export_may_take_the_place_of_the_present_folder_if_it_is_empty(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with building(Path()) as folder:
        (folder / "file").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "file"]


def test_without_the_extra_onnx_costs_one_line(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("conductor.tools.exporting.find_spec", lambda name: None)
    said = refuse(finished, capsys, "--format", "onnx", "--out", str(tmp_path / "out"))
    assert said == (
        "study.py: --format onnx needs onnx, onnxruntime, onnxscript: "
        "pip install --editable '.[export]'\n"
    )
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_onnx_takes_pixels_in_batches_of_any_size(finished, tmp_path, capsys):
    import onnxruntime

    code, said, _ = export(finished, capsys, "--format", "onnx", "--out", str(tmp_path / "out"))
    assert code == 0
    for batch in (1, 7, 64):
        [found] = re.findall(rf"a batch of {batch} differ by at most (\S+)\n", said)
        assert float(found) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out" / "student.onnx")
    student = runpy.run_path(str(tmp_path / "out" / "student.py"))["load"]()
    pixels = validation(finished).values[:5] / 255
    [logits] = session.run(["logits"], {"images": pixels.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits), student(pixels))
    assert "in a batch of 64" in (tmp_path / "out" / "README.md").read_text()


def test_onnx_that_differs_from_the_student_leaves_nothing(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("conductor.tools.exporting.find_spec", lambda name: True)
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **more: None)
    monkeypatch.setattr(
        exporting, "_onnx_runner", lambda path: lambda pixels: torch.zeros(len(pixels), 10)
    )
    said = refuse(finished, capsys, "--format", "onnx", "--out", str(tmp_path / "out"))
    assert "student.onnx differs from the student by" in said
    assert "on a batch of 1," in said
    assert list(tmp_path.iterdir()) == []


FAMILIES = [
    ("resnet8x4-w0.1", "cifar", 3),
    ("wrn-16-2-w0.25", "cifar", 1),
    ("resnet18", "cifar", 1),
    ("resnet18", "imagenet", 3),
    ("mobilenet_v2-w0.25", "cifar", 1),  # so narrow that a block more has a shortcut
    ("mobilenet_v2-w0.25", "imagenet", 3),
    ("shufflenet_v2_x0_5", "cifar", 3),
    ("shufflenet_v2_x0_5", "imagenet", 1),
    ("vgg11_bn", "cifar", 1),
]


@pytest.mark.parametrize(("name", "stem", "channels"), FAMILIES)
def test_every_family_is_written_in_plain_pytorch_bit_for_bit(tmp_path, name, stem, channels):
    inputs = square(channels, 32, mean=0.3, deviation=0.2)
    network = build(name, classes=7, inputs=inputs, stem=stem, seed=3).eval()
    config = {"classes": 7, "channels": channels, "stem": stem, "inputs": to_wire(inputs)}
    (tmp_path / "student.py").write_text(standalone_source(network, config))
    write_tensors(tmp_path / "student.safetensors", export_state(network))
    student = runpy.run_path(str(tmp_path / "student.py"))["load"]()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, channels, 32, 32), generator=generator).to(torch.uint8)
    with torch.inference_mode():
        wanted = network.body(inputs.normalise(images))
        assert torch.equal(network(images), wanted)
        assert torch.equal(student(images / 255), wanted)


OWN = """\
import torch
from collections import OrderedDict
from torch import nn


class Batched(nn.Module):
    def forward(self, x):
        return {answer}


def twice(wide):
    layer = nn.Linear(6, 6)
    return OrderedDict(once=layer, act=nn.ReLU(), again=layer)


def halves():
    left, right = nn.Linear(6, 6), nn.Linear(6, 6)
    memory = torch.randn(72).view(2, 6, 6)
    left.weight, right.weight = (nn.Parameter(half.T) for half in memory)
    right.register_buffer("other", left.bias.data[:3])
    return OrderedDict(left=left, act=nn.ReLU(), right=right)


def small(classes, channels):
    layers = OrderedDict(stage1=nn.Conv2d(channels, 6, 3), pool=nn.AdaptiveAvgPool2d(1))
    tied = {tied}
    end = OrderedDict(flat=nn.Flatten(), **tied, fc=nn.Linear(6, classes), batched=Batched())
    return nn.Sequential(OrderedDict(**layers, **end))
"""


def write_own(folder: Path, *, answer: str = "x", tied: str = "{}") -> tuple[Any, Any]:
    """Export a model of the user's own; return it and the module that its student.py loads."""
    (folder / "mine.py").write_text(OWN.format(answer=answer, tied=tied))
    pinned, files = pin_functions({"teachers": (f"{folder}/mine.py:small",)})
    layout, size = Layout(folder), 60  # pixels: the study evaluates 36 images at once
    keep_own(layout, files)
    name = str(pinned["teachers"][0])
    inputs = square(3, size, mean=0.4, deviation=0.2)
    shape: dict[str, Any] = {"classes": 5, "stem": "cifar"}
    config = {**shape, "channels": 3, "model": name, "inputs": to_wire(inputs)}
    network = build(name, **shape, inputs=inputs, seed=1, files=layout.own).eval()
    some = Examples(
        values=torch.randint(0, 256, (50, 3, size, size)).to(torch.uint8),
        labels=torch.zeros(50, dtype=torch.int64),
        inputs=inputs,
    )
    out = folder / "out"
    return network, exporting.write_student(out, network, config, layout.own, some)


def test_answers_that_differ_by_rounding_between_two_batchings_are_exported(tmp_path):
    network, student = write_own(tmp_path, answer="x + 2e-5 * (len(x) % 7)")
    some = torch.randint(0, 256, (36, 3, 60, 60)).to(torch.uint8)
    inputs = square(3, 60, mean=0.4, deviation=0.2)
    with torch.inference_mode():
        assert torch.equal(student(some / 255), network.body(inputs.normalise(some)))
        assert torch.equal(student(some / 255), network(some))


def test_answers_that_depend_on_the_other_images_are_not_exported(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"batches of 1 differ by .* depend on the other images$"
    ):
        write_own(tmp_path, answer="x - x.mean(0)")


@pytest.mark.parametrize("tied", ["twice(6)", "halves()"])
def test_a_student_whose_tensors_share_memory_is_written_once_and_read_whole(tmp_path, tied):
    network, student = write_own(tmp_path, tied=tied)
    file = tmp_path / "out" / "student.safetensors"
    kept, state = map_tensors(file), network.body.state_dict()
    assert all(torch.equal(kept[name], state[name]) for name in kept)
    assert set(state) - set(kept) == ({"again.weight", "again.bias"} if "twice" in tied else set())
    assert len(safetensors.torch.save(kept)) == state_bytes(network)
    body = student.get_submodule("body").state_dict()
    assert all(torch.equal(body[name], state[name]) for name in state)
    given = {"weights": str(file), "files": Layout(tmp_path).own}
    inputs = network.inputs
    other = build(network.name, classes=5, inputs=inputs, stem="cifar", seed=2, **given)
    assert all(torch.equal(value, state[name]) for name, value in other.body.state_dict().items())


def test_a_student_that_trains_in_channels_last_is_exported(finished, exported, tmp_path):
    job = export_job(finished, exported, tmp_path, student="resnet8")
    network = untrained_student(job, 0, job.student).eval()
    assert memory_format(network, torch.device("cpu")) == torch.channels_last
    weights = tmp_path / "weights.safetensors"
    write_tensors(weights, network.state_dict())
    some = validation(finished)
    score = accuracy(predict(network, some), some.labels)
    event = last_event(replace(job, weights=str(weights), accuracy=score))
    assert isinstance(event, Result), event


def test_every_byte_survives_the_division_by_255():
    """So an image in 0-1 gives the very logits of the study."""
    pixels = torch.arange(256).to(torch.uint8)
    assert torch.equal(255 * (pixels / 255), pixels.float())


def test_the_export_of_a_plain_arm_reports_it(finished, tmp_path, capsys):
    out = tmp_path / "out"
    code, _, _ = export(finished, capsys, "--finalist", "plain-00000", "--out", str(out))
    assert code == 0
    assert "trained without distillation" in (out / "README.md").read_text()
    identity = json.loads((out / "manifest.json").read_text())["identity"]
    assert identity["finalist"] == "plain-00000"
    assert "unknown finalist of study digits 'x'; known: scheduled-0" in refuse(
        finished, capsys, "--finalist", "x"
    )
