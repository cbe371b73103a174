"""Who opened a test split is recorded with its data, whatever the study is called."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kd.errors import ArtifactError
from kd.protocol import Protocol
from storage.files import datasets
from storage.files.artifacts import read_manifest
from storage.files.datasets import open_test, prepare
from storage.files.layout import Layout, openings_record
from storage.files.seal import (
    OtherStudies,
    SplitIdentity,
    other_studies,
    read_openers,
    read_seal,
    record_choice,
    record_opener,
    record_opening,
)
from tests.support.small import protocol

SPLIT = SplitIdentity(images="i", rows="r", data="d", dataset="digits")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "runs")


def opened(layout: Layout, name: str, wanted: Protocol) -> OtherStudies:
    """Open the test split as study `name`; return the other studies that its report would show."""
    folder, seal = prepare(layout, wanted).folder, layout.study(name).seal
    open_test(folder, wanted.dataset, seal, "a test")
    split = SplitIdentity.of(read_manifest(folder, datasets.KIND), wanted.dataset)
    return other_studies(read_openers(folder), split, read_seal(seal).study)


def names(found: OtherStudies) -> tuple[list[str], list[str]]:
    return [one.name for one in found.same], [one.name for one in found.overlapping]


def saved(place: Path, *, first: int = 0) -> str:
    """Write a data set of 60 examples of 3 classes; return its name."""
    place.parent.mkdir(exist_ok=True)
    inputs = (first + np.arange(60 * 64)).astype(np.uint8).reshape(60, 8, 8)
    np.savez(place, x=inputs, y=np.arange(60) % 3)
    return f"npz:{place}"


@pytest.mark.parametrize(
    "changes",
    [{}, {"margin": 2.0, "seed": 5}, {"train_size": 30}, {"validation_fraction": 0.3}],
    ids=str,
)
def test_a_study_of_another_name_opens_the_same_test_split(layout: Layout, changes: dict) -> None:
    assert names(opened(layout, "first", protocol())) == ([], [])
    assert names(opened(layout, "second", protocol(**changes))) == (["first"], [])
    assert names(opened(layout, "first", protocol())) == (["second"], [])


def test_the_same_images_are_known_at_another_place_and_in_another_size(
    layout: Layout, tmp_path: Path
) -> None:
    here, there = saved(tmp_path / "here.npz"), saved(tmp_path / "there.npz")
    unlike = saved(tmp_path / "unlike.npz", first=7)  # of the same labels
    opened(layout, "here", protocol(dataset=here, train_size=0))
    copied = opened(layout, "copied", protocol(dataset=there, train_size=0))
    assert names(copied) == (["here"], [])
    larger = opened(layout, "larger", protocol(dataset=here, train_size=0, image_size=12))
    assert names(larger) == (["here"], [])
    assert names(opened(layout, "unlike", protocol(dataset=unlike, train_size=0))) == ([], [])


def test_the_same_test_images_are_known_whatever_is_trained_on(
    layout: Layout, tmp_path: Path
) -> None:
    """As a test split that is given to all, in a copy of the data with more training images."""
    inputs = np.arange(80 * 64).astype(np.uint8).reshape(80, 8, 8)
    for name, count in (("few", 40), ("more", 60)):
        training = {"x_train": inputs[20 : 20 + count], "y_train": np.arange(count) % 3}
        test = {"x_test": inputs[:20], "y_test": np.arange(20) % 3}
        np.savez(tmp_path / f"{name}.npz", **training, **test)
    few, more = (f"npz:{tmp_path / name}.npz" for name in ("few", "more"))
    opened(layout, "few", protocol(dataset=few, train_size=0))
    assert names(opened(layout, "more", protocol(dataset=more, train_size=0))) == (["few"], [])


@pytest.mark.parametrize("changes", [{"split_seed": 1}, {"test_fraction": 0.3}], ids=str)
def test_another_split_of_the_same_data_overlaps(
    layout: Layout, tmp_path: Path, changes: dict
) -> None:
    opened(layout, "first", protocol())
    assert names(opened(layout, "redrawn", protocol(**changes))) == ([], ["first"])
    here, there = saved(tmp_path / "here.npz"), saved(tmp_path / "there.npz")
    opened(layout, "here", protocol(dataset=here, train_size=0))
    elsewhere = opened(layout, "there", protocol(dataset=there, train_size=0, **changes))
    assert names(elsewhere) == ([], ["here"])


def test_a_study_that_opened_both_splits_is_named_once(tmp_path: Path) -> None:
    folder, other = tmp_path / "data" / "f", replace(SPLIT, images="j", rows="s")
    for split in (SPLIT, other):
        record_opener(folder, split, tmp_path / "runs" / "one" / "seal.json", "a")
    assert names(other_studies(read_openers(folder), SPLIT, "b")) == (["one"], [])


def test_thousands_of_openings_are_one_entry_with_the_first_and_the_last_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seal = tmp_path / "data" / "f", tmp_path / "runs" / "one" / "seal.json"
    for moment in ("1", "2", "3"):
        monkeypatch.setattr("storage.files.seal._now", lambda moment=moment: moment)
        record_opener(folder, SPLIT, seal, "a")
    (entry,) = read_openers(folder)
    assert (entry.first, entry.last) == ("1", "3")
    assert (entry.name, entry.root) == ("one", str(tmp_path / "runs"))


def test_a_study_that_was_moved_with_its_root_is_still_itself(
    layout: Layout, tmp_path: Path
) -> None:
    opened(layout, "first", protocol())
    moved = Layout(layout.root.rename(tmp_path / "elsewhere"))
    assert names(opened(moved, "first", protocol())) == ([], [])
    shutil.rmtree(moved.study("first").folder)  # begun anew: another study of the same name
    assert names(opened(moved, "first", protocol())) == (["first"], [])


def test_roots_that_share_a_cache_share_the_record(layout: Layout, tmp_path: Path) -> None:
    opened(layout, "first", protocol())
    other = Layout(tmp_path / "other")
    other.root.mkdir()
    other.cache.symlink_to(layout.cache)
    (found,) = opened(other, "first", protocol()).same
    assert (found.name, found.root) == ("first", str(layout.root))


def test_an_opening_is_recorded_with_the_data_before_an_image_is_read(layout: Layout) -> None:
    folder = prepare(layout, protocol()).folder
    (folder / "test.safetensors").unlink()
    with pytest.raises(ArtifactError):
        open_test(folder, "digits", layout.study("s").seal, "a test")
    assert [one.name for one in read_openers(folder)] == ["s"]


def test_a_study_that_was_killed_between_both_records_is_one_study(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    folder, seal = prepare(layout, protocol()).folder, layout.study("s").seal
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "record_opener", die)
        patch.setattr(datasets, "_open", lambda *_: pytest.fail("the images were read"))
        with pytest.raises(KilledError):
            open_test(folder, "digits", seal, "a test")
    open_test(folder, "digits", seal, "a test")
    assert [one.study for one in read_openers(folder)] == [read_seal(seal).study]
    assert len(read_seal(seal).openings) == 2


def test_studies_that_open_at_once_are_all_recorded(tmp_path: Path) -> None:
    folder, names = tmp_path / "data" / "f", [f"study-{number}" for number in range(40)]

    def begin(name: str) -> str:
        seal = tmp_path / name / "seal.json"
        record_opener(folder, SPLIT, seal, record_opening(seal, "a test"))
        return read_seal(seal).study

    with ThreadPoolExecutor(8) as pool:
        studies = list(pool.map(begin, names))
    known = {one.name: one.study for one in read_openers(folder)}
    assert known == dict(zip(names, studies, strict=True))


WRITER = """
import sys
from pathlib import Path
from storage.files.seal import SplitIdentity, record_opener
split = SplitIdentity(images="i", rows="r", data="d", dataset="digits")
for number in range(10**6):
    name = f"s{number}"
    record_opener(Path(sys.argv[1]), split, Path(sys.argv[2], name, "seal.json"), name)
