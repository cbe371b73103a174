"""Every error that Retort raises on purpose.

RetortError               one line for the user: the rule, the value received, the next command
├── ProtocolError         a protocol, recipe or record breaks a rule, or names something unknown
├── DataError             a data set is missing, empty, unreadable or too small
├── ArtifactError         a file that Retort keeps is missing, damaged or made for something else
├── StudyError            a study cannot be opened, resumed or owned
├── WorkerError           a worker died, or its job failed with an error of another class
└── DivergenceError       a run stopped being finite: a result of the recipe, not a fault
"""

import traceback
from collections.abc import Callable
from pathlib import Path


class RetortError(Exception):
    """Base of all errors whose message is meant for the user."""


class ProtocolError(RetortError):
    """A protocol, a recipe or a record breaks a rule, or names something unknown."""


class DataError(RetortError):
    """A data set is missing, empty, unreadable or too small for the protocol."""


class ArtifactError(RetortError):
    """A kept file is missing, damaged, or was made for something else."""


class StudyError(RetortError):
    """A study cannot be opened, resumed or owned."""


class WorkerError(RetortError):
    """A worker died, or its job failed with an error that is not a RetortError."""


class DivergenceError(RetortError):
    """A loss or the weights stopped being finite; the message names the step or the epoch."""


def require(rule: str, holds: bool, received: object) -> None:
    """Raise ProtocolError, with the rule and the value received, unless `holds`."""
    if not holds:
        raise ProtocolError(f"{rule}, got {received!r}")


def place_in(error: BaseException, own: Callable[[Path], str]) -> str:
    """Return where in the user's files an error was raised: `mine.py, line 7, in forward`.

    `own` maps a path to the user's name for that file, or to an empty string for any other file.
    Returns the deepest matching line of the error, else of its causes; empty if there is none.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if name := own(Path(frame.filename)):
                return f"{name}, line {frame.lineno}, in {frame.name}"
        if isinstance(link, SyntaxError) and link.filename and (name := own(Path(link.filename))):
            return f"{name}, line {link.lineno}, in <module>"
    return ""


def one_line(error: BaseException) -> str:
    """Return an error's type and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
