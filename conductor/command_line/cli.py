"""The command line: `python study.py --trials N` runs a study, other commands look after it.

Torch, Optuna and plotly are imported by the commands that need them, so `--help` is instant.
"""

import argparse
import difflib
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from conductor.command_line.flags import (
    REPEATABLE,
    add_cache_flag,
    add_comparison_flags,
    add_export_flags,
    add_machine_flags,
    add_place_flags,
    add_protocol_flags,
    add_reproduce_flags,
    add_run_flags,
    add_study_flags,
    add_worker_flags,
    comma_separated,
)
from conductor.command_line.places import settle_paths
from kd.errors import RetortError, one_line

DESCRIPTION = """\
Runs hyperparameter studies for knowledge distillation, and compares at the end honestly.

  python study.py --trials 20                    a whole study, in minutes on two cores
  python study.py --trials 100 --preset cifar10  ResNet50 to ResNet18 on CIFAR-10
  python study.py run --help                     every flag of a study
"""
INTERRUPTED = 130  # exit code of a shell command ended by Ctrl-C


class Parser(argparse.ArgumentParser):
    """An argument parser that fails in one line, naming the nearest flag that it knows."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; fails for a flag that is given again, of which argparse takes the last value."""
        parsed = super().parse_known_args(args, namespace)
        self._check_given_once(list(args))
        return parsed

    def _check_given_once(self, words: list[str]) -> None:
        given: dict[str, tuple[str, str]] = {}  # by what it sets: the flag, and its value
        for place, word in enumerate(words):
            flag, equals, value = word.partition("=")
            action = self._option_string_actions.get(flag)
            if word == "--":  # what follows are no flags
                return
            if action is None or action.dest in REPEATABLE:
                continue
            if not equals and action.nargs != 0:
                value = words[place + 1]
            if action.dest in given:
                self.error(_given_again(*given[action.dest], flag, value, action))
            given[action.dest] = flag, value

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            options = [*self._flags(known)]
            near = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1, cutoff=0.5)
            page = f"python study.py {known.command} --help"
            hint = f"; did you mean {near[0]}?" if near else f"; see: {page}"
            self.error(f"unknown argument {_masked(unknown)[0]}{hint}")
        return known

    @staticmethod
    def _flags(known: argparse.Namespace) -> list[str]:
        names = [name for name in vars(known) if name not in ("command", "run", "studies")]
        return [f"--{name.replace('_', '-')}" for name in names]


