"""Words of the command line made from named values: those of a config file, or of `study.run`."""

import argparse
import contextlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from conductor.command_line import flags
from conductor.command_line.places import settled_words
from kd.errors import ArtifactError, ProtocolError
from kd.protocol import Protocol
from kd.registry import check_name
from storage.files.artifacts import read_record
from storage.files.layout import whole_path

CONFIG = "--config"


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("values from a file").add_argument(
        CONFIG,
        metavar="FILE",
        help="a TOML file whose keys are names of flags, or the protocol.json of a study; flags "
        "given beside it win, and relative paths in it are relative to its folder",
    )


def with_config(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return arguments of a command where `--config FILE` is replaced by the words of the file.

    Values of flags that are given as well are left out. Raises ProtocolError for a file that cannot
    be read, an unknown key, and a value that its flag does not take.
    """
    rest, files = _split(arguments)
    if not files:
        return list(arguments)
    if len(files) > 1:
        raise ProtocolError(f"{CONFIG} takes one file, got {' and '.join(files)}; give it once")
    path = whole_path(files[0])
    known = _actions(parser)
    given = {
        known[name].dest
        for word in rest
        if (name := word.partition("=")[0].removeprefix("--")) in known and word.startswith("--")
    }
    values = _read(path)
    for name, value in values.items():
        if isinstance(value, dict):
            raise ProtocolError(f"{path} has a table, [{name}]; write its keys without tables")
        check_name(f"key of {path}", _dashed(name), [one for one in known if one != CONFIG[2:]])
    kept = {name: value for name, value in values.items() if known[_dashed(name)].dest not in given}
    words = words_of(parser, kept, f"{path}: ")
    with contextlib.chdir(path.parent):
        return [*settled_words(words), *rest]


def words_of(
    parser: argparse.ArgumentParser, values: Mapping[str, Any], where: str = ""
) -> list[str]:
    """Return the words of a command for values by names of flags, with dashes or underscores.

    Switches take true or false, flags that may be repeated and those with commas a list; None is as
    if the name were absent. Raises ProtocolError, which begins with `where`, for an unknown name or
    a value that is none of these.
    """
    known = _actions(parser)
    words: list[str] = []
    for name, value in values.items():
        check_name(f"{where}argument", _dashed(name), known)
        if value is not None:
            words += _words(_dashed(name), known[_dashed(name)], value, where)
    return words


def _words(name: str, action: argparse.Action, value: Any, where: str) -> Iterator[str]:
    """Yield the words that give a flag its value."""
    rule = f"{where}{name}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ProtocolError(f"{rule} must be true or false, got {value!r}")
        if value:
            yield f"--{name}"
        elif isinstance(action, argparse.BooleanOptionalAction):
            yield f"--{name.removeprefix('no-')}" if name.startswith("no-") else f"--no-{name}"
        return
    if not isinstance(value, list | tuple):
        yield from _pair(name, _text(rule, value))
    elif isinstance(action, flags.Repeated):
        for one in value:
            yield from _pair(name, _text(rule, one))
    elif action.type is flags.comma_separated:
        if value:  # else the default
            yield from _pair(name, ",".join(_text(rule, one) for one in value))
    else:
        raise ProtocolError(f"{rule} takes one value, got {value!r}")


def _pair(name: str, text: str) -> Iterator[str]:
    if text.startswith("-"):
        yield f"--{name}={text}"
    else:
        yield from (f"--{name}", text)


def _text(rule: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | PathLike):
        raise ProtocolError(f"{rule} takes a text or a number, got {value!r:.100}")
    return str(value)


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return a command's flags, by their names without dashes in front."""
    return {
        option.removeprefix("--"): action
        for option, action in parser._option_string_actions.items()
        if option.startswith("--") and option != "--help"
    }


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without `--config`, and its values."""
    rest: list[str] = []
    files: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, text = word.partition("=")
        if name != CONFIG:
            rest.append(word)
        elif (file := text if equals else next(words, "")) and not file.startswith("--"):
            files.append(file)
        else:
            raise ProtocolError(f"{CONFIG} takes a file, as in {CONFIG} study.toml")
    return rest, files


def _read(path: Path) -> dict[str, Any]:
    """Read a TOML file, or the protocol.json of a study."""
    if path.suffix == ".json":
        if not path.is_file():
            raise ProtocolError(f"{CONFIG} {path} is not a file")
        try:
            return read_record(path, Protocol).to_json()
        except ArtifactError:
            raise ProtocolError(
                f"{CONFIG} {path} is not the protocol.json of a study, or was edited; give what "
                "differs as flags, or write a TOML file"
            ) from None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProtocolError(f"{CONFIG} {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, or of the encoding
        raise ProtocolError(f"{CONFIG} {path} is not valid TOML: {error}") from None
