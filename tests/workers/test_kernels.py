"""Convolution kernels are tried before anything is trained, and wrong ones are not computed with.

A wrong kernel is planted by a `sitecustomize` module, which Python imports as it starts: in the
test's process it takes the place of oneDNN's, for the instruction sets that are wider than AVX.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conductor.stages.own_files import keep_own, pin_functions
from conductor.tools.tiny_study import PROTOCOL
from kd.json_data import to_wire
from kd.models.numerics import place
from kd.training import kernels
from kd.training.kernels import (
    VARIABLE,
    WrongKernelError,
    known_limit,
    narrower,
    set_known_limit,
    try_kernels,
)
from storage.files.artifacts import fingerprint
from storage.files.layout import Layout, kernels_record
from storage.files.records import StudySettings
from tests.support.small import labelled, made_up, network, square
from tests.support.tiny import FLAGS
from workers.device import choose_device
from workers.events import Failed, Result
from workers.execute import execute
from workers.jobs import KernelsJob, PrepareJob
from workers.runners import kernels as runner

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LIBRARY = """
import os, sys
if "{module}" in " ".join(sys.orig_argv) and os.environ.get("{variable}") not in {right}:
    import torch

    def planted(images, weights, bias, padding, stride, dilation, groups):
        {how}

    library = torch.library.Library("aten", "IMPL")
    library.impl("mkldnn_convolution", planted, "CPU")
"""
PLANTED = {
    "wrong": "return 1.01 * torch._C._nn.thnn_conv2d(images, weights, weights.shape[2:], bias, "
    "stride, padding)",
    "crashing": "os.abort()",
    "writing one byte past its memory": "result = torch._C._nn.thnn_conv2d(images, weights, "
    "weights.shape[2:], bias, stride, padding); import ctypes; "
    "ctypes.memset(result.data_ptr() + result.nbytes, 0, 1); return result",
}
pytestmark = [
    pytest.mark.skipif(
        torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
        reason="oneDNN has no instruction sets to choose from on this processor",
    ),
    pytest.mark.filterwarnings("ignore"),
]


def plant(folder: Path, how: str, right: tuple[str, ...] = ("AVX", "SSE41")) -> str:
    """Write the planted kernel; return a PYTHONPATH that has it in every process."""
    text = LIBRARY.format(module=runner.TEST, variable=VARIABLE, right=right, how=PLANTED[how])
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelsJob:
    """The job of a tiny study, in a process that has settled nothing and is limited to nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(runner, "_limits", {})
    monkeypatch.setattr(runner, "_STARTED_WITH", "")
    monkeypatch.setattr(kernels, "WRONG_AVX2", ())
    root = str(tmp_path / "runs")
    prepare = PrepareJob(protocol=PROTOCOL, root=root)
    dataset = list(execute(prepare, CPU, lambda: False))[-1]["dataset"]
    return KernelsJob(protocol=PROTOCOL, root=root, dataset=dataset)


def run(job: KernelsJob) -> dict[str, Any]:
    (event,) = execute(job, CPU, lambda: False)
    return event


