"""Every path of a run lies below its root, whatever it is asked for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.errors import StudyError
from storage.files.layout import RESERVED, Layout, RunLayout, StudyLayout

ROOT = Path("/data/runs")
LAYOUT = Layout(ROOT)
STUDY = LAYOUT.study("digits")


def properties(layout: object) -> dict[str, Path]:
    """Every path that a layout has without being asked for anything."""
    found = {
        name: getattr(layout, name)
        for name, member in vars(type(layout)).items()
        if isinstance(member, property)
    }
    return {name: path for name, path in found.items() if isinstance(path, Path)}


def every_path() -> dict[str, Path]:
    runs = {
        "trial": STUDY.trial("plain", 17),
        "selection": STUDY.selection("plain", 17, 2),
        "confirmation": STUDY.confirmation("plain-tuned", 3),
    }
    paths = {f"layout.{name}": path for name, path in properties(LAYOUT).items()}
    paths |= {f"study.{name}": path for name, path in properties(STUDY).items()}
    for what, run in runs.items():
        paths |= {f"{what}.{name}": path for name, path in properties(run).items()}
    made = {"listing": LAYOUT.listing, "dataset": LAYOUT.dataset, "teacher": LAYOUT.teacher}
    made["shards"] = LAYOUT.shards
    return paths | {name: make("0123456789abcdef") for name, make in made.items()}


def test_every_path_lies_below_the_root_and_no_two_are_the_same() -> None:
    paths = every_path()
    assert len(paths) > 30
    for path in paths.values():
        assert path.is_relative_to(ROOT)
        assert ".." not in path.parts
    assert len(set(paths.values())) == len(paths)


def test_what_belongs_to_a_study_lies_in_its_folder_and_the_cache_outside() -> None:
    for path in (*properties(STUDY).values(), STUDY.trial("plain", 0).result):
        assert path.is_relative_to(ROOT / "digits")
    shared = (LAYOUT.dataset("a"), LAYOUT.teacher("a"), LAYOUT.shards("a"), LAYOUT.downloads)
    assert all(path.is_relative_to(LAYOUT.cache) for path in shared)


def test_every_run_has_its_own_folder() -> None:
    runs = [
        make(arm, number)
        for arm in ("scheduled", "plain")
        for number in (1, 17)
        for make in (
            STUDY.trial,
            lambda arm, number: STUDY.selection(arm, number, 0),
            lambda arm, number: STUDY.selection(arm, number, 1),
            lambda arm, number: STUDY.confirmation(f"{arm}-{number}", 0),
            lambda arm, number: STUDY.confirmation(f"{arm}-{number}", 1),
        )
    ]
    assert len({run.folder for run in runs}) == len(runs) == 20
    assert all(isinstance(run, RunLayout) for run in runs)


def test_trials_sort_by_number() -> None:
    folders = [str(STUDY.trial("plain", number).folder) for number in (0, 9, 10, 99, 100, 12345)]
    assert folders == sorted(folders)
    assert folders[1].endswith("/trials/plain/00009")


def test_the_database_is_named_by_an_absolute_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Layout(Path("runs")).studies_url == f"sqlite:///{tmp_path}/runs/studies.db"


HOSTILE = [
    "",
    ".",
    "..",
    "../../x",
    "/etc",
    "a/b",
    "a\\b",
    ".hidden",
    "-rf",
    "_x",
    "<script>",
    "a b",
    "a\n",
    "\n",
    "a\0",
    "é",
    "٣",
    "x" * 65,
    *RESERVED,
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(StudyError, match="a study's name must be 1-64 letters") as raised:
        LAYOUT.study(name)
    assert repr(name) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "2026", "x" * 64, "cache2", "a.."])
def test_plain_names_are_taken(name: str) -> None:
    assert LAYOUT.study(name) == StudyLayout(ROOT / name, name)


@given(st.text(max_size=80))
def test_any_name_is_refused_or_gives_a_folder_right_below_the_root(name: str) -> None:
    try:
        study = LAYOUT.study(name)
    except StudyError:
        return
    assert study.folder.parent == ROOT
    assert study.folder.name == name
    assert study.folder not in (LAYOUT.cache, LAYOUT.artifacts)
