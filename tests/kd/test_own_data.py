"""Data from a function of the user's own: arrays, arrays by name, data sets, data sets by split."""

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from conductor.stages.own_files import keep_own, pin_functions
from kd.data.reading.source import Reading, Source
from kd.data.splits import listing_digest, load_source, origins, passed_over
from kd.dataset_names import dataset_slug
from kd.errors import DataError, ProtocolError, RetortError
from storage.files.layout import Layout

IMPORTS = """
import numpy as np
import torch
from PIL import Image

LABELS = np.array([0, 1, 0, 1, 2, 2])
IMAGES = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)


class Pairs:
    classes = ("no", "yes", "maybe")

    def __init__(self, inputs, labels=LABELS):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.inputs[row], self.labels[row]


"""
TRIPLES = """
class Triples(Pairs):
    def __getitem__(self, row):
        return self.inputs[row], self.labels[row], self.labels[row]


"""
RED = "[Image.new('RGB', (12, 10), (row, 0, 0)) for row in range(6)]"


def pin(folder: Path, body: str) -> tuple[str, Layout]:
    text = f"{IMPORTS}{TRIPLES}def scans():\n    {body}\n"
    (folder / "mine.py").write_text(dedent(text).lstrip())
    pinned, files = pin_functions({"dataset": f"{folder}/mine.py:scans"})
    layout = Layout(folder / "runs")
    keep_own(layout, files)
    return str(pinned["dataset"]), layout


def load(folder: Path, body: str, size: int = 8) -> Source:
    dataset, layout = pin(folder, body)
    return load_source(dataset, Reading(size), layout.downloads, own=layout.own)


FORMS = {
    "inputs and labels": "return IMAGES, LABELS",
    "tensors": "return torch.from_numpy(IMAGES), torch.from_numpy(LABELS)",
    "lists": "return [list(row) for row in IMAGES], list(LABELS)",
    "by name": "return {'x': IMAGES, 'y': LABELS}",
    "a data set": "return torch.utils.data.TensorDataset(*map(torch.from_numpy, (IMAGES, LABELS)))",
    "items": "return Pairs(IMAGES)",
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_data(tmp_path, form):
    source = load(tmp_path, FORMS[form])
    assert (source.inputs.dtype, source.inputs.shape) == (np.uint8, (6, 1, 8, 8))
    np.testing.assert_array_equal(source.inputs.ravel(), np.arange(6 * 64).astype(np.uint8))
    assert source.labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert source.classes == (("no", "yes", "maybe") if form == "items" else ("0", "1", "2"))
    assert source.official == []


def test_images_of_a_data_set_become_square_and_names_of_classes_are_kept(tmp_path):
    source = load(tmp_path, f"return Pairs({RED}, ['yes', 'no', 'yes', 'no', 'maybe', 'maybe'])", 5)
    assert (source.classes, source.labels.tolist()) == (("no", "yes", "maybe"), [1, 0, 1, 0, 2, 2])
    assert source.inputs.shape == (6, 3, 5, 5)
    assert source.inputs[:, 0, 2, 2].tolist() == [0, 1, 2, 3, 4, 5]


def test_splits_are_those_of_the_dictionary(tmp_path):
    body = "return {'train': Pairs(IMAGES), 'Val': Pairs(IMAGES), 'test': Pairs(IMAGES)}"
    source = load(tmp_path, body)
    assert source.part.tolist() == [""] * 6 + ["validation"] * 6 + ["test"] * 6
    body = "return {'x_train': IMAGES, 'y_train': LABELS, 'x_test': IMAGES, 'y_test': LABELS}"
    assert load(tmp_path, body).official == ["test"]
    body = "return {'train': (IMAGES, LABELS), 'test': Pairs(IMAGES, np.eye(3)[LABELS])}"
    source = load(tmp_path, body)
    assert (source.official, source.labels.tolist()) == (["test"], [0, 1, 0, 1, 2, 2] * 2)


def test_names_of_two_classes_are_no_pair_of_inputs_and_labels(tmp_path):
    source = load(tmp_path, "return {'x': IMAGES, 'y': LABELS % 2, 'classes': ['no', 'yes']}")
    assert (source.classes, source.labels.tolist()) == (("no", "yes"), [0, 1, 0, 1, 0, 0])


def test_progress_counts_all_data_sets(tmp_path):
    dataset, layout = pin(tmp_path, "return {'train': Pairs(IMAGES), 'test': Pairs(IMAGES)}")
    calls = []
    load_source(dataset, Reading(8), layout.downloads, lambda *call: calls.append(call), layout.own)
    assert calls == [(6, 12), (12, 12)]


WRONG = {
    "nothing": ("pass", "must return arrays by name .*, got NoneType"),
    "two of Keras's": ("return (IMAGES, LABELS), (IMAGES, LABELS)", "got tuple of tuple, tuple"),
    "two data sets": ("return Pairs(IMAGES), Pairs(IMAGES)", "got tuple of Pairs, Pairs"),
    "nested": ("return {'train': {'x': IMAGES}}", "got dict of train: dict"),
    "misspelt": (
        "return {'x': IMAGES, 'y': LABELS, 'splits': LABELS}",
        "must have known names, got splits",
    ),
    "no file": ("return np.load('none.npy'), LABELS", "No such file .* names its data by absolute"),
    "three": (
        "return Triples(IMAGES)",
        "must be an input and a label, got tuple of ndarray, int64, int64",
    ),
    "deep": (
        "return Pairs([Image.fromarray(np.zeros((8, 8), np.uint16))] * 6)",
        "item 0 is an image of more than 8 bits: return it as an array",
    ),
    "a number": ("return 1", "must return arrays by name"),
    "an error": ("return 1 / 0", r"fails: ZeroDivisionError: .* \(mine.py, line 29, in scans\)"),
    "names": ("return {'a': IMAGES}", "what it returns must hold inputs and labels .*; got a"),
    "other split": (
        "return {'fold1': Pairs(IMAGES), 'train': Pairs(IMAGES)}",
        "data sets must be named train, validation and test, got 'fold1'",
    ),
    "no train": ("return {'test': Pairs(IMAGES)}", "must be a data set named train"),
    "shapes": (
        "return Pairs([IMAGES[0], IMAGES[0, :4]] * 3)",
        r"one shape and type, got uint8 \[4, 8\] for item 1 after uint8 \[8, 8\]",
    ),
    "no pairs": (
        "return Pairs(IMAGES).inputs.tolist() and type('D', (Pairs,), "
        "{'__getitem__': lambda s, i: 1})(IMAGES)",
        "item 0 of a data set must be an input and a label, got int",
    ),
    "empty": ("return Pairs([], [])", "a data set must not be empty"),
    "labels": ("return IMAGES, LABELS[:3]", "got 6 examples and 3 labels"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_in_one_line_with_the_function(tmp_path, what):
    body, said = WRONG[what]
    with pytest.raises(RetortError, match=said) as caught:
        load(tmp_path, body)
    assert isinstance(caught.value, DataError | ProtocolError)
    assert "\n" not in str(caught.value)
    assert "mine.py:scans" in str(caught.value)


def test_the_name_follows_the_file_and_the_study_the_function(tmp_path):
    one, _ = pin(tmp_path, "return IMAGES, LABELS")
    other, _ = pin(tmp_path, "return IMAGES + 1, LABELS")
    assert one != other
    assert listing_digest(one, Reading(8)) != listing_digest(other, Reading(8))
    assert dataset_slug(one) == "scans"
    assert (origins(one, Reading(8)), passed_over(one, Reading(8))) == ({}, "")
