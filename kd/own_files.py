"""The user's own Python files (models, losses, search spaces), with the modules that they import.

A file is identified by a digest over its content and that of the modules which it imports from its
own folder. All other imports are libraries. Only `import` statements are followed: a module that is
loaded in another way, such as `importlib`, is not copied.
"""

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from kd.errors import ArtifactError, ProtocolError, one_line, place_in
from kd.names import DIGEST_LENGTH
from kd.own_import import Importer
from kd.registry import PARSING, check_name

ROOT = Path(__file__).resolve().parents[1]
OURS = ("conductor", "kd", "reports", "search_spaces", "storage", "study", "workers")


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A user's file; `files` has its content and that of its imports, by path below its folder."""

    path: Path
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        contents = (
            f"{name} {hashlib.sha256(content).hexdigest()}"
            for name, content in sorted(self.files.items())
        )
        return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:DIGEST_LENGTH]

    @property
    def folder(self) -> str:
        """Name of the folder that holds the copy."""
        return own_folder(self.path.name, self.digest)


def own_folder(file: str, digest: str) -> str:
    """Return the name of the folder that holds the copy of a file: `mine-1a2b3c4d5e6f`."""
    return f"{file.removesuffix('.py')}-{digest}"


def read_own(path: Path) -> OwnFile:
    """Read a file and all modules of its folder that it imports, directly or indirectly.

    Raises ProtocolError, in one line, naming a file that cannot be read or is not valid Python.
    """
    files: dict[str, bytes] = {}
    waiting = [path.name]
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name], tree = _parsed(path.parent / name)
            package = PurePosixPath(name).parent.parts
            for parts in _imported(tree, package):
                waiting += _beside(path.parent, parts)
    return OwnFile(path, files)


def _parsed(path: Path) -> tuple[bytes, ast.Module]:
    try:
        content = path.read_bytes()
        with PARSING:
            return content, ast.parse(content, path)
    except OSError as error:
        raise ProtocolError(f"{path} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{path} does not import: {one_line(error)}") from None


def _imported(tree: ast.Module, package: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the dotted names that a module of `package` imports, split; not all are modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = package[: len(package) + 1 - node.level] if node.level else ()
            base = (*within, *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)


def _beside(folder: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield the files in `folder` that an import of a dotted name runs."""
    if parts[0] in OURS and folder.resolve() == ROOT:
        return  # a module of Retort, imported by a file beside `study.py`
    for count in range(1, len(parts) + 1):
        stem = "/".join(parts[:count])
        if (folder / stem / "__init__.py").is_file():
            yield f"{stem}/__init__.py"
        elif (folder / f"{stem}.py").is_file():
            yield f"{stem}.py"
            return


def read_kept(place: Path, file: str, digest: str) -> OwnFile:
    """Read the copy of a file below `place`. Raises ArtifactError if it is missing or changed."""
    path = place / own_folder(file, digest) / file
    again = f"pass {file} again with its flag to copy it again"
    try:
        own = read_own(path)
    except ProtocolError as error:
        raise ArtifactError(f"{error}; {again}") from None
    if own.digest != digest:
        raise ArtifactError(f"{path.parent} has changed; delete it, and {again}")
    return own


def load_own(own: OwnFile, shown: str) -> ModuleType:
    """Import a file; `shown` is its name in error messages.

    Raises ProtocolError, in one line with file and line, for any exception during the import.
    """
    importer = Importer(own.path.parent, own.files)
    try:
        return importer.load(own.path.stem)
    except (Exception, SystemExit) as error:
        text = one_line(error).replace(f"{importer.package}.", "")
        place = own_place(error)
        at = f" ({place})" if place else ""
        raise ProtocolError(f"{shown} does not import: {text}{at}") from error


@functools.cache
def load_kept(place: Path, file: str, digest: str) -> ModuleType:
    """Import the copy of a file, once per process; see `read_kept` and `load_own`."""
    return load_own(read_kept(place, file, digest), file)


def find_kept(place: Path, file: str, digest: str, function: str) -> Callable[..., Any]:
    """Return a function, or class, of the copy of a file, as first imported in this process.

    Raises ProtocolError, with the nearest name, if the file lacks it; see also `load_kept`.
    """
    module = load_kept(place, file, digest)
    package = module.__name__.partition(".")[0]
    known = [
        name
        for name, value in vars(module).items()
        if callable(value) and str(getattr(value, "__module__", "")).startswith(f"{package}.")
    ]
    check_name(f"function of {file}", function, known)
    found: Callable[..., Any] = getattr(module, function)
    return found


def own_error(
    name: str,
    thing: Any,
    what: str,
    error: BaseException | None = None,
    advice: str = "run the same command again",
) -> ProtocolError:
    """Return the one-line error for something of the user's own, `mine.py:small`.

    `what` is the predicate of the sentence. It names the line that raised `error`, or that of the
    function or class `thing`, and ends with the `advice` on what to do once that is correct.
    """
    file = name.partition(":")[0]
    place = own_line(thing) or f"{file}, in {getattr(thing, '__name__', name)}"
    if error is None:
        return ProtocolError(f"{name} {what} ({place})")
    text = str(error) if isinstance(error, ProtocolError) else one_line(error)
    return ProtocolError(
        f"{name} {what}: {text} ({own_place(error) or place}); correct it there, and {advice}"
    )


def own_name(path: Path) -> str:
    """Return the user's name for a file that `load_own` has imported; empty for any other."""
    importers = (finder for finder in sys.meta_path if isinstance(finder, Importer))
    return next(filter(None, (importer.named(path) for importer in importers)), "")


def own_line(thing: Any) -> str:
    """Return where a function or class is defined, such as `mine.py, line 7, in small`; empty if
    that is not in a user's file.
    """
    function = inspect.unwrap(thing)
    function = vars(function).get("__init__", function) if isinstance(function, type) else function
    code = getattr(function, "__code__", None)
    file = own_name(Path(code.co_filename)) if code else ""
    return f"{file}, line {code.co_firstlineno}, in {thing.__name__}" if code and file else ""


def own_place(error: BaseException) -> str:
    """Return where in the user's files an error was raised; see `place_in`."""
    return place_in(error, own_name)
