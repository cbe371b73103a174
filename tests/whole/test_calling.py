"""`study.run` is the command from Python: the same files, and the report as an object."""

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from torchvision.models import resnet18

import study
from conductor.study import Study
from kd.errors import RetortError
from kd.recipe import Recipe
from tests.support.tiny import hasten

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
TINY: dict[str, Any] = {
    **{"train_size": 60, "image_size": 8, "teacher": "resnet8-w0.25", "epochs": 2, "seeds": 1},
    **{"student": ["resnet8-w0.25"], "teacher_epochs": 1, "batch_size": 16, "trials": 2},
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_the_example_of_the_guide_runs_in_any_thread_and_returns_the_report(monkeypatch, capsys):
    hasten(monkeypatch)
    [example] = re.findall(r"```python\n(import study\n.*?)```", GUIDE, re.DOTALL)
    run, names = study.run, dict[str, Any]()
    monkeypatch.setattr(
        study, "run", lambda **values: run(**{**values, **TINY, "workers": "inline"})
    )
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=exec, args=(example, names))  # as some kernels run cells
    thread.start()
    thread.join()
    report = names["report"]
    written = json.loads(report.path.with_name("report.json").read_text())
    assert (report.verdict, report.text) == (written["verdict"]["kind"], written["verdict"]["text"])
    assert report.difference is None  # of one seed
    assert [(one.name, one.value.mean) for one in report.finalists] == [
        (one["name"], one["mean"]) for one in written["finalists"]
    ]
    [tuned] = [one for one in written["finalists"] if one["name"] == written["verdict"]["a"]][-1:]
    assert report.recipe == Recipe.from_json(tuned["recipe"])
    said = capsys.readouterr().out
    assert "scheduled 1: " in said
    assert str(report.path) in said
    assert signal.getsignal(signal.SIGTERM) == before


SCRIPT = """
from pathlib import Path

with Path("begun").open("a") as file:
    file.write("once ")

import networks
import study

report = study.run(**{tiny!r}, student=networks.small, arms=["plain"], workers=1)
print(report.verdict)
"""


@pytest.mark.slow
def test_workers_do_not_run_a_script_without_a_guard(tmp_path):
    [networks] = re.findall(r"`networks.py`:\n\n```python\n(.*?)```", GUIDE, re.DOTALL)
    Path("networks.py").write_text(networks)
    tiny = {name: value for name, value in TINY.items() if name != "student"}
    Path("script.py").write_text(SCRIPT.format(tiny=tiny))
    done = subprocess.run(
        [sys.executable, "script.py"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "none"
    assert Path("begun").read_text() == "once "


def local(classes, channels): ...


local.__module__ = "__main__"
REFUSED = {
    "unknown": ({"trails": 2}, "unknown argument 'trails'; did you mean trials?"),
    "number": ({"trials": "x"}, "argument --trials: must be a whole number, got 'x'"),
    "list": ({"trials": [1, 2]}, r"trials takes one value, got \[1, 2\]"),
    "switch": ({"compile": 1}, "compile must be true or false, got 1"),
    "rule": ({"trials": 0}, "--trials must be at least 1, got 0"),
    "object": ({"student": object()}, "student takes a text or a number, got <object"),
    "main": ({"student": local}, "student = local: workers cannot import a lambda, or"),
    "lambda": ({"teacher": lambda: None}, "teacher = .*pass teacher='mine.py:function'"),
    "library": ({"student": [resnet18]}, "resnet18 is a function of a library; pass a name"),
    "space": ({"space": hasten}, "the function of a search space is named suggest"),
    "timeout": ({"timeout": 60}, "a time is hours, minutes or seconds, such as 2h"),
    "config": ({"config": "none.toml"}, "none.toml cannot be read"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_raises_an_error_of_one_line(mistake):
    values, message = REFUSED[mistake]
    with pytest.raises(RetortError, match=message) as refused:
        study.run(**values)
    assert "\n" not in str(refused.value)


def test_an_interrupt_passes_through(monkeypatch):
    def interrupted(study: Study) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(**TINY)
