"""Names of splits, as in folders, columns and arrays, and of class folders beside them."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from kd.errors import DataError

PART_OF = {
    "train": "",  # validation and test may be drawn from it
    "training": "",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# Words in the names of splits; such a name has at least one of the second pattern.
FILLING = re.compile(r"data(set)?|dir|folder|images?|imgs?|part|private|public|sets?|split|.")
SPLIT = re.compile(
    r"train(s|ing|set|data|val)?|trn|test(s|ing|set|data)?|tst|val(s|set|id|idset|idate|idation)?|"
    r"dev(set|el|elopment)?|eval(s|set|uate|uation)?|(hold|held)out|folds?"
)


def part_of(name: str) -> str | None:
    """Return the part of a `Source` that a split of this name is, in any case; None if it is none.

    Examples of a training split have no part, so that a missing split may be drawn from them.
    """
    return PART_OF.get(name.strip().lower())


def is_split_name(name: str) -> bool:
    """Return whether a folder's name is that of a split: Train, test_set, val2017, hold-out."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    joined = re.sub(r"(?<![a-z])(hold|held)[\W_]+out", r"\1out", apart)
    words = [word for word in re.findall(r"[^\W\d_]+", joined) if not FILLING.fullmatch(word)]
    return bool(words) and all(map(SPLIT.fullmatch, words))


def class_name(folder: str) -> str:
    """Return the class of a folder's name; letters with accents may be stored in two ways."""
    return unicodedata.normalize("NFC", folder)


def check_classes(folders: Sequence[str], place: Path) -> None:
    """Raise DataError for classes named like splits, which are more likely to be splits, and for
    two of one name.
    """
    splits = [name for name in folders if is_split_name(name)]
    if splits:
        raise DataError(
            f"a class must not be named like a split, got {splits} in {str(place)!r}: name "
            "splits PATH/train/<class>/, PATH/val/<class>/ and PATH/test/<class>/ (a missing val/ "
            "or test/ is drawn), or rename the class, for example to "
            f"{splits[0]}-class"
        )
    names = [class_name(name) for name in folders]
    if alike := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(
            f"folders of classes in {str(place)!r} must have different names, got {alike} twice, "
            "with accents stored in two ways: merge them, or rename one"
        )
