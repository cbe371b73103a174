"""Kinds of things that have names, such as optimizers: a kind is a folder, each file a member.

A member is added by adding its file, and no list is edited. Listing names and descriptions imports
no member, since members may import torch; loading one imports it alone.
"""

import ast
import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from kd.errors import ProtocolError

PARSING = Lock()  # before 3.11.8, parsing in two threads raised SystemError (cpython 106905)
MOST_LISTED = 60  # names in an error; libraries have more than a thousand
NEAR = 0.75  # similarity, 0-1, from which a known name is proposed for a mistyped one


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of members: `what` is its name in errors, `package` the one that holds its files.

    The member `balanced-accuracy` is the file `balanced_accuracy.py`; files whose names begin with
    `_` are not members. Each package's `__init__` defines the interface of a member. If the folder
    has other files too, only those that define the function `defines` are members.
    """

    what: str
    package: str
    defines: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all members, sorted."""
        path = importlib.import_module(self.package).__path__
        stems = (module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
        named = sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_"))
        return tuple(name for name in named if not self.defines or self._defines(name))

    def _defines(self, name: str) -> bool:
        nodes = self._read(name).body
        return any(isinstance(one, ast.FunctionDef) and one.name == self.defines for one in nodes)

    def __contains__(self, name: str) -> bool:
        """Whether a member has `name`: listing a folder takes longer than looking for a file."""
        if self.defines:
            return name in self.names
        return "_" not in name and self._file(name) is not None

    def check(self, name: str) -> None:
        """Raise ProtocolError, with the nearest name or all names, if no member has `name`."""
        if name not in self:
            check_name(self.what, name, self.names)

    def load(self, name: str) -> ModuleType:
        """Return the module of a member. Raises ProtocolError for an unknown name."""
        self.check(name)
        return importlib.import_module(f"{self.package}.{_stem(name)}")

    def bind(self, name: str, function: str, parameters: Mapping[str, Any]) -> Any:
        """Return a member whose `function` receives its `Parameters`, if it has any.

        They become the function's argument `parameters`; those left out take their defaults.
        """
        member = self.load(name)
        if not hasattr(member, "Parameters"):
            return member
        bound = partial(getattr(member, function), parameters=member.Parameters(**parameters))
        return SimpleNamespace(**{**vars(member), function: bound})

    def describe(self, name: str) -> str:
        """Return the first line of a member's docstring, which help and reports show."""
        return (ast.get_docstring(self._parsed(name)) or "").partition("\n")[0].rstrip(".")

    def literals(self, name: str) -> dict[str, Any]:
        """Return a member's constants that are written as literals, without importing it."""
        found: dict[str, Any] = {}
        for node in self._parsed(name).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                with suppress(ValueError):  # it is computed
                    value = ast.literal_eval(node.value)
                    found |= {one.id: value for one in targets if isinstance(one, ast.Name)}
        return found

    def parameters(self, name: str) -> type | None:
        """Return a member's dataclass `Parameters`, or None, without importing its file.

        The class is run by itself: it may use the file's literal constants and what the file
        imports, if that needs no torch.
        """
        return _parameters(self, name)

    def _parsed(self, name: str) -> ast.Module:
        self.check(name)
        return self._read(name)

    def _read(self, name: str) -> ast.Module:
        file = self._file(name)
        return _parse(file.read_text(encoding="utf-8") if file else "")

    def _file(self, name: str) -> Path | None:
        paths = importlib.import_module(self.package).__path__
        files = (_place(folder, name) for folder in paths)
        return next((file for file in files if file.is_file()), None)


@cache  # every recipe asks, and a path takes longer to make than to look up
def _place(folder: str, name: str) -> Path:
    return Path(folder, f"{_stem(name)}.py")


@cache  # a command's help alone asks for the same files some hundred times
def _parse(text: str) -> ast.Module:
    with PARSING:
        return ast.parse(text)


@cache
def _parameters(kind: Kind, name: str) -> type | None:
    body = kind._parsed(name).body
    found = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Parameters"]
    used = {node.id for part in found for node in ast.walk(part) if isinstance(node, ast.Name)}
    imports = [
        node
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and used & {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    ]
    namespace = {**kind.literals(name), "__name__": __name__}
    exec(compile(ast.Module([*imports, *found], []), name, "exec"), namespace)
    return cast("type | None", namespace.get("Parameters"))


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ProtocolError unless `name` is one of `known`.

    The error proposes the nearest known name. Where none is near it lists those that begin with
    `name`, or else all, but at most MOST_LISTED.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=NEAR)
    fitting = [one for one in known if name and one.startswith(name)] or known
    more = f" and {len(fitting) - MOST_LISTED:,} more" if len(fitting) > MOST_LISTED else ""
    listed = f"known: {', '.join(fitting[:MOST_LISTED])}{more}"
    hint = f"did you mean {near[0]}?" if near else listed
    raise ProtocolError(f"unknown {what} {name!r}; {hint}")


def _stem(name: str) -> str:
    return name.replace("-", "_")