def _given_again(first: str, one: str, second: str, other: str, action: argparse.Action) -> str:
    """Say which flag is given again, with both values, and what to do."""
    received = (
        ""
        if action.nargs == 0
        else ", got {1!r} and {3!r}".format(*_masked([first, one, second, other]))
    )
    if first != second:
        return f"{second} is not allowed with {first}{received}; give one of them"
    how = ", with commas between names" if action.type is comma_separated else ""
    takes = "is given twice" if action.nargs == 0 else "takes one value"
    return f"{first} {takes}{received}; give it once{how}"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for an error, 130 for Ctrl-C.

    An error is one line. Where it is a fault of ours, the line names a file with the traceback.
    `reproduce` has 1 for a run that came out otherwise, `doctor` for a part that does not work.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = _parser().parse(_with_command(arguments))
        settle_paths(options)
        return int(options.run(options, arguments))
    except (RetortError, argparse.ArgumentError) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"study.py: {error.name} is not installed for {sys.executable}; after make install it "
            "is for .venv/bin/python",
            file=sys.stderr,
        )
        return 2
    except OSError as error:  # what a machine lacks is no bug: a disk, a right, a reader of a pipe
        where = f": {error.filename}" if error.filename else ""
        print(f"study.py: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        line = shlex.join(["python", "study.py", *_masked(arguments)])
        print(
            f"study.py: interrupted; what is finished is kept, go on with: {line}", file=sys.stderr
        )
        return INTERRUPTED
    except Exception as error:
        from storage.files.layout import Layout
        from storage.files.logs import keep_traceback

        kept = keep_traceback(Layout(Path(getattr(options, "root", "runs"))), error)
        print(f"study.py: a fault of Retort itself: {one_line(error)}; {kept}", file=sys.stderr)
        return 2


def _masked(arguments: list[str]) -> list[str]:
    """Return the arguments without the passwords of URLs, which belong into no log."""
    if not any("://" in word or "--storage" in word for word in arguments):
        return arguments
    from conductor.stages.provenance import masked

    return masked(arguments)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _with_command(arguments: list[str]) -> list[str]:
    """Put `run` in front unless a command is named: flags alone run a study."""
    if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help")):
        return arguments
    if arguments and not arguments[0].startswith("-"):
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise argparse.ArgumentError(None, f"unknown command {_masked(arguments)[0]}; {hint}")
    return ["run", *arguments]


def _parser() -> Parser:
    parser = Parser(
        prog="study.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (text, add_flags, command) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_flags(sub)
        sub.set_defaults(run=command)
    return parser


def _run_flags(parser: argparse.ArgumentParser) -> None:
    add_study_flags(parser)
    add_run_flags(parser)
    add_protocol_flags(parser)


def _confirm_flags(parser: argparse.ArgumentParser) -> None:
    add_study_flags(parser)
    add_comparison_flags(parser)
    add_machine_flags(parser)


def _report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "studies",
        nargs="*",
        metavar="STUDY",
        help="names of studies; of several, a page that shows them side by side",
    )
    add_study_flags(parser)
    parser.add_argument(
        "--format",
        choices=("html", "markdown", "json"),
        default="html",
        help="html writes the report; markdown (for a pull request) and json print what was found "
        "(default: html)",
    )


def _dashboard_flags(parser: argparse.ArgumentParser) -> None:
    add_study_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to serve (default: 8080)")


def _verify_flags(parser: argparse.ArgumentParser) -> None:
    add_study_flags(parser)
    parser.add_argument(
        "--rows", type=int, default=64, help="random images to ask about in each view (default: 64)"
    )
    add_worker_flags(parser)


def _export_flags(parser: argparse.ArgumentParser) -> None:
    add_study_flags(parser)
    add_export_flags(parser)
    add_worker_flags(parser)


def _reproduce_flags(parser: argparse.ArgumentParser) -> None:
    add_study_flags(parser)
    add_reproduce_flags(parser)
    add_worker_flags(parser)


def _doctor_flags(parser: argparse.ArgumentParser) -> None:
    add_place_flags(parser)
    add_worker_flags(parser)
    add_cache_flag(parser)


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import run

    return run(options, arguments)


def _confirm(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import confirm

    return confirm(options, arguments)


def _report(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import report

    return report(options)


def _dashboard(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import dashboard

    return dashboard(options)


def _verify(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import verify

    return verify(options)


def _export(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import export

    return export(options)


def _reproduce(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import reproduce

    return reproduce(options)


def _doctor(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import doctor

    return doctor(options)


def _presets(options: argparse.Namespace, arguments: list[str]) -> int:
    from conductor.command_line.commands import presets

    return presets()


AddFlags = Callable[[Any], None]
Command = Callable[[argparse.Namespace, list[str]], int]
COMMANDS: dict[str, tuple[str, AddFlags, Command]] = {
    "run": ("Run a study: teacher, cache, search, confirmation, report.", _run_flags, _run),
    "confirm": ("Confirm the winners of a study that is there.", _confirm_flags, _confirm),
    "report": ("Write a study's report, or compare studies.", _report_flags, _report),
    "dashboard": ("Browse all studies with optuna-dashboard.", _dashboard_flags, _dashboard),
    "verify": ("Check the teacher cache against the teacher.", _verify_flags, _verify),
    "export": ("Take a confirmed student away, with its card.", _export_flags, _export),
    "reproduce": ("Train one run again, and compare.", _reproduce_flags, _reproduce),
    "doctor": ("Examine this machine, and try every part.", _doctor_flags, _doctor),
    "presets": ("List the presets.", lambda parser: None, _presets),
}
