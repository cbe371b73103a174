"""Import a Python file and the modules beside it, isolated from all other imported modules.

Uses only the standard library, because an export contains a copy of this file.
"""

import builtins
import importlib
import secrets
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


class Importer(Loader):
    """Imports `files` (source by path below `folder`) as modules of a private package.

    Absolute imports in these files find each other first; no other module can import them. So two
    importers may each have a `blocks.py`, or a module with the name of an installed library.
    """

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.package = f"own_{secrets.token_hex(6)}"
        self._folder = folder.absolute()
        self._files = files
        self._tops = {file.partition("/")[0].removesuffix(".py") for file in files}
        sys.meta_path.insert(0, self)  # before the finders that would read the folder itself

    def load(self, name: str) -> ModuleType:
        """Import a module and everything that it imports; return the module."""
        return importlib.import_module(f"{self.package}.{name}")

    def named(self, path: Path) -> str:
        """Return the key in `files` of the file at `path`; empty if there is none."""
        return next((file for file in self._files if self._folder / file == path), "")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != self.package:
            return None
        stem = name.replace(".", "/")
        places = [str(self._folder / stem)]
        for file, inside in ((f"{stem}/__init__.py", places), (f"{stem}.py", None)):
            if file in self._files:
                place = self._folder / file
                return spec_from_file_location(
                    fullname, place, loader=self, submodule_search_locations=inside
                )
        if not name or any(file.startswith(f"{stem}/") for file in self._files):
            return ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
        return None

    def exec_module(self, module: ModuleType) -> None:
        path = Path(str(module.__file__))
        source = self._files[self.named(path)]  # the given bytes, never a .pyc file
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))

    def _import(
        self,
        name: str,
        within: Mapping[str, object] | None = None,
        variables: Mapping[str, object] | None = None,
        names: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Implement `import` for the files; arguments as those of Python's `__import__`."""
        top = name.partition(".")[0]
        if level or top not in self._tops:
            return builtins.__import__(name, within, variables, names, level)
        module = builtins.__import__(f"{self.package}.{name}", None, None, names)
        return module if names else sys.modules[f"{self.package}.{top}"]


def import_folder(folder: Path, name: str) -> ModuleType:
    """Import module `name` of a folder and all that it imports from there; return the module."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    return Importer(folder, {file: path.read_bytes() for file, path in files.items()}).load(name)
