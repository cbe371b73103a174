"""The flags of the command line, made from annotated fields.

A field of the protocol has a flag; an option of a run has one where it is
annotated with a `conductor.request.Flag`. Only flags that set no single field are written here.
"""

import argparse
import dataclasses
import types
import typing
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import Any

from conductor.command_line.presets import PRESETS
from conductor.request import EVIDENCE, KEPT, Flag, Request
from kd.protocol import Protocol
from kd.registry import Kind, check_name
from search_spaces import SPACES

# a second flag for a field, which may be repeated
SINGULAR = {"teachers": "--teacher", "students": "--student"}


class Repeated(argparse.Action):
    """A flag that may be repeated; the option is a list of all its values."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest) or []
        more = values if isinstance(values, tuple) else (values,)
        setattr(namespace, self.dest, [*before, *more])


def add_study_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("which study")
    group.add_argument("--name", help="the study's name (default: that of its preset or data)")
    _add_place_flags(group)


def add_place_flags(parser: ArgumentParser) -> None:
    _add_place_flags(parser.add_argument_group("which studies"))


def _add_place_flags(group: Any) -> None:
    group.add_argument("--root", default="runs", help="folder of all studies (default: runs)")
    _add_options(group, "study")


def add_search_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument(
        "--arms",
        type=comma_separated,
        help=f"arms, separated by commas (default: scheduled,plain){listed(SPACES)}",
    )
    group.add_argument(
        "--space",
        action=Repeated,
        metavar="FILE",
        help="a Python file with a search space of your own, as an arm; repeatable",
    )
    _add_options(group, "search")


def add_comparison_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("comparison")
    levels = ", ".join(f"{level} for {seeds}" for level, seeds in EVIDENCE.items())
    _add_options(group, "comparison")
    group.add_argument(
        "--evidence",
        dest="seeds",
        type=_evidence,
        default=argparse.SUPPRESS,
        metavar="LEVEL",
        help=f"number of seeds by name: {levels}",
    )


def add_worker_flags(parser: ArgumentParser) -> None:
    _add_options(parser.add_argument_group("workers"), "workers")


def add_cache_flags(parser: ArgumentParser) -> None:
    _add_options(parser.add_argument_group("teacher cache"), "cache")


def add_protocol_flags(parser: ArgumentParser) -> None:
    """Add a flag for every field of the protocol; its default is the preset's value."""
    group = parser.add_argument_group("protocol, fixed for the whole study")
    group.add_argument("--preset", help=f"protocol to begin with: {', '.join(PRESETS.names)}")
    for name, hint in typing.get_type_hints(Protocol, include_extras=True).items():
        kind, *parts = typing.get_args(hint)
        text = "".join(part if isinstance(part, str) else listed(part) for part in parts)
        _add_flag(group, name, kind, text)


def add_report_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "studies",
        nargs="*",
        metavar="STUDY",
        help="names of studies; several are compared on one page",
    )
    parser.add_argument(
        "--format",
        type=one_of("format", ("html", "markdown", "json")),
        default="html",
        help="html writes the report; markdown (for a pull request) and json print the findings "
        "(default: html)",
    )


def add_server_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to serve (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=whole_number, default=8080, help="port to serve (default: 8080)"
    )


def add_verify_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rows",
        type=whole_number,
        default=64,
        help="random images to compare of each view (default: 64)",
    )


def add_export_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what is exported")
    group.add_argument(
        "--finalist",
        metavar="FINALIST",
        help="its folder's name, as in scheduled-00017 (default: the tuned recipe of the verdict)",
    )
    group.add_argument(
        "--out", metavar="DIR", help="a new folder (default: one in the study's, under export/)"
    )
    group.add_argument(
        "--format",
        type=one_of("format", ("safetensors", "onnx")),
        default="safetensors",
        help="safetensors, or onnx, which adds student.onnx and needs the extra `export` "
        "(default: safetensors)",
    )


def add_reproduce_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("which run")
    either = group.add_mutually_exclusive_group(required=True)
    either.add_argument("--trial", type=whole_number, help="number of a trial of the search")
    either.add_argument("--finalist", help="a finalist, as in scheduled-00017")
    group.add_argument("--arm", help="the trial's arm (default: the first that distils)")
    group.add_argument(
        "--replicate",
        type=whole_number,
        default=0,
        help="the finalist's run, from 0 (default: 0)",
    )


def listed(kind: Kind) -> str:
    """Return the names of a kind's members and what each is, for the help of its flag."""
    members = ", ".join(f"{name} ({kind.describe(name)})" for name in kind.names)
    return f": {members}".replace("%", "%%")


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the names in a flag's value. Raises ArgumentTypeError where there are none."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ArgumentTypeError(f"takes names separated by commas, got {text!r}")
    return names


def whole_number(text: str) -> int:
    """Return the number in a flag's value. Raises ArgumentTypeError where it is none."""
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def number(text: str) -> float:
    """Return the number in a flag's value. Raises ArgumentTypeError where it is none."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None


def one_of(what: str, known: tuple[str, ...]) -> Callable[[str], str]:
    """Return a type of argparse that takes one of `known`."""

    def check(text: str) -> str:
        check_name(what, text, known)
        return text

    return check


def _add_options(group: Any, title: str) -> None:
    """Add the flags of the options of a run that are listed in the group `title`."""
    hints = typing.get_type_hints(Request, include_extras=True)
    for item in dataclasses.fields(Request):
        kind, *notes = typing.get_args(hints[item.name]) or (None,)
        for flag in notes:
            if not isinstance(flag, Flag) or flag.group != title:
                continue
            shown = item.default not in ("", None, False, ()) and "(default:" not in flag.help
            text = flag.help + "".join(listed(note) for note in notes if isinstance(note, Kind))
            text = f"{text} (default: {item.default})" if shown else text
            default = None if item.name in KEPT else item.default
            if kind is bool:
                group.add_argument(_spelled(item.name), action="store_true", help=text)
            elif typing.get_origin(kind) is tuple:
                more = {"action": Repeated, "metavar": flag.metavar, "default": default}
                group.add_argument(_spelled(item.name), help=text, **more)
            else:
                _add_flag(group, item.name, kind, text, default, flag.read)


def _add_flag(
    group: Any,
    name: str,
    hint: Any,
    text: str,
    default: Any = None,
    read: Callable[[str], Any] | None = None,
) -> None:
    """Add the flag of one field, which reads values of the field's type."""
    flags = [flag for flag in (SINGULAR.get(name), _spelled(name)) if flag]
    if hint is bool:
        more: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    elif name == "teacher_weights":  # files, whose names may have commas
        more = {"action": Repeated}
    elif name in SINGULAR:
        more = {"action": Repeated, "type": comma_separated, "metavar": "MODEL"}
    else:
        more = {"type": read or _reader(hint)}
    group.add_argument(*flags, dest=name, default=default, help=text, **more)


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _reader(hint: Any) -> Callable[[str], Any]:
    """Return what reads a flag's text as a value of a type: str, int, float, one of them or None,
    or names separated by commas.
    """
    if typing.get_origin(hint) is tuple:
        return comma_separated
    if isinstance(hint, types.UnionType):
        [hint] = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if hint is int:
        return whole_number
    return number if hint is float else typing.cast(Callable[[str], Any], hint)


def _evidence(level: str) -> int:
    check_name("level of evidence", level, EVIDENCE)
    return EVIDENCE[level]