@pytest.mark.parametrize(
    "how",
    [pytest.param(how, marks=pytest.mark.thorough if how == "crashing" else ()) for how in PLANTED],
)
def test_wrong_kernels_are_found_and_not_computed_with(
    how: str, job: KernelsJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", plant(tmp_path, how))
    found = run(job)
    assert isinstance(found, Result)
    assert found["limit"] == "AVX"
    assert found["reason"].startswith("a convolution of [64, 1, 16, 16] by [4, 1, 3, 3], stride")
    assert found["used"].endswith("at most AVX")
    assert os.environ[VARIABLE] == "AVX"


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What kernels were tested for; only the first test is run, the others succeed."""
    tests: list[Any] = []
    run_test = runner._run_test

    def counted(*given: Any) -> tuple[str, str]:
        tests.append(given)
        return run_test(*given) if len(tests) == 1 else ("", "")

    monkeypatch.setattr(runner, "_run_test", counted)
    return tests


def test_right_kernels_are_tried_once_and_left_alone(job: KernelsJob, tests: list[Any]) -> None:
    first, again = run(job), None
    runner._limits.clear()
    again = run(job)
    assert first == again
    assert (first["limit"], first["reason"], os.environ[VARIABLE]) == ("", "", "")
    assert len(tests) == 1
    runner._limits.clear()
    run(replace(job, protocol=replace(job.protocol, batch_size=48)))  # other shapes
    assert len(tests) == 2


def test_a_study_that_needs_other_kernels_than_the_process_has_used_is_refused(
    job: KernelsJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_run_test", lambda job, limit: ("wrong" * (limit != "AVX"), ""))
    monkeypatch.setattr(runner, "_limits", {"another": ""})
    event = run(job)
    assert isinstance(event, Failed)
    assert f"needs {VARIABLE}=AVX; run the command again" in event.reason
    assert os.environ[VARIABLE] == ""


def test_where_no_kernels_are_right_nothing_is_trained(
    job: KernelsJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", plant(tmp_path, "wrong", right=()))
    monkeypatch.setattr(kernels, "narrower", lambda limit: ())
    event = run(job)
    assert event.kind == "StudyError"
    assert "with every instruction set: a convolution of" in event.reason
    assert "\n" not in event.reason


ENDING = """
import os, sys
from collections import OrderedDict
from torch import nn


class Ending(nn.Conv2d):
    def forward(self, images):
        {how}
        return super().forward(images)


def small(classes, channels):
    stem = nn.Conv2d(channels, 4, 3)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    return nn.Sequential(OrderedDict(stem=stem, stage1=Ending(4, 4, 1), head=nn.Sequential(*head)))
"""


@pytest.mark.parametrize("how", ["os.abort()", "os._exit(0)", "os._exit(1)"])
def test_a_model_that_ends_its_process_is_not_taken_for_wrong_kernels(
    how: str, job: KernelsJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "narrower", lambda limit: ())
    event = run(with_own(job, tmp_path, how))
    assert event.kind == "ProtocolError"
    assert event.reason.startswith("mine.py:small ends the process that tests it, whatever")
    assert "\n" not in event.reason


def test_a_model_that_raises_an_interrupt_leaves_the_kernels_right(
    job: KernelsJob, tmp_path: Path
) -> None:
    assert run(with_own(job, tmp_path, "raise KeyboardInterrupt"))["limit"] == ""


def with_own(job: KernelsJob, folder: Path, how: str) -> KernelsJob:
    """Return the job with a student of the user's own, whose forward pass does `how`."""
    (folder / "mine.py").write_text(ENDING.format(how=how), encoding="utf-8")
    pinned, files = pin_functions({"students": (f"{folder}/mine.py:small",)})
    keep_own(job.layout, files)
    return replace(job, protocol=replace(job.protocol, **pinned))


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What kernels were tested for; no test is run, all succeed."""
    passed: list[Any] = []
    monkeypatch.setattr(runner, "_run_test", lambda *given: (passed.append(given), ("", ""))[1])
    return passed


def test_a_damaged_record_is_made_again_once(job: KernelsJob, passed: list[Any]) -> None:
    path = kernels_record(fingerprint(runner._identity(job)))
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    for _ in range(2):  # the second time as another process
        runner._limits.clear()
        assert run(job)["limit"] == ""
    assert len(passed) == 1


@pytest.mark.parametrize("what", ["folder", "record"])
def test_what_cannot_be_written_is_not_kept_and_harms_nothing(
    what: str, job: KernelsJob, passed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "folder":
        (tmp_path / "file").write_text("", encoding="utf-8")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        path = kernels_record(fingerprint(runner._identity(job)))
        path.mkdir(parents=True)
    runner.limit_kernels(job, CPU)
    assert len(passed) == 1


def test_lines_that_are_not_of_the_test_are_ignored(
    job: KernelsJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `sitecustomize` of the user's may print anything."""
    lines = ("2", "[1]", "{", "hello", '{"ready": ""}', '{"done": ""}')
    (tmp_path / "says.py").write_text(f"print(*{lines}, sep=chr(10))", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runner, "TEST", "says")
    assert runner._run_test(job, "") == ("", "")


def test_an_accelerator_is_not_tried(job: KernelsJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_run_test", lambda *given: pytest.fail("tried"))
    (event,) = execute(job, torch.device("meta"), lambda: False)
    assert event == Result.of(limit="", reason="", used="")


def test_a_processor_that_is_known_is_limited_without_a_test(
    job: KernelsJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "WRONG_AVX2", (kernels.onednn_version().rpartition(".")[0],))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(runner, "_run_test", lambda *given: pytest.fail("tried"))
    assert choose_device(0) == CPU
    found = run(job)
    assert (os.environ[VARIABLE], found["limit"]) == ("AVX", "AVX")
    assert "known to be wrong" in found["reason"]


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv(VARIABLE, "SSE41")
    set_known_limit()
    assert os.environ[VARIABLE] == "SSE41"


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ("avx", "AVX"),
        ("AVX512_CORE", "AVX512_CORE"),
        ("nonsense", ""),
        ("AVX3", ""),
        ("default", ""),
    ],
)
def test_only_an_instruction_set_is_a_limit(
    given: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, given)
    assert kernels.limit() == limit
    assert runner.kernels_used().endswith(f", at most {limit}") == bool(limit)
    monkeypatch.setattr(kernels, "known_limit", lambda: "AVX")
    set_known_limit()
    assert os.environ[VARIABLE] == (given if limit else "AVX")


