"""Changes of any search space by `--fix lr=0.05` and `--range temperature=2:6`.

A name matches the parameter of that name, and `temperature` the ends of a schedule too:
`temperature_initial` and `temperature_final`. A flag that names one of these exactly comes first.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd.errors import ProtocolError
from kd.registry import check_name
from search_spaces.context import StudyContext

ENDS = ("_initial", "_final")  # of a schedule's parameters
SHAPE, CONSTANT = "_shape", "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRecipe:
    """A recipe of another study that a space tries after its own: a title and its parameters.

    `fix` has the values that the other study fixed, as `Changes.fix`.
    """

    title: str
    parameters: Mapping[str, Any]
    fix: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The values of fixed parameters, as text, and the ends of the ranges of others.

    `warm` has recipes of other studies by the names of their arms and the digests of their spaces.
    """

    fix: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    warm: Mapping[str, WarmRecipe] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.fix or self.ranges or self.warm)

    def fixed(self, name: str, choices: Sequence[Any] = ()) -> str | None:
        """Return the value of a fixed parameter, None for another.

        A schedule whose value is fixed has the shape `constant`, where that is a choice.
        """
        if name in self.fix:
            return self.fix[name]
        if name in self.ranges or not isinstance(name, str):
            return None
        base = name.removesuffix(SHAPE)
        if base != name:
            own = {f"{base}{end}" for end in ENDS} & {*self.fix, *self.ranges}
            return CONSTANT if base in self.fix and CONSTANT in choices and not own else None
        return self.fix.get(_base(name))

    def ends(self, name: str, low: float, high: float) -> tuple[float, float]:
        """Return the ends of a parameter's range; `low` and `high` are those of the space."""
        return self.ranges.get(name) or self.ranges.get(_base(name)) or (low, high)

    def matches(self, parameters: Iterable[str]) -> dict[str, list[str]]:
        """Return the parameters that each flag changes, by flag: `--fix lr=0.05`."""
        names = list(parameters)
        found = {}
        for flag, name in self.flags.items():
            others = {*self.fix, *self.ranges} - {name}
            found[flag] = [
                one for one in names if one == name or (_base(one) == name and one not in others)
            ]
        return found

    @property
    def flags(self) -> dict[str, str]:
        """The name of each flag's parameter, by flag."""
        ranges = {name: range_text(name, ends) for name, ends in self.ranges.items()}
        return {f"--fix {name}={value}": name for name, value in self.fix.items()} | {
            f"--range {text}": name for name, text in ranges.items()
        }


def read_changes(fix: Sequence[str], ranges: Sequence[str]) -> Changes:
    """Return the changes of the flags' texts: `lr=0.05`, `temperature=2:6`.

    Raises ProtocolError for a text of another form, a name that is given twice, and for low > high.
    """
    fixed: dict[str, str] = {}
    ends: dict[str, tuple[float, float]] = {}
    for text in fix:
        name, value = _parts("--fix", text, "lr=0.05")
        if name in fixed:
            raise ProtocolError(
                f"--fix {name} is given twice, got {fixed[name]!r} and {value!r}; give it once"
            )
        fixed[name] = value
    for text in ranges:
        name, value = _parts("--range", text, "temperature=2:6")
        if name in ends:
            raise ProtocolError(
                f"--range {name} is given twice, got {range_text(name, ends[name])!r} and "
                f"{text!r}; give it once"
            )
        ends[name] = _read_ends(text, value)
    if both := sorted({*fixed} & {*ends}):
        raise ProtocolError(f"--fix and --range both name {both[0]}; give one of them")
    return Changes(fix=fixed, ranges=ends)


def written(changes: Changes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of `--fix` and of `--range` in one spelling, sorted by name."""
    fix = (f"{name}={spelled(value)}" for name, value in sorted(changes.fix.items()))
    ranges = (range_text(name, ends) for name, ends in sorted(changes.ranges.items()))
    return tuple(fix), tuple(ranges)


def check_known(changes: Changes, parameters: Iterable[str], study: StudyContext) -> None:
    """Raise ProtocolError for a flag whose name is that of no parameter of any arm."""
    names = {*parameters}
    schedules = {_base(name) for name in names}
    decided = {}  # what a study decides, so that it is no parameter
    for name, known in (("student", study.students), ("teacher", study.teachers)):
        if len(known) == 1:
            decided[name] = f"{known[0]} is the only one; omit the flag, or name several {name}s"
    if study.loss:
        loss = study.loss.partition("@")[0]
        decided["soft_kind"] = f"--loss {loss} gives every recipe its soft loss; omit one of them"
    for flag, name in changes.flags.items():
        if name in decided and name not in names:
            raise ProtocolError(f"{flag}: {decided[name]}")
        check_name(f"parameter of {flag.split()[0]}", name, sorted(names | schedules))


def _base(name: str) -> str:
    """Return the name of the schedule whose end a parameter is, or else the name itself."""
    if isinstance(name, str):
        for end in ENDS:
            if name.endswith(end):
                return name.removesuffix(end)
    return name


def _parts(flag: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise ProtocolError(
            f"{flag} takes a parameter and its value, as in {example}, got {text!r}"
        )
    return name, value


def _read_ends(text: str, value: str) -> tuple[float, float]:
    low, colon, high = value.partition(":")
    if not colon:
        raise ProtocolError(f"--range takes two ends, as in temperature=2:6, got {text!r}")
    ends = number(f"--range {text}", low), number(f"--range {text}", high)
    if ends[0] > ends[1]:
        raise ProtocolError(f"--range takes the lower end first, got {text!r}")
    return ends


def number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProtocolError(f"{flag} takes finite numbers, got {text!r}")
    return value


def spelled(text: str) -> str:
    """Return a number in Python's spelling, so that 5e-2 is 0.05; other texts as they are."""
    try:
        value = float(text)
    except ValueError:
        return text
    return _plain(value) if math.isfinite(value) else text


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def range_text(name: str, ends: tuple[float, float]) -> str:
    return f"{name}={_plain(ends[0])}:{_plain(ends[1])}"
