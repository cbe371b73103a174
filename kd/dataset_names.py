"""Names of data sets, as in digits, folder:photos, or mine.py:scans. No torch is imported."""

import re

from kd.errors import ProtocolError
from kd.names import OwnFunction, parse_own
from kd.registry import Kind

SOURCES = Kind("dataset", "kd.data.sources")
FITS = {  # of images that are not square; what of an image is taken
    "crop": "the centre square of each image",
    "pad": "each image, whole on a black square,",
    "stretch": "each image, stretched to a square and",
}


def takes_path(source: str) -> bool:
    """Return whether a source's name may be followed by a path, as in `folder:photos`."""
    return "PATH" in SOURCES.literals(source) or is_downloaded(source)


def without_path(dataset: str) -> str:
    """Return a data set's name without the place of its files: `folder:photos` gives `folder`.

    That of a user's function is unchanged.
    """
    source = dataset.partition(":")[0]
    return source if source in SOURCES.names and takes_path(source) else dataset


def takes_images(dataset: str) -> bool:
    """Return whether a data set is known, before it is read, to have images (see its source)."""
    if parse_own_dataset(dataset):
        return False
    return bool(SOURCES.literals(parse_dataset(dataset)[0]).get("IMAGES", False))


def is_downloaded(source: str) -> bool:
    """Return whether a source is downloaded, to the path after its name if there is one."""
    return "DOWNLOADED" in SOURCES.literals(source)


def part_taken(dataset: str, fit: str) -> str:
    """Return what of an image a data set takes, in words: see FITTED of a source."""
    source, _ = parse_dataset(dataset)
    fitted = bool(parse_own_dataset(dataset)) or SOURCES.literals(source).get("FITTED", False)
    return FITS[fit] if fitted else "images"


def parse_own_dataset(name: str) -> OwnFunction | None:
    """Return the user's function that is a data set, `mine.py:scans@1a2b3c4d5e6f`, if it is one.

    Raises ProtocolError for a name that is not written so.
    """
    if not name.partition(":")[0].endswith(".py"):
        return None
    return parse_own(name, "a data set", "--dataset mine.py:scans")


def parse_dataset(name: str) -> tuple[str, str]:
    """Split `folder:photos` into the source and its path, which is empty for `digits`.

    Of a user's function the source is the file. Raises ProtocolError for an unknown source, a
    missing path, or a path that is not accepted.
    """
    if own := parse_own_dataset(name):
        return own.file, own.function
    source, colon, path = name.partition(":")
    SOURCES.check(source)
    if takes_path(source) and not path and (colon or not is_downloaded(source)):
        example = SOURCES.literals(source).get("PATH", "DIR")
        raise ProtocolError(f"{source}: requires a path, as in {source}:{example}, got {name!r}")
    if colon and not takes_path(source):
        raise ProtocolError(f"{source} takes no path, got {name!r}")
    return source, path


def dataset_slug(dataset: str) -> str:
    """Return a data set's name as part of a file name: `folder:/a/My photos` gives `My-photos`,
    `cifar10:/a/data` gives `cifar10`, `csv:/a/scans.csv` and `mine.py:scans@1a2b3c4d5e6f` give
    `scans`.

    It has at most 40 characters, and begins and ends with a letter or digit.
    """
    source, _, path = dataset.partition(":")
    if source in SOURCES.names and is_downloaded(source):
        path = ""  # a folder for its files, not what they show
    named = path.partition("@")[0] if source.endswith(".py") else path
    last = re.split(r"[:/\\]", (named or source).rstrip("/\\"))[-1]
    last = re.sub(r"\.(npz|csv)$", "", last, flags=re.IGNORECASE)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")
    return plain[:40].rstrip("-._") or "study"