@pytest.mark.parametrize(
    ("capability", "current", "expected"),
    [
        ("AVX512", "", ("AVX2", "AVX", "SSE41")),
        ("AVX512", "AVX2", ("AVX", "SSE41")),
        ("AVX512", "SSE41", ()),
        ("AVX2", "", ("AVX", "SSE41")),
        ("DEFAULT", "", ()),
    ],
)
def test_only_narrower_instruction_sets_are_tried_instead(
    capability: str, current: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert narrower(current) == expected


def test_the_step_that_is_tried_has_every_convolution_there_and_back() -> None:
    student = place(network("resnet8"), CPU)
    begun: list[str] = []
    received: list[torch.Tensor] = []
    student.body.register_forward_pre_hook(lambda module, given: received.append(given[0]))
    data = labelled(4)
    try_kernels(student, data, batch=6, precision="float32", begun=begun.append)
    for batch, size in zip(received, (6, 2048), strict=True):
        assert torch.equal(batch, data.inputs.normalise(data.repeated(size).values))
    count = sum(isinstance(layer, torch.nn.Conv2d) for layer in student.modules())
    assert sum(case.startswith("the gradients") for case in begun) == count
    assert sum(case.startswith("a convolution of [6, ") for case in begun) == count
    assert sum(case.startswith("a convolution of [2048, ") for case in begun) == count


def test_bfloat16_is_compared_within_its_own_rounding() -> None:
    begun: list[str] = []
    small = network("resnet8")
    try_kernels(small, labelled(), batch=6, precision="bfloat16", begun=begun.append)
    assert any(case.endswith("in bfloat16") for case in begun)


@pytest.mark.parametrize("error", [0.1, float("nan")])
@pytest.mark.parametrize("part", range(3))
def test_a_wrong_gradient_is_distinguished_from_rounding(
    part: int, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the three that go back: of the images, of the weights, of the biases."""
    compare = kernels._compare

    def spoiled(case: str, found: Any, precise: Any) -> None:
        if isinstance(found, tuple) and found[part] is not None:
            found[part].view(-1)[0] += error * float(precise[part].abs().max())
        compare(case, found, precise)

    monkeypatch.setattr(kernels, "_compare", spoiled)
    inputs = square(1, 32)
    vgg = network("vgg11_bn", inputs=inputs)
    data = replace(labelled(6), values=made_up(inputs, 6), inputs=inputs)
    with pytest.raises(WrongKernelError, match=r"^the gradients of a convolution of .* is off by"):
        try_kernels(vgg, data, batch=6, precision="float32", begun=lambda case: None)


def test_the_test_process_ends_when_its_parent_does(job: KernelsJob) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", runner.TEST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        wide = replace(
            job, protocol=replace(job.protocol, teachers=("resnet152",), students=("resnet152",))
        )
        process.stdin.write(json.dumps(to_wire(wide)) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"ready": ""}
        process.stdin.close()
        assert process.wait(timeout=60) == 1


@pytest.mark.slow
def test_a_study_on_wrong_kernels_is_limited_and_its_trials_are_repeated_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", plant(tmp_path, "wrong"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    root = tmp_path / "runs"
    flags = FLAGS.replace("inline", "1").split()

    def study(*words: str) -> str:
        command = [sys.executable, "study.py", *words, "--root", str(root)]
        return subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout

    said = study(*flags)
    reason = "AVX2 kernels of oneDNN" if known_limit() else "a convolution of ["
    assert f"\nkernels: limited to AVX instructions on this CPU: {reason}" in said
    paths = Layout(root).study("digits")
    assert StudySettings.read(paths.settings).machine["kernels"].endswith("at most AVX")
    assert "equal to the last bit" in study("reproduce", "--trial", "0", "--workers", "1")
    assert "at most AVX" in paths.report_html.read_text(encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    command = [sys.executable, "study.py", "reproduce", "--trial", "0", "--root", str(root)]
    other = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if other.returncode:  # wider kernels round otherwise
        assert "the kernels was oneDNN" in other.stdout
