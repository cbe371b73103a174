"""A study goes on with data that were moved, without training anything again."""

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from conductor.command_line.cli import main
from storage.files.artifacts import read_json
from storage.files.layout import Layout
from storage.files.records import StudySettings
from tests.conductor.test_places import photos
from tests.support.tiny import hasten, refuse, results, succeed

STUDY = ("--name", "s", "--train-size", "0", "--trials", "1")


def written(root: Path) -> dict[Path, int]:
    """When each artifact and each result of a run was written."""
    paths = (path for name in ("manifest.json", "result.json") for path in root.rglob(name))
    return {path: path.stat().st_mtime_ns for path in paths}


def found(root: Path, place: Path) -> dict[str, Any]:
    """The trials and the report of the study, without the place of its data, wherever it stands."""
    made = results(root, "s")
    text = json.dumps(made["report"])
    assert str(place) in text
    return {**made, "report": json.loads(text.replace(str(place), "PLACE"))}


def test_moved_data_are_found_again_by_the_flag_and_then_without_it(tmp_path, capsys, monkeypatch):
    hasten(monkeypatch)
    root, old, new = tmp_path / "runs", tmp_path / "old", tmp_path / "new" / "place"
    paths = Layout(root).study("s")
    photos(old)
    succeed(root, capsys, *STUDY, "--dataset", f"folder:{old}")
    before, there = found(root, old), written(root)
    shutil.copytree(old, new)
    shutil.rmtree(old)

    gone = f"got '{old}'; if the data were moved, continue with --name s --dataset folder:NEWPLACE"
    assert gone in refuse(root, capsys, *STUDY)
    given = ["--root", str(root), "--name", "s"]
    assert main(["confirm", "--seeds", "2", *given, "--workers", "inline"]) == 2
    assert gone in capsys.readouterr().err
    assert main(["report", *given]) == 0
    for command in (["verify"], ["export"], ["reproduce", "--trial", "0", "--arm", "plain"]):
        assert main([*command, *given, "--workers", "inline"]) == 0
    shutil.rmtree(paths.folder / "export")
    capsys.readouterr()

    changed = Path(shutil.copytree(new, tmp_path / "changed"))
    image = Image.open(changed / "b" / "3.png")
    red, green, blue = image.getpixel((0, 0))
    image.putpixel((0, 0), (red ^ 1, green, blue))
    image.save(changed / "b" / "3.png")
    said = refuse(root, capsys, *STUDY, "--dataset", f"folder:{changed}")
    assert f"folder:{changed} has other content than the data of study s, which were at " in said
    assert said.endswith("or choose another --name\n")
    assert read_json(paths.protocol)["dataset"] == f"folder:{old}"

    moved = [*STUDY, "--dataset", f"folder:{new}", "--seeds", "1", "--workers", "inline"]
    assert main([*moved, "--root", str(root)]) == 0
    line = f"data: found again at folder:{new}, with the same content as before at folder:{old}\n"
    assert line in capsys.readouterr().out
    assert found(root, new) == before
    assert there.items() <= written(root).items()
    assert set(written(paths.folder)) <= set(there)
    assert read_json(paths.protocol)["dataset"] == f"folder:{new}"
    command = StudySettings.read(paths.settings).command
    assert command[command.index("--dataset") :].count(f"folder:{new}") == 1
    assert f"folder:{old}" not in command

    succeed(root, capsys, *STUDY)
    assert found(root, new) == before
    assert set(written(paths.folder)) <= set(there)
