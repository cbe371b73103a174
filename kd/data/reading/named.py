"""Find inputs, labels and splits among arrays by their names.

The names are those of MedMNIST (train_images, train_labels, val_images, …), of Keras (x_train,
y_train, …), or inputs and labels of all examples (x and y), with `split` if they are divided.
`classes` holds the names of the classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd.data.reading.arrays import Array, parts_of, source_of, text_of
from kd.data.reading.parts import part_of
from kd.data.reading.source import Reading, Source
from kd.errors import DataError

INPUTS = frozenset(["x", "images", "image", "data", "inputs", "input", "features"])
LABELS = frozenset(["y", "labels", "label", "targets", "target"])
SPLIT = "split"  # one name of a split for each example
CLASSES = frozenset(["classes", "class_names", "label_names"])
WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of inputs and labels by part, as in `Source`; those of the rest, if they exist."""

    inputs: dict[str, str]
    labels: dict[str, str]
    split: str
    classes: str
    others: tuple[str, ...]  # which are not read

    @classmethod
    def of(cls, keys: Sequence[str], where: str) -> "Names":
        """Find the names among `keys`; `where` says what holds them. Raises DataError."""
        found: dict[str, dict[str, str]] = {"inputs": {}, "labels": {}}
        others = []
        for key in keys:
            kind, part = _meaning(key)
            if not kind:
                others.append(key)
            elif part in found[kind]:
                raise DataError(f"{where} must hold one of {found[kind][part]} and {key}")
            else:
                found[kind][part] = key
        inputs, labels = found.values()
        if "" not in inputs or inputs.keys() != labels.keys():
            raise DataError(
                f"{where} must hold inputs and labels of each split: x_train and y_train (or "
                "train_images and train_labels), x_val, y_val, x_test and y_test if there are "
                f"any, or x and y; got {', '.join(sorted(map(str, keys))) or 'nothing'}"
            )
        split = SPLIT if SPLIT in others and list(inputs) == [""] else ""
        classes = next((key for key in others if key in CLASSES), "")
        unread = sorted({*others} - {split, classes})
        return cls(inputs, labels, split, classes, tuple(unread))

    def source(self, arrays: Mapping[str, Array], how: Reading) -> Source:
        """Return the data set of these arrays. Raises DataError; see `reading.arrays`."""
        parts = {
            part: (arrays[inputs], arrays[self.labels[part]])
            for part, inputs in self.inputs.items()
        }
        if self.split:
            inputs, labels = parts[""]
            if not inputs.ndim or not labels.ndim or len(labels) != len(inputs):
                sizes = f"{list(inputs.shape)} and {list(labels.shape)}"
                raise DataError(f"there must be one label for each example, got {sizes}")
            rows = parts_of(arrays[self.split], len(inputs))
            parts = {part: (inputs[where], labels[where]) for part, where in rows.items()}
        classes = arrays[self.classes].ravel().tolist() if self.classes else []
        return source_of(parts, how, [str(text_of(name)) for name in classes])

    def origins(self, arrays: Mapping[str, Array]) -> dict[str, str]:
        """Return the array that each part comes from, by the part: {"test": "test_images"}."""
        if self.split:
            splits = arrays[self.split]
            return dict.fromkeys(parts_of(splits, splits.size), f"its {self.split}")
        return self.inputs


def _meaning(key: str) -> tuple[str, str]:
    """Return whether an array has inputs or labels, or neither (an empty text), and its part."""
    parts, words = [], []
    for word in filter(None, WORDS.split(str(key).lower())):
        part = part_of(word)
        if part is None:
            words.append(word)
        else:
            parts.append(part)
    if len(words) == 1 and len(parts) <= 1:
        for kind, known in (("inputs", INPUTS), ("labels", LABELS)):
            if words[0] in known:
                return kind, "".join(parts)
    return "", ""