"""


def test_a_kill_leaves_a_whole_record_that_others_go_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "f"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(tmp_path)])
        before, deadline = read_openers(folder), time.monotonic() + 60
        while len(read_openers(folder)) <= len(before) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {one.study for one in before} < {one.study for one in read_openers(folder)}
    record_opener(folder, SPLIT, tmp_path / "last" / "seal.json", "last")
    assert read_openers(folder)[-1].study == "last"


@pytest.mark.parametrize(
    "content", ["", "{}", '{"openers": [{"name": 1}]}', '{"openers": {}}', "[]", "\x00"]
)
def test_a_damaged_record_is_refused_in_one_line_and_never_begun_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    folder = prepare(layout, protocol()).folder
    path = openings_record(folder)
    path.write_text(content)
    monkeypatch.setattr(datasets, "_open", lambda *_: pytest.fail("the images were read"))
    with pytest.raises(ArtifactError, match="is damaged: restore it") as caught:
        open_test(folder, "digits", layout.study("s").seal, "a test")
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_text() == content


# Choices of finalists


@pytest.mark.parametrize("begin", [record_choice, record_opening], ids=["choice", "opening"])
def test_a_choice_is_recorded_once_with_the_openings_before_it(
    tmp_path: Path, begin: Callable[..., object]
) -> None:
    seal = tmp_path / "seal.json"
    first: tuple = ({"plain": 2}, {"plain": "plain-00001"})
    if begin is record_opening:
        record_opening(seal, "too early")
    for _ in range(2):
        record_choice(seal, *first)
    before = read_seal(seal)
    record_opening(seal, "a test")
    record_choice(seal, *first)
    record_choice(seal, {"plain": 4}, {"plain": "plain-00001"})
    seen = read_seal(seal)
    early = len(before.openings)
    assert [choice.opened for choice in seen.choices] == [early, early + 1]
    assert [choice.trials["plain"] for choice in seen.choices] == [2, 4]
    assert seen.study == before.study != ""
