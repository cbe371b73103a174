"""Arrays of the user's own: names, layouts, labels and splits, in an .npz file."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.data.inputs import describe
from kd.data.reading.source import Reading, Source
from kd.data.splits import listing_digest, load_source, origins, passed_over
from kd.errors import DataError

LABELS = np.array([0, 1, 0, 1, 2, 2])


def write(folder: Path, **arrays: Any) -> str:
    np.savez_compressed(folder / "own.npz", **arrays)
    return f"npz:{folder / 'own.npz'}"


def load(folder: Path, **arrays: Any) -> Source:
    return load_source(write(folder, **arrays), Reading(8), folder)


def noise(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def test_medmnist_has_three_splits_and_labels_in_a_column(tmp_path):
    arrays = {}
    for place, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"] = np.full((6, 8, 8, 3), place, np.uint8)
        arrays[f"{split}_labels"] = LABELS[:, None].astype(np.uint8)
    source = load(tmp_path, **arrays)
    assert source.inputs.shape == (18, 3, 8, 8)
    assert source.official == ["validation", "test"]
    assert source.part.tolist() == [""] * 6 + ["validation"] * 6 + ["test"] * 6
    assert source.inputs[:, 0, 0, 0].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert source.labels.tolist() == LABELS.tolist() * 3
    assert source.classes == ("0", "1", "2")
    dataset = f"npz:{tmp_path / 'own.npz'}"
    assert origins(dataset, Reading(8)) == {
        "": "train_images",
        "validation": "val_images",
        "test": "test_images",
    }
    assert passed_over(dataset, Reading(8)) == ""


def test_keras_has_no_validation_split_and_one_hot_labels(tmp_path):
    hot = np.eye(3, dtype=np.float32)[LABELS]
    source = load(
        tmp_path, x_train=noise(6, 8, 8), y_train=hot, x_test=noise(6, 8, 8), y_test=LABELS
    )
    assert (source.inputs.shape, source.official) == ((12, 1, 8, 8), ["test"])
    assert source.labels.tolist() == LABELS.tolist() * 2


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("Data", "Targets")])
def test_all_examples_may_be_in_two_arrays(tmp_path, names):
    source = load(tmp_path, **dict(zip(names, (noise(6, 8, 8), LABELS), strict=True)))
    assert (len(source.labels), source.official) == (6, [])


def test_a_split_for_each_example_divides_them(tmp_path):
    splits = np.array(["Train", "dev", "test", "", "train", b"TEST"])
    names = np.array([b"no", b"yes", b"maybe"])
    x = np.arange(6).astype(np.float64)[:, None]
    dataset = write(tmp_path, x=x, y=LABELS, split=splits, class_names=names, ids=LABELS)
    source = load_source(dataset, Reading(8), tmp_path)
    assert source.classes == ("no", "yes", "maybe")
    assert source.inputs.dtype == np.float32
    assert source.inputs[:, 0].tolist() == [0, 3, 4, 1, 2, 5]
    assert source.part.tolist() == [""] * 3 + ["validation"] + ["test"] * 2
    assert passed_over(dataset, Reading(8)) == f"passed over in {tmp_path / 'own.npz'}: ids"
    assert origins(dataset, Reading(8))["validation"] == "its split"


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((8, 8), (1, 8, 8)),
        ((8, 8, 3), (3, 8, 8)),
        ((3, 8, 8), (3, 8, 8)),
        ((12, 8, 8), (12, 8, 8)),
        ((8, 8, 12), (12, 8, 8)),
        ((10, 8, 3), (3, 8, 8)),
        ((3, 8, 10), (3, 8, 8)),
    ],
)
def test_images_have_their_channels_first_and_are_square(tmp_path, shape, wanted):
    images = noise(6, *shape)
    found = load(tmp_path, x=images, y=LABELS).inputs
    assert found.shape[1:] == wanted
    if shape == (10, 8, 3):  # the centre
        np.testing.assert_array_equal(found, images[:, 1:9].transpose(0, 3, 1, 2))
    if shape == (8, 8, 12):
        np.testing.assert_array_equal(found[2, 5], images[2, :, :, 5])


@pytest.mark.parametrize(("fit", "filled"), [("crop", 64), ("pad", 32), ("stretch", 64)])
def test_images_that_are_not_square_are_fitted_as_wanted(tmp_path, fit, filled):
    dataset = write(tmp_path, x=np.full((6, 16, 8, 12), 9, np.uint8), y=LABELS)
    found = load_source(dataset, Reading(8, fit), tmp_path).inputs
    assert found.shape == (6, 12, 8, 8)
    assert ((found == 9).sum((2, 3)) == filled).all()


def test_images_of_16_bits_keep_them_in_the_range_of_8(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 12, 12, 3)).astype(np.uint16)
    values[0, 0, 0] = 0, 257, 65535
    source = load_source(write(tmp_path, x=values, y=LABELS), Reading(12), tmp_path)
    assert (source.deep, source.inputs.dtype) == (True, np.float32)
    assert source.inputs[0, :, 0, 0].tolist() == [0, 1, 255]
    np.testing.assert_allclose(source.inputs.transpose(0, 2, 3, 1) * 257, values, atol=0.01)
    inputs = describe(source, np.arange(4))
    plain = values[:4].reshape(-1, 3) / 65535
    np.testing.assert_allclose(inputs.mean, plain.mean(0), rtol=1e-6)
    np.testing.assert_allclose(inputs.deviation, plain.std(0), rtol=1e-6)
    assert str(inputs) == "images of 3x12x12 of 16 bits"
    tokens = load(tmp_path, x=values[:, :, 0, 0], y=LABELS)
    assert (tokens.deep, tokens.inputs.dtype) == (False, np.int64)


def test_volumes_could_be_either_way_round_and_are_refused(tmp_path):
    with pytest.raises(DataError, match="images of 8x8x8 may have their channels first or last"):
        load(tmp_path, x=noise(6, 8, 8, 8), y=LABELS)


@pytest.mark.parametrize(
    ("kind", "shape", "kept"),
    [
        (np.float16, (4, 5), np.float32),
        (np.float64, (2, 8, 8), np.float32),
        (np.int32, (7,), np.int64),
        (np.uint8, (7,), np.int64),
        (np.bool_, (3, 3), np.int64),
        (np.uint16, (1, 4, 4, 4), np.int64),
    ],
)
def test_other_numbers_are_arrays_in_their_own_shape(tmp_path, kind, shape, kept):
    values = noise(6, *shape, dtype=kind)
    source = load(tmp_path, x=values, y=LABELS)
    assert (source.inputs.dtype, source.inputs.shape) == (kept, values.shape)
    np.testing.assert_array_equal(source.inputs, values)


def test_labels_may_be_names_or_numbers_with_gaps(tmp_path):
    source = load(tmp_path, x=noise(4, 8, 8), y=np.array(["dog", "cat", "cat", "eel"]))
    assert (source.classes, source.labels.tolist()) == (("cat", "dog", "eel"), [1, 0, 0, 2])
    source = load(tmp_path, x=noise(4, 8, 8), y=np.array([1.0, 10.0, 2.0, 1.0]))
    assert (source.classes, source.labels.tolist()) == (("1", "2", "10"), [0, 2, 1, 0])


WRONG = {
    "multi-label": (
        {"y": np.array([[1, 1, 0]] * 6)},
        r"labels for training must be one class .* got several",
    ),
    "regression": ({"y": np.linspace(0, 1, 6)}, "labels must be whole numbers or names, got float"),
    "negative": ({"y": LABELS - 1}, "labels must be 0 or more, got -1"),
    "one class": ({"y": np.zeros(6, int)}, r"there must be at least 2 classes, got \[0\]"),
    "too few": ({"y": LABELS[:5]}, "got 6 examples and 5 labels for training"),
    "too few classes": ({"classes": np.array(["a", "b"])}, "labels must lie in 0-1, .* got 2"),
    "labels beside a split": (
        {"y": np.arange(9) % 3, "split": np.array(["train"] * 6)},
        r"one label for each example, got \[6, 8, 8\] and \[9\]",
    ),
    "bits": (
        {"x": noise(6, 8, 8, dtype=np.uint16), "x_test": noise(6, 1, 8, 8) / 2, "y_test": LABELS},
        "one shape and type, got training 1x8x8 uint16, test 1x8x8 float64",
    ),
    "no labels": ({"y": None}, "must hold inputs and labels of each split: .* got x"),
    "texts": ({"x": np.array(["a"] * 6)}, "inputs for training must be numbers"),
    "other split": ({"split": np.array(["fold1"] * 6)}, "splits must be train, .* got 'fold1'"),
    "test alone": (
        {"x": None, "y": None, "x_test": noise(6, 8, 8), "y_test": LABELS},
        "must hold inputs and labels of each split",
    ),
    "two of one": ({"images": noise(6, 8, 8)}, "must hold one of x and images"),
    "two shapes": (
        {"x_test": noise(6, 9, 9), "y_test": LABELS},
        "must have one shape and type, got training 1x8x8 uint8, test 1x9x9 uint8",
    ),
    "objects": ({"y": np.array([0, "a", 0, 1, 2, 2], object)}, "cannot be read as .npz .*pickle"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, what):
    changed, said = WRONG[what]
    arrays = {"x": noise(6, 8, 8), "y": LABELS, **changed}
    with pytest.raises(DataError, match=said) as caught:
        load(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["missing", "text", "cut", "flipped", "zip", "npy"])
def test_a_file_that_is_damaged_or_none_is_refused_in_one_line(tmp_path, how):
    dataset = write(tmp_path, x=noise(6, 8, 8), y=LABELS)
    path = tmp_path / "own.npz"
    whole = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "text":
        path.write_text("no arrays")
    elif how == "cut":
        path.write_bytes(whole[:-40])
    elif how == "flipped":
        whole[120] ^= 255
        path.write_bytes(whole)
    elif how == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", "none")
            file.writestr("y.npy", "none")
    else:
        with path.open("wb") as single:
            np.save(single, LABELS)
    with pytest.raises(DataError) as caught:
        load_source(dataset, Reading(8), tmp_path)
    assert "\n" not in str(caught.value)
    assert "own.npz" in str(caught.value)


def test_the_listing_follows_the_file(tmp_path):
    dataset = write(tmp_path, x=noise(6, 8, 8), y=LABELS)
    first = listing_digest(dataset, Reading(8))
    assert listing_digest(dataset, Reading(8)) == first
    write(tmp_path, x=noise(6, 8, 8)[::-1], y=LABELS, more=LABELS)
    assert listing_digest(dataset, Reading(8)) != first
