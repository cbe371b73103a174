"""Files that are larger than memory are written chunk by chunk, in the format of safetensors."""

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from storage.files.streams import streaming

FORMS = {
    "pixels": ("uint8", (3, 2, 2)),
    "half": ("float16", (3, 1)),
    "labels": ("int64", (3,)),
    "empty": ("float32", (0, 4)),
}


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 100, shape).astype(dtype)
        for name, (dtype, shape) in FORMS.items()
    }


def test_chunks_in_any_order_of_the_arrays_give_the_file_that_safetensors_writes(tmp_path):
    wanted = arrays()
    with streaming(tmp_path / "a", FORMS) as stream:
        for rows in (slice(0, 1), slice(1, 3)):
            for name, array in wanted.items():
                stream.append(name, array[rows])
    found = load_file(tmp_path / "a")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    save_file(wanted, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "rows",
    [np.zeros((4, 2, 2), np.uint8), np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 2), np.int64)],
    ids=["too many", "another shape", "another type"],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, rows):
    with pytest.raises(ValueError, match="pixels is uint8"), streaming(tmp_path / "a", FORMS) as s:
        s.append("pixels", rows)
    assert list(tmp_path.iterdir()) == []


def test_file_without_all_rows_is_not_kept(tmp_path):
    def write() -> None:
        with streaming(tmp_path / "a", FORMS) as stream:
            for name, array in arrays().items():
                stream.append(name, array[: 2 if name == "half" else None])

    with pytest.raises(ValueError, match="half must be written whole"):
        write()
    assert list(tmp_path.iterdir()) == []
