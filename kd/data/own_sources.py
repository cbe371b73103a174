"""Data from the user's own Python file: a function without arguments that returns them.

    def scans():
        return {"x_train": …, "y_train": …, "x_test": …, "y_test": …}

It returns arrays by name, as an .npz file holds them (see `kd.data.reading.named`); or inputs and
labels of all examples; or a data set with `len` and indices, such as torch's, whose items are an
input and a label; or pairs and data sets by the name of their split. A data set is walked once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd.data.reading.arrays import source_of, text_of
from kd.data.reading.files import square_pixels
from kd.data.reading.images import BLOCK, one_line
from kd.data.reading.named import Names
from kd.data.reading.parts import part_of
from kd.data.reading.source import Progress, Reading, Source
from kd.errors import DataError, RetortError
from kd.names import OwnFunction
from kd.own_files import find_kept, own_error

Array = NDArray[Any]
FEW = 6  # members of a tuple, of which an error names the types
RETURNS = (
    "must return arrays by name (x_train, y_train, …), inputs and labels, a data set with len and "
    "indices, or these by split, as in {'train': …, 'test': …}"
)
COPIED = (
    "run the same command again (it runs as a copy below the root, and so names its data by "
    "absolute paths)"
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
    except FileNotFoundError as error:
        raise own_error(name.base, function, "fails", error, COPIED) from error
    except (Exception, SystemExit) as error:
        raise own_error(name.base, function, "fails", error) from error


def _source_of(returned: Any, how: Reading, progress: Progress) -> Source:
    if _is_pair(returned):
        return _by_split({"train": returned}, how, progress)
    if isinstance(returned, Mapping):
        values = returned.values()
        if returned and all(_is_pair(one) or _is_dataset(one) for one in values):
            return _by_split(returned, how, progress)
        if not any(isinstance(one, Mapping) or _is_pair(one) or _is_dataset(one) for one in values):
            return _by_name({str(key): _array(value) for key, value in returned.items()}, how)
    elif _is_dataset(returned):
        return _by_split({"train": returned}, how, progress)
    raise DataError(f"it {RETURNS}, got {_kind(returned)}")


def _kind(value: Any) -> str:
    """Name the type of a value, and those in it."""
    name = type(value).__name__
    if isinstance(value, Mapping):
        named = (f"{key}: {type(one).__name__}" for key, one in value.items())
        return f"{name} of {', '.join(named)}"
    if isinstance(value, tuple | list) and len(value) < FEW:
        return f"{name} of {', '.join(type(one).__name__ for one in value) or 'nothing'}"
    return name


def _is_pair(value: Any) -> bool:
    """Whether a value is a tuple or list of inputs and labels."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return all(isinstance(one, list) or hasattr(one, "__array__") for one in value)


def _is_dataset(value: Any) -> bool:
    """Whether a value has length and items, and is no array or list."""
    known = isinstance(value, np.ndarray | list | tuple | str | bytes | Mapping)
    known = known or hasattr(value, "dtype")
    return not known and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _by_name(arrays: Mapping[str, Array], how: Reading) -> Source:
    """Return the data set of arrays with names. Raises DataError for a name that is not known."""
    names = Names.of(list(arrays), "what it returns")
    if names.others:  # perhaps a split that is misspelt
        raise DataError(f"what it returns must have known names, got {', '.join(names.others)}")
    return names.source(arrays, how)


def _array(value: Any) -> Array:
    """Return an array, or torch's tensor, or a list of numbers, as NumPy's."""
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(detached)


def _by_split(datasets: Mapping[Any, Any], how: Reading, progress: Progress) -> Source:
    """Return the data set of pairs and data sets by the name of their split."""
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
    walked, arrays = 0, dict[str, tuple[Array, Array]]()
    total = sum(len(one) for one in datasets.values() if not _is_pair(one))
    for part, name in parts.items():
        if _is_pair(datasets[name]):
            inputs, labels = map(_array, datasets[name])
            arrays[part] = inputs, labels
            continue

        def report(done: int, before: int = walked) -> None:
            progress(before + done, total)

        arrays[part] = _walked(datasets[name], how, report)
        walked += len(datasets[name])
    classes = getattr(datasets[parts[""]], "classes", ())
    named = classes if isinstance(classes, list | tuple) else ()
    return source_of(arrays, how, [str(text_of(one)) for one in named])


def _walked(dataset: Any, how: Reading, report: Callable[[int], None]) -> tuple[Array, Array]:
    """Return all inputs and labels of a data set. Raises DataError for items that differ."""
    count = len(dataset)
    inputs: Array | None = None
    labels = []
    for row in range(count):
        item = dataset[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            received = _kind(item)
            raise DataError(
                f"item {row} of a data set must be an input and a label, got {received}"
            )
        value, label = item
        array = _pixels(value, how, row) if isinstance(value, Image.Image) else _array(value)
        if inputs is None:
            inputs = np.empty((count, *array.shape), array.dtype)
        if (array.shape, array.dtype) != (inputs.shape[1:], inputs.dtype):
            raise DataError(
                f"all inputs of a data set must have one shape and type, got {array.dtype} "
                f"{list(array.shape)} for item {row} after {inputs.dtype} {list(inputs.shape[1:])}"
            )
        inputs[row] = array
        labels.append(_array(label))
        if (row + 1) % BLOCK == 0 or row + 1 == count:
            report(row + 1)
    if inputs is None:
        raise DataError("a data set must not be empty")
    return inputs, np.stack(labels)


def _pixels(image: Image.Image, how: Reading, row: int) -> Array:
    if image.mode[0] in "IF":
        raise DataError(f"item {row} is an image of more than 8 bits: return it as an array")
    try:
        return square_pixels(image, how)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reads images late
        raise DataError(f"item {row} cannot be read as an image ({one_line(error)})") from error
