"""A CSV file lists images, their labels and perhaps their splits."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd.data.reading.source import Reading, Source
from kd.data.splits import listing_digest, load_source, origins, passed_over
from kd.errors import DataError

ROWS = ["a.png,cat", "b.png,dog", "deep/c.png,cat", "d.png,dog"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "b.png", "deep/c.png", "d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 2, 3)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> str:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return f"csv:{folder / 'labels.csv'}"


def load(folder: Path, *lines: str) -> Source:
    return load_source(write(folder, *lines), Reading(8), folder)


def test_images_are_those_of_the_rows_and_splits_are_drawn(folder):
    source = load(folder, "path,label", *ROWS)
    assert source.inputs.shape == (4, 3, 8, 8)
    assert source.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    assert source.official == []
    assert origins(f"csv:{folder / 'labels.csv'}", Reading(8)) == {}


def test_splits_of_the_file_are_used_and_named_as_there(folder):
    splits = ("Train", "dev", "", "TEST")
    lines = [f"{row},{split},7" for row, split in zip(ROWS, splits, strict=True)]
    dataset = write(folder, "Image,Class,Set,score", *lines)
    source = load_source(dataset, Reading(8), folder)
    assert source.part.tolist() == ["", "validation", "", "test"]
    assert origins(dataset, Reading(8)) == {
        "": "split Train",
        "validation": "split dev",
        "test": "split TEST",
    }
    assert passed_over(dataset, Reading(8)) == f"passed over in {folder / 'labels.csv'}: score"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_orders_marks_and_quotes_are_read(folder, delimiter):
    row = '"a.png"', "b.png"
    lines = [delimiter.join(("1", row[0])), "", delimiter.join(("10", row[1]))]
    dataset = write(folder, delimiter.join(("label", "file")), *lines, encoding="utf-8-sig")
    source = load_source(dataset, Reading(8), folder)
    assert (source.classes, source.labels.tolist()) == (("1", "10"), [0, 1])


def test_absolute_paths_are_read(folder):
    lines = [f"{folder / row}" for row in ROWS]
    assert len(load(folder, "path,label", *lines).labels) == 4


WRONG = {
    "no header": (ROWS, "must name the columns path and label, .* got a.png, cat"),
    "two columns": (["path,file,label", "a.png,b.png,x"], r"one column path, got \['path', 'file'"),
    "too few values": (["path,label,split", ROWS[0]], "line 2: there must be 3 values, got 2"),
    "no label": (["path,label", ROWS[0], "b.png,"], "line 3: path and label must not be empty"),
    "no rows": (["path,label"], "lists no image"),
    "one class": (["path,label", ROWS[0]], r"at least 2 classes, got \['cat'\]"),
    "other split": (
        ["path,label,split", "a.png,cat,fold1"],
        "line 2: split must be train, validation, test or empty, got 'fold1'",
    ),
    "missing": (
        ["path,label", *ROWS, *(f"{number}.png,cat" for number in range(7))],
        r"7 of 11 images that .* do not exist: .*0\.png', .* and others; paths are relative",
    ),
    "twice": (["path,label", *ROWS, "./a.png,dog"], "must list an image once, got .* 2 times"),
    "quote": (["path,label", '"a.png'], "cannot be read as CSV"),
    "empty": ([], "must name the columns path and label, .* got nothing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_such_list_is_refused_in_one_line(folder, what):
    lines, said = WRONG[what]
    with pytest.raises(DataError, match=said) as caught:
        load(folder, *lines)
    assert "\n" not in str(caught.value)
    assert "labels.csv" in str(caught.value) or what == "one class"


def test_names_with_line_breaks_stand_on_one_line(folder):
    lines = [f'{row.partition(",")[0]},"{row[-3:]}\nor so",7' for row in ROWS]
    dataset = write(folder, 'path,label,"read\nby"', *lines)
    assert load_source(dataset, Reading(8), folder).classes == (r"'cat\nor so'", r"'dog\nor so'")
    place = folder / "labels.csv"
    assert passed_over(dataset, Reading(8)) == rf"passed over in {place}: 'read\nby'"
    with pytest.raises(DataError, match=r"and split if there is one, got path, 'read\\nby'$"):
        load(folder, 'path,"read\nby"', *ROWS)


def test_a_file_that_is_missing_or_no_text_is_refused(folder):
    with pytest.raises(DataError, match="must name an existing CSV file"):
        load_source(f"csv:{folder / 'none.csv'}", Reading(8), folder)
    (folder / "labels.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"cannot be read as CSV \(.*\); save it as UTF-8$"):
        load_source(f"csv:{folder / 'labels.csv'}", Reading(8), folder)


def test_the_listing_follows_the_file_and_the_images(folder):
    dataset = write(folder, "path,label", *ROWS)
    digests = [listing_digest(dataset, Reading(8))]
    assert listing_digest(dataset, Reading(8)) == digests[0]
    write(folder, "path,label", *reversed(ROWS))
    digests.append(listing_digest(dataset, Reading(8)))
    os.utime(folder / "a.png", ns=(1, 1))
    digests.append(listing_digest(dataset, Reading(8)))
    assert len(set(digests)) == 3
    np.testing.assert_array_equal(load_source(dataset, Reading(8), folder).labels, [1, 0, 1, 0])
