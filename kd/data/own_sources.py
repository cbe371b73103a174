"""Data from the user's own Python file: a function without arguments that returns them.

    def scans():
        return {"x_train": …, "y_train": …, "x_test": …, "y_test": …}

It returns arrays by name, as an .npz file holds them (see `kd.data.sources._named`); or inputs and
labels of all examples; or a data set with `len` and indices, such as torch's, whose items are an
input and a label; or data sets by the name of their split. A data set is walked once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd.data.sources import Progress, Reading, Source
from kd.data.sources._arrays import source_of
from kd.data.sources._files import square_pixels
from kd.data.sources._images import BLOCK
from kd.data.sources._named import Names
from kd.data.sources._parts import part_of
from kd.errors import DataError, RetortError
from kd.names import OwnFunction
from kd.own_files import find_kept, own_error

Array = NDArray[Any]
RETURNS = (
    "must return arrays by name (x_train, y_train, …), inputs and labels, a data set with len and "
    "indices, or data sets by split"
)


def read_own_source(name: OwnFunction, files: Path, how: Reading, progress: Progress) -> Source:
    """Return the data set that a user's function returns; `files` has copies of the user's files.

    Images of data sets are upright, square and RGB, [3, size, size]. Raises
    ProtocolError for a function that fails, and DataError for one that returns something else, or
    data that do not fit together; both name the function.
    """
    function = find_kept(files, name.file, name.digest, name.function)
    try:
        returned = function()
        return _source_of(returned, how, progress)
    except DataError as error:
        raise DataError(f"{name.base}: {error}") from error
    except RetortError:
        raise
    except MemoryError as error:
        raise DataError(f"the data of {name.base} do not fit in memory") from error
    except (Exception, SystemExit) as error:
        raise own_error(name.base, function, "fails", error) from error


def _source_of(returned: Any, how: Reading, progress: Progress) -> Source:
    if isinstance(returned, tuple | list) and len(returned) == 2:
        inputs, labels = map(_array, returned)
        return source_of({"": (inputs, labels)}, how)
    if isinstance(returned, Mapping):
        if returned and all(map(_is_dataset, returned.values())):
            return _of_datasets(returned, how, progress)
        arrays = {str(key): _array(value) for key, value in returned.items()}
        return Names.of(list(arrays), "what it returns").source(arrays, how)
    if _is_dataset(returned):
        return _of_datasets({"train": returned}, how, progress)
    raise DataError(f"it {RETURNS}, got {type(returned).__name__}")


def _is_dataset(value: Any) -> bool:
    """Whether a value has length and items, and is no array or list."""
    known = isinstance(value, np.ndarray | list | tuple | str | bytes) or hasattr(value, "dtype")
    return not known and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _array(value: Any) -> Array:
    """Return an array, or torch's tensor, or a list of numbers, as NumPy's."""
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(detached)


def _of_datasets(datasets: Mapping[Any, Any], how: Reading, progress: Progress) -> Source:
    parts = {}
    for name in datasets:
        part = part_of(str(name))
        if part is None:
            raise DataError(f"data sets must be named train, validation and test, got {name!r}")
        if part in parts:
            raise DataError(f"there must be one data set of each split, got {list(datasets)}")
        parts[part] = name
    if "" not in parts:
        raise DataError(f"there must be a data set named train, got {list(datasets)}")
    total = sum(map(len, datasets.values()))
    walked, arrays = 0, {}
    for part, name in parts.items():

        def report(done: int, before: int = walked) -> None:
            progress(before + done, total)

        arrays[part] = _walked(datasets[name], how, report)
        walked += len(datasets[name])
    classes = getattr(datasets[parts[""]], "classes", ())
    return source_of(arrays, how, [str(one) for one in classes])


def _walked(dataset: Any, how: Reading, report: Callable[[int], None]) -> tuple[Array, Array]:
    """Return all inputs and labels of a data set. Raises DataError for items that differ."""
    count = len(dataset)
    inputs: Array | None = None
    labels = []
    for row in range(count):
        item = dataset[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"item {row} of a data set must be an input and a label, got {item!r}")
        value, label = item
        array = square_pixels(value, how) if isinstance(value, Image.Image) else _array(value)
        if inputs is None:
            inputs = np.empty((count, *array.shape), array.dtype)
        if (array.shape, array.dtype) != (inputs.shape[1:], inputs.dtype):
            raise DataError(
                f"all inputs of a data set must have one shape and type, got {array.dtype} "
                f"{list(array.shape)} for item {row} after {inputs.dtype} {list(inputs.shape[1:])}"
            )
        inputs[row] = array
        labels.append(label if isinstance(label, str) else _array(label).item())
        if (row + 1) % BLOCK == 0 or row + 1 == count:
            report(row + 1)
    if inputs is None:
        raise DataError("a data set must not be empty")
    return inputs, np.array(labels)
