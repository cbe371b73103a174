"""The command line: parses `python study.py …`, runs one command, prints errors on one line.

Torch, Optuna and plotly are imported by the commands that need them, so `--help` is instant.
"""

import argparse
import importlib
import io
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from conductor.command_line import flags
from conductor.command_line.places import settle_paths
from conductor.command_line.words import add_config_flag, with_config
from kd.errors import RetortError, one_line
from kd.registry import check_name

DESCRIPTION = """\
Runs hyperparameter studies for knowledge distillation, and compares the best recipes fairly.

  python study.py --trials 20                    a whole study, in minutes on two cores
  python study.py --trials 100 --preset cifar10  ResNet50 to ResNet18 on CIFAR-10
  python study.py run --help                     every flag of a study
"""
INTERRUPTED = 130  # exit code of a shell command ended by Ctrl-C


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors, and rejects a flag that is given twice."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse. Raises ArgumentError for a flag given twice; argparse would take the last."""
        parsed = super().parse_known_args(args, namespace)
        self._check_given_once(list(args))
        return parsed

    def _check_given_once(self, words: list[str]) -> None:
        given: dict[str, tuple[str, str]] = {}  # by option: flag and value
        for place, word in enumerate(words):
            flag, equals, value = word.partition("=")
            action = self._option_string_actions.get(flag)
            if word == "--":  # no flags follow
                return
            if action is None or isinstance(action, flags.Repeated):
                continue
            if not equals and action.nargs != 0:
                value = words[place + 1]
            if action.dest in given:
                self.error(_given_twice(*given[action.dest], flag, value, action))
            given[action.dest] = flag, value

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse. Raises ProtocolError for an unknown flag, ArgumentError for a word without one."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            word = _masked(unknown)[0].partition("=")[0]
            if word in COMMANDS:
                self.error(f"the command {word} must come first, before its flags")
            if not word.startswith("-"):
                self.error(
                    f"{known.command} takes flags alone, got {word!r}; list them with --help"
                )
            check_name("argument", word, self._flags_of(known.command))
        return known

    def _flags_of(self, command: str) -> list[str]:
        parser = _command_parser(self, command)
        return [flag for flag in parser._option_string_actions if flag.startswith("--")]


def _given_twice(first: str, value: str, second: str, other: str, action: argparse.Action) -> str:
    """Return the error for a flag that is given twice, with both values."""
    received = (
        ""
        if action.nargs == 0
        else ", got {1!r} and {3!r}".format(*_masked([first, value, second, other]))
    )
    if first != second:
        return f"{second} is not allowed with {first}{received}; give one of them"
    how = ", with commas between names" if action.type is flags.comma_separated else ""
    takes = "is given twice" if action.nargs == 0 else "takes one value"
    return f"{first} {takes}{received}; give it once{how}"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for an error, 130 for Ctrl-C.

    An error is printed on one line; for a bug of Retort the line names a file with the traceback.
    `reproduce` returns 1 for a different result, `doctor` for a part that fails.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace()  # while they cannot be read
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few letters
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = read_options(arguments)
        commands = importlib.import_module("conductor.command_line.commands")
        return int(getattr(commands, options.command)(options))
    except (RetortError, argparse.ArgumentError) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"study.py: {error.name} is not installed for {sys.executable}; run: make install, "
            "and use .venv/bin/python",
            file=sys.stderr,
        )
        return 2
    except OSError as error:  # not a bug: a full disk, a missing permission
        where = f": {error.filename}" if error.filename else ""
        print(f"study.py: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        line = shlex.join(["python", "study.py", *_masked(arguments)])
        print(
            f"study.py: interrupted; finished work is kept; to continue, run: {line}",
            file=sys.stderr,
        )
        return INTERRUPTED
    except Exception as error:
        from storage.files.layout import Layout
        from storage.files.logs import keep_traceback

        kept = keep_traceback(Layout(Path(getattr(options, "root", "runs"))), error)
        print(f"study.py: a bug of Retort: {one_line(error)}; {kept}", file=sys.stderr)
        return 2


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Return the options of one command, with the values of its `--config` and absolute paths.

    `words` are the arguments with those values. Raises RetortError or argparse.ArgumentError.
    """
    parser = _parser()
    command, *words = _with_command(arguments)
    named = [] if arguments[:1] != [command] else [command]
    if command == "run":
        words = with_config(words, _command_parser(parser, command))
    options = parser.parse([command, *words])
    options.words = [*named, *words]
    settle_paths(options)
    return options


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command's flags."""
    return _command_parser(_parser(), command)


def _command_parser(parser: Parser, command: str) -> Parser:
    [commands] = [action for action in parser._actions if action.dest == "command"]
    found: Parser = (commands.choices or {})[command]  # type: ignore[index]
    return found


def _masked(arguments: list[str]) -> list[str]:
    """Return the arguments without passwords in URLs."""
    if not any("://" in word or "--storage" in word for word in arguments):
        return arguments
    from storage.studies.urls import masked

    return masked(arguments)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _with_command(arguments: list[str]) -> list[str]:
    """Put `run` in front unless a command is named: flags alone run a study."""
    if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help")):
        return arguments
    if arguments and not arguments[0].startswith("-"):
        check_name("command", _masked(arguments)[0], COMMANDS)
    return ["run", *arguments]


def _parser() -> Parser:
    parser = Parser(
        prog="study.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (text, groups) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for add_flags in groups:
            add_flags(sub)
    return parser


AddFlags = Callable[[argparse.ArgumentParser], None]
# Each command: its help, and its groups of flags; `conductor.command_line.commands` has a function
# of the same name.
COMMANDS: dict[str, tuple[str, tuple[AddFlags, ...]]] = {
    "run": (
        "Run a study: teacher, cache, search, confirmation, report.",
        (
            flags.add_study_flags,
            add_config_flag,
            flags.add_search_flags,
            flags.add_comparison_flags,
            flags.add_worker_flags,
            flags.add_cache_flags,
            flags.add_protocol_flags,
        ),
    ),
    "confirm": (
        "Confirm the winners of an existing study.",
        (
            flags.add_study_flags,
            flags.add_comparison_flags,
            flags.add_worker_flags,
        ),
    ),
    "report": (
        "Write a study's report, or compare studies.",
        (flags.add_study_flags, flags.add_report_flags),
    ),
    "dashboard": (
        "Browse all studies with optuna-dashboard.",
        (flags.add_study_flags, flags.add_server_flags),
    ),
    "verify": (
        "Compare the teacher cache with the teacher.",
        (flags.add_study_flags, flags.add_verify_flags, flags.add_worker_flags),
    ),
    "export": (
        "Export a confirmed student, with its model card.",
        (flags.add_study_flags, flags.add_export_flags, flags.add_worker_flags),
    ),
    "reproduce": (
        "Train one run again, and compare it with its record.",
        (flags.add_study_flags, flags.add_reproduce_flags, flags.add_worker_flags),
    ),
    "doctor": (
        "Describe this machine, and test every part of Retort on it.",
        (flags.add_place_flags, flags.add_worker_flags, flags.add_cache_flags),
    ),
    "presets": ("List the presets.", ()),
}
