"""Names of splits, as in folders, columns and arrays."""

import re

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
