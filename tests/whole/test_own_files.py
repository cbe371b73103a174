"""A whole study of the user's own files, each with modules beside it, which are then deleted."""

import shutil
import subprocess
import sys
from pathlib import Path

from conductor.command_line.cli import main
from storage.files.layout import Layout
from storage.files.records import Finalists, StudySettings
from tests.support.tiny import FLAGS, changed, hasten, refuse

NETS = """\
from collections import OrderedDict

from torch import nn

from blocks import stage


def net(classes, channels):
    from parts import head

    return nn.Sequential(OrderedDict(stage1=stage(channels), **head.layers(classes)))
"""
BLOCKS = """\
from torch import nn

from parts.head import WIDTH


def stage(channels):
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, padding={padding}), nn.ReLU())
"""
HEAD = """\
from torch import nn

WIDTH = {width}


def layers(classes):
    return dict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(WIDTH, classes))
"""
SPACE = "from ranges import lr\nfrom kd.recipe import Recipe, Schedule\n\n\n"
SPACE += "def suggest(trial, study):\n    half = Schedule.constant(0.5)\n"
SPACE += "    return Recipe(lr=lr(trial), soft_kind=study.loss, alpha=half)\n"
LOSS = "from gaps import gap\n\n\ndef near(student, teacher, labels, temperature):\n"
LOSS += "    assert [*student.taps] == [*teacher.taps] == ['last1']\n"
LOSS += "    return gap(student.logits, teacher.logits)\n"
GAP = "def gap(left, right):\n    return (left - right).square().mean()\n"
RANGES = "def lr(trial):\n    return trial.suggest_float('lr', 0.01, {high})\n"
APART = """\
import sys
sys.path.insert(0, sys.argv[1])
import torch
from student import load
logits = load()(torch.rand(3, 1, 8, 8))
assert logits.shape == (3, 10)
assert not {"kd", "blocks", "parts"} & set(sys.modules)
"""


def write(folder: Path, padding: int, width: int) -> None:
    (folder / "parts").mkdir(parents=True)
    (folder / "nets.py").write_text(NETS)
    (folder / "blocks.py").write_text(BLOCKS.format(padding=padding))
    (folder / "parts" / "__init__.py").touch()
    (folder / "parts" / "head.py").write_text(HEAD.format(width=width))


def test_a_study_of_own_files_continues_and_is_exported_and_reproduced_without_them(
    tmp_path, monkeypatch, capsys
):
    hasten(monkeypatch)
    user, root = tmp_path / "user", tmp_path / "runs"
    write(user / "large", padding=1, width=9)
    write(user / "small", padding=0, width=4)
    (user / "mine.py").write_text(SPACE)
    (user / "ranges.py").write_text(RANGES.format(high=0.2))
    named = ["--teacher", f"{user}/large/nets.py:net", "--student", f"{user}/small/nets.py:net"]
    (user / "losses.py").write_text(LOSS)
    named += ["--loss", f"{user}/losses.py:near"]
    named += ["--taps", "last1", "--space", f"{user}/mine.py", "--arms", "plain"]
    (user / "gaps.py").write_text(GAP.replace("left - right", "left.detach() - right"))
    assert "losses.py:near has no gradient for random" in refuse(root, capsys, *named)
    assert not Layout(root).study("digits").settings.exists()
    (user / "gaps.py").write_text(GAP)
    assert main([*changed(FLAGS.split(), named), "--root", str(root)]) == 0

    (user / "mine.py").write_text(f"# the same\n{SPACE}")
    assert main([*changed(FLAGS.split(), named), "--root", str(root)]) == 0
    layout = Layout(root)
    source = StudySettings.read(layout.study("digits").settings).spaces["mine"].source
    copy = layout.own / source.replace(".py@", "-") / "mine.py"
    assert copy.read_text() == f"# the same\n{SPACE}"
    (user / "ranges.py").write_text(RANGES.format(high=0.3))
    assert "its search space mine changed" in refuse(root, capsys, *named)
    (user / "small" / "parts" / "head.py").write_text(HEAD.format(width=5))
    assert "nets.py, or a file that it imports, has changed" in refuse(root, capsys, *named)
    (user / "small" / "parts" / "head.py").write_text(HEAD.format(width=4))
    (user / "gaps.py").write_text("# another\n" + GAP)
    assert "losses.py, or a file that it imports, has changed" in refuse(root, capsys, *named)

    shutil.rmtree(user)
    place = ["--root", str(root), "--workers", "inline"]
    assert main(["run", *place, "--trials", "3", "--seeds", "1"]) == 0
    assert main(["reproduce", "--trial", "2", "--arm", "mine", *place]) == 0
    finalists = Finalists.read(layout.study("digits").finalists).finalists
    [mine] = {one.name for one in finalists if one.arm == "mine" and one.role == "tuned"}
    assert main(["export", "--finalist", mine, "--out", str(tmp_path / "out"), *place]) == 0
    files = sorted(path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/*/**/*.py"))
    assert [path.parts[1:] for path in files] == [
        *[("blocks.py",), ("nets.py",)],
        *[("parts", "__init__.py"), ("parts", "head.py")],
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f"`{path}`" in card for path in files)
    apart = [sys.executable, "-B", "-I", "-c", APART, str(tmp_path / "out")]
    subprocess.run(apart, cwd=tmp_path, check=True)
