"""Makes paths of the command line absolute, so that a study can be resumed from any folder.

See `storage.files.layout.whole_path`. The root stays as given: paths below it are relative.
"""

import argparse
from collections.abc import Callable

from kd.dataset_names import SOURCES, takes_path
from kd.names import WEIGHTS
from storage.files.layout import home_path, whole_path

SUFFIXES = (".py", *WEIGHTS)  # of files that flags name


def settle_paths(options: argparse.Namespace) -> None:
    """Make the paths in the options absolute."""
    for name, rule in OPTIONS.items():
        text = getattr(options, name, None)
        if text:
            whole = list(map(rule, text)) if isinstance(text, list) else rule(text)
            setattr(options, name, whole)


def settled_words(words: list[str]) -> list[str]:
    """Return a command line with absolute paths, which works in any folder."""
    settled = []
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, text = word.partition("=")
        if equals and flag in FLAGS:
            settled.append(f"{flag}={FLAGS[flag](text)}")
        else:
            settled.append(FLAGS[before](word) if before in FLAGS else word)
    return settled


def whole_model(name: str) -> str:
    """Return the name of a model or loss, with an absolute path if it is in the user's own file.

    A name with a digest is that of a copy under the root, and is unchanged.
    """
    path, _, function = name.rpartition(":")
    own = path.endswith(".py") and "@" not in function
    return f"{whole_path(path)}:{function}" if own else name


def _path(path: str) -> str:
    return str(whole_path(path))


def _file(name: str) -> str:
    """Return the absolute path of an existing file; other texts are unchanged."""
    path = whole_path(name)
    return str(path) if path.suffix in SUFFIXES and path.is_file() else name


def _dataset(name: str) -> str:
    source, _, path = name.partition(":")
    if source.endswith(".py"):
        return whole_model(name)
    takes = path and source in SOURCES.names and takes_path(source)
    return f"{source}:{whole_path(path)}" if takes else name


def _models(names: str) -> str:
    return ",".join(whole_model(name.strip()) for name in names.split(","))


def _storage(url: str) -> str:
    from storage.studies.urls import whole_url  # which imports SQLAlchemy

    return whole_url(url)


OPTIONS: dict[str, Callable[[str], str]] = {
    "root": home_path,
    "storage": _storage,
    "space": _file,
    "dataset": _dataset,
    "teacher_weights": _file,
    "student_weights": _file,
}
FLAGS: dict[str, Callable[[str], str]] = {
    **{f"--{name.replace('_', '-')}": rule for name, rule in OPTIONS.items()},
    "--root": _path,
    "--sampler": whole_model,
    "--teacher": _models,
    "--teachers": _models,
    "--student": _models,
    "--students": _models,
    "--loss": whole_model,
}
