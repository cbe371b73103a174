"""The data set of a study may be moved: it is known by its content."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conductor.display import Display
from conductor.stages.moving import find_data, is_moved
from conductor.stages.preparing import Prepared
from conductor.stages.provenance import _with_place, kept_settings
from kd.errors import DataError, StudyError
from storage.files.artifacts import write_json
from storage.files.layout import StudyLayout
from tests.conductor.test_request import request
from tests.support import fakes

OWN = "mine.py:scans@0123456789ab"


@pytest.mark.parametrize(
    ("was", "now", "moved"),
    [
        ("folder:/a", "folder:/b", True),
        ("csv:/a.csv", "csv:/b/a.csv", True),
        ("cifar10", "cifar10:/b", True),
        ("folder:/a", "folder:/a", False),
        ("folder:/a", "csv:/a", False),
        ("cifar10:/a", "cifar100:/a", False),
        ("digits", "digits", False),
        (OWN, OWN.replace("0", "1"), False),
        ("", "folder:/a", False),
    ],
)
def test_data_are_moved_if_the_path_alone_differs(was, now, moved):
    assert is_moved(was, now) is is_moved(now, was) is moved


class Reading:
    """A preparation that finds data with a fingerprint, or fails."""

    def __init__(self, found: str | DataError) -> None:
        self._found = found

    def data(self) -> Prepared:
        if isinstance(self._found, DataError):
            raise self._found
        return Prepared(protocol=fakes.protocol(), root="runs", dataset=self._found)


def begun(root: Path, dataset: str) -> StudyLayout:
    """Record a study with a teacher, on this data set."""
    paths = fakes.study_paths(root)
    write_json(paths.protocol, fakes.protocol(dataset=dataset).to_json())
    fakes.settings().write(paths.settings)
    return paths


def find(paths: StudyLayout, dataset: str, found: str | DataError) -> Prepared:
    reading: Any = Reading(found)
    asked = request(protocol=fakes.protocol(dataset=dataset))
    return find_data(reading, asked, paths, fakes.settings(), Display())


def test_the_recorded_command_names_the_new_place_also_where_a_preset_named_none() -> None:
    moved = _with_place(["--preset", "cifar10"], "cifar10", "cifar10:/data")
    assert moved == ["--preset", "cifar10", "--dataset", "cifar10:/data"]
    again = _with_place(moved, "cifar10:/data", "cifar10:/other")
    assert again == ["--preset", "cifar10", "--dataset", "cifar10:/other"]
    assert _with_place(again, "cifar10:/other", "cifar10:/other") is again


SAME = fakes.settings().dataset
GONE = DataError("the folder does not exist")
LAST = "; the data of study study were last at {}"
MOVED = "; if the data were moved, continue with --name study --dataset {}:NEWPLACE"
CHANGED = (
    "since study study was begun, the content of its data set {} changed; restore the files, or "
    "choose another --name"
)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("folder:/a", "folder:/a", ""),
        (
            "folder:/a",
            "folder:/b",
            "data: found again at folder:/b, with the same content as before at folder:/a\n",
        ),
    ],
)
def test_the_same_content_is_found_again_and_announced_if_it_was_moved(
    tmp_path, capsys, was, now, said
):
    assert find(begun(tmp_path, was), now, SAME).dataset == SAME
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("was", "now", "found", "message"),
    [
        ("folder:/a", "folder:/a", GONE, f"{GONE}{MOVED.format('folder')}"),
        ("cifar10:/a", "cifar10:/a", GONE, f"{GONE}{MOVED.format('cifar10')}"),
        ("folder:/a", "folder:/b", GONE, f"{GONE}{LAST.format('folder:/a')}"),
        ("cifar10", "cifar10", GONE, str(GONE)),
        (OWN, OWN, GONE, str(GONE)),
        ("npz:/a", "npz:/a", "other", CHANGED.format("npz:/a") + MOVED.format("npz")),
        ("digits", "digits", "other", CHANGED.format("digits")),
        (
            "folder:/a",
            "folder:/b",
            "other",
            "folder:/b has other content than the data of study study, which were at folder:/a: "
            "name the place of the same files, or choose another --name",
        ),
    ],
)
def test_data_that_are_not_those_of_the_study_cost_one_line_with_the_remedy(
    tmp_path, was, now, found, message
):
    with pytest.raises((DataError, StudyError)) as raised:
        find(begun(tmp_path, was), now, found)
    assert str(raised.value) == message


def resume(paths: StudyLayout, dataset: str, url: str = "sqlite:///a.db", **changed: Any) -> Any:
    kept = fakes.settings()
    searched = {name: getattr(kept, name) for name in ("sampler", "pruner", "lag")}
    asked = request(protocol=fakes.protocol(dataset=dataset, **changed), **searched)
    return kept_settings(paths, asked, url)


def test_the_path_is_the_one_field_of_the_protocol_that_may_change(tmp_path):
    paths = begun(tmp_path, "folder:/a")
    assert resume(paths, "folder:/b") == resume(paths, "folder:/a") == fakes.settings()
    with pytest.raises(StudyError, match=r"another protocol \(epochs: \d+ -> 99\); omit"):
        resume(paths, "folder:/b", epochs=99)
    with pytest.raises(StudyError, match=r"another protocol \(dataset: folder:/a -> csv:/b\)"):
        resume(paths, "csv:/b")


def test_a_study_without_a_teacher_begins_anew_with_data_at_another_path(tmp_path):
    paths = begun(tmp_path, "folder:/a")
    replace(fakes.settings(), teachers=(), shards=()).write(paths.settings)
    assert resume(paths, "folder:/b") is None
    assert resume(paths, "folder:/b", "postgresql://server/db") is not None
    assert resume(paths, "folder:/a") is not None
