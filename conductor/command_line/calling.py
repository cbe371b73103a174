"""A study from Python: `import study; report = study.run(trials=20, dataset="digits")`."""

import argparse
import functools
import inspect
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conductor.command_line import cli
from conductor.command_line.words import words_of
from kd.errors import ProtocolError

if TYPE_CHECKING:
    from reports.write.result import Report

LIBRARIES = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "stdlib"))


def run(**values: Any) -> "Report":
    """Run a study, as `python study.py run` does, and return what it found.

    Arguments are the flags of the command, with underscores for dashes: texts and numbers, lists
    for flags that take several values, True or False for switches. A model, or another thing that a
    flag takes as `mine.py:function`, may be a function that was imported from a file. Prints
    progress as the command does, and writes the same files.

    Raises RetortError for an error of the user's. KeyboardInterrupt passes through, and finished
    work is kept: the same call continues.
    """
    words = words_of(
        cli.parser_of("run"), {name: _named(name, value) for name, value in values.items()}
    )
    try:
        options = cli.read_options(["run", *words])
    except argparse.ArgumentError as error:
        raise ProtocolError(str(error)) from None
    from conductor.command_line import commands

    return commands.run_study(options).report


def _named(name: str, value: Any) -> Any:
    """Return a value with `path.py:function` for each function."""
    if isinstance(value, list | tuple):
        return [_named(name, one) for one in value]
    return _path_of(name, value) if callable(value) else value


def _path_of(name: str, function: Callable[..., Any]) -> str:
    """Return `path.py:function`, or the path alone for the `suggest` of a search space.

    Raises ProtocolError for a function that workers could not import by its name from a file.
    """
    what = getattr(function, "__qualname__", repr(function))
    if isinstance(function, functools.partial):
        what = "functools.partial(…)"
    module = getattr(function, "__module__", None)
    if module == "__main__" or not what.isidentifier():
        raise ProtocolError(
            f"{name} = {what}: workers cannot import a lambda, or a function of a script, a "
            "notebook or another function; define it in a file of its own, such as mine.py, and "
            f"pass {name}='mine.py:{what if what.isidentifier() else 'function'}' or import it"
        )
    file = inspect.getsourcefile(function)
    path = Path(file).resolve() if file else Path()
    if path.suffix != ".py" or any(path.is_relative_to(folder) for folder in LIBRARIES):
        raise ProtocolError(
            f"{name} = {module}.{what} is a function of a library; pass a name such as "
            f"'torchvision:resnet18', or a function of your own file that calls it"
        )
    if name != "space":
        return f"{path}:{what}"
    if what != "suggest":
        raise ProtocolError(f"space = {what}: the function of a search space is named suggest")
    return str(path)
