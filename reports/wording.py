"""Numbers as text, in the report and in what a study prints."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from kd.errors import ProtocolError
from kd.metrics import POINTS, load_metric, score_range
from kd.model_rules import is_teacher
from kd.names import DIGEST_LENGTH

SIZES = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
MINUS = "−"
NONE = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A study's metric in words; values in 0-1 are shown in per cent, and differ by points.

    Of scores higher is always better (`kd.training.scoring.scores`). Where lower values are better,
    scores have the sign turned, and it is turned back here: values and differences are shown as the
    metric's own.
    """

    name: str
    unit: str  # of differences
    worst: float  # the least mean of scores
    best: float
    lower: bool = False  # whether lower values are better

    @property
    def sign(self) -> int:
        """Of values: what a score is multiplied by to be one."""
        return -1 if self.lower else 1

    @property
    def scale(self) -> float:
        """What a score, or a difference of scores, is multiplied by where it is drawn."""
        return self.sign * (100.0 if self.unit == POINTS else 1.0)

    @property
    def is_share(self) -> bool:
        """Whether values lie in 0-1, and 1 is best."""
        return (self.worst, self.best) == (0.0, 1.0)

    @property
    def symbol(self) -> str:
        """The unit of values."""
        return "%" if self.unit == POINTS else self.unit

    @property
    def maximised(self) -> str:
        """What the search maximises."""
        return f"{self.name}, sign turned" if self.lower else self.name

    def of(self, part: str) -> str:
        """The title of an axis or a column of values: test accuracy, %"""
        return f"{part} {self.name}{self.symbol and f', {self.symbol}'}{self._direction}"

    def difference(self, what: str) -> str:
        """The title of an axis or a column of differences: difference to the winner, points"""
        return f"{self.in_unit(what)}{self._direction}"

    def in_unit(self, what: str) -> str:
        """The title of a column of amounts: detectable, points"""
        return f"{what}{self.unit and f', {self.unit}'}"

    @property
    def _direction(self) -> str:
        return " (lower is better)" if self.lower else ""

    def value(self, score: float | None, digits: int = 2) -> str:
        """0.9721 -> 97.21 %"""
        return NONE if score is None else self.with_symbol(self.level(score, digits))

    def with_symbol(self, text: str) -> str:
        """97.21 ± 0.32 -> 97.21 ± 0.32 %; as it is, for a metric without a unit."""
        return f"{text} {self.symbol}".rstrip()

    def level(self, score: float | None, digits: int = 2) -> str:
        """0.9721 -> 97.21: a value without its unit."""
        return self._written(None if score is None else self.scale * score, digits)

    def number(self, difference: float | None, *, sign: bool = False) -> str:
        """0.0102 -> 1.02, an amount without its unit; with `sign` +1.02, a difference of values."""
        scale = self.scale if sign else abs(self.scale)
        return self._written(None if difference is None else scale * difference, 2, sign)

    def amount(self, difference: float) -> str:
        """-0.0102 -> 1.02 points: how large a difference is."""
        return f"{self.number(abs(difference))} {self.unit}".rstrip()

    def amounts(self, low: float, high: float) -> str:
        """(0.008, 0.0235) -> 0.80 to 2.35: the ends of a range of amounts, without their unit."""
        return f"{self.number(low)} to {self.number(high)}"

    def change(self, difference: float) -> str:
        """0.0102 -> +1.02 points"""
        return f"{self.number(difference, sign=True)} {self.unit}".rstrip()

    def _written(self, shown: float | None, digits: int, sign: bool = False) -> str:
        return signed(shown, sign=sign, digits=digits if self.unit == POINTS else digits + 1)

    def margin(self, margin: float) -> str:
        """0.5 -> ±0.5 points; a margin is in units already."""
        return f"±{figure(margin)} {self.unit}".rstrip()

    def ends(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of scores, or of a difference, as they are drawn."""
        one, other = sorted((self.scale * low, self.scale * high))
        return one, other

    def interval(self, low: float, high: float, *, sign: bool = True) -> str:
        """(-0.001, 0.012) -> −0.10 to +1.20, of a difference; without `sign`, of a value."""
        return " to ".join(self._written(end, 2, sign) for end in self.ends(low, high))

    def spread(self, mean: float | None, deviation: float | None) -> str:
        """A value with its deviation, without their unit: 97.21 ± 0.32"""
        text = self.level(mean)
        return text if deviation is None else f"{text} ± {self.number(deviation)}"


@cache
def measure(metric: str) -> Measure:
    """Return the words of a metric by its name."""
    module = load_metric(metric)
    worst, best = score_range(metric)
    lower = module.RANGE[0] > module.RANGE[1]
    return Measure(name=module.NAME, unit=module.UNIT, worst=worst, best=best, lower=lower)


def percent(share: float | None, digits: int = 2) -> str:
    """0.9721 -> 97.21 %"""
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def points(share: float | None, *, sign: bool = False, digits: int = 2) -> str:
    """0.0102 -> 1.02, in points; with `sign` +1.02."""
    return signed(None if share is None else 100 * share, sign=sign, digits=digits)


def signed(value: float | None, *, sign: bool, digits: int) -> str:
    """1.0234 -> 1.02, with `sign` +1.02; what rounds to 0 has no sign."""
    if value is None:
        return NONE
    rounded = round(value, digits) + 0.0
    text = f"{abs(rounded):.{digits}f}"
    if rounded < 0:
        return MINUS + text
    return f"+{text}" if sign and rounded > 0 else text


def figure(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, without exponent where it can be read."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    small = abs(value) < 1e-4 or abs(value) >= 1e6
    text = f"{value:.{digits}g}" if small else _plain(value, digits)
    return text.replace("-", MINUS, 1) if value < 0 else text


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, for columns of numbers of one size."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def milliseconds(value: float) -> str:
    """Three significant digits, zeros at the end included: 0.607, 8.10, 46.4, 1204"""
    size = len(str(int(value))) if value >= 1 else 0
    return f"{value:.{max(0, 3 - size)}f}"


def _plain(value: float, digits: int) -> str:
    size = len(str(int(abs(value))))
    text = f"{value:.{max(0, digits - size)}f}" if abs(value) >= 1 else f"{value:.{digits}g}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def scaled(value: float | None) -> str:
    """11173962 -> 11.2 M; counts, MACs and the like, in powers of 1000."""
    if value is None:
        return NONE
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:  # what would be rounded to 1000 of the next unit
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def parse_size(text: str) -> int:
    """Read a number of bytes such as 20GB or 512 MB (decimal). Raises ProtocolError."""
    match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]?)B?\s*", text.upper())
    if match is None:
        raise ProtocolError(f"a size is a number and a unit, such as 20GB or 512MB, got {text!r}")
    return int(float(match[1]) * SIZES[f"{match[2]}B"])


def parse_time(text: str) -> float:
    """Read a time such as 2h, 90m, 3600s or 1h30m, in seconds. Raises ProtocolError."""
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    match = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m)?\s*(?:{number}s)?", text.strip().lower())
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise ProtocolError(
            f"a time is hours, minutes or seconds, such as 2h, 90m, 3600s or 1h30m, got {text!r}"
        )
    return seconds


def show_size(count: int) -> str:
    """Write bytes as 9.3 GB."""
    for unit, size in SIZES.items():
        if count >= size > 1:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def binary_size(count: float | None) -> str:
    """Bytes in KiB, MiB or GiB."""
    if count is None:
        return NONE
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{figure(count / size)} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float | None) -> str:
    """Write seconds as 4.8 s, 48 s, 3 min 05 s or 2 h 07 min."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def whole(count: int) -> str:
    """12345678 -> 12 345 678, with spaces that do not break; below 10000 without."""
    text = f"{count:,}" if abs(count) >= 10_000 else str(count)
    return text.replace(",", "\u202f").replace("-", MINUS)


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 seed, 6 seeds"""
    return f"{whole(count)} {noun if count == 1 else plural or noun + 's'}"


def trainings(count: float) -> str:
    """1 training's worth of epochs, 20 trainings' worth of epochs"""
    whose = "training's" if count == 1 else "trainings'"
    return f"{count:,.4g} {whose} worth of epochs"


def recipes_begun(begun: int, whole: int) -> str:
    """52 recipes begun, 9 to the end"""
    return f"{counted(begun, 'recipe')} begun, {whole or 'none'} to the end"


def capitalised(text: str) -> str:
    """Begin a sentence with `text`; all but its first letter stays as it is."""
    return text[:1].upper() + text[1:]


def listed(items: Sequence[str]) -> str:
    """a, b and c"""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def split_words(official: Sequence[str], origins: Mapping[str, str] | None = None) -> str:
    """Say which parts of the split, of `official`, are the data set's own, and which are drawn.

    `origins` are what these are called where they come from, such as `dev/`.
    """
    drawn = [part for part in ("validation", "test") if part not in official]
    called = {part: f" ({name})" for part, name in (origins or {}).items()}
    named = [f"{part}{called.get(part, '')}" for part in official]
    if "" in called and official:
        named.insert(0, f"training{called['']}")
    own = f"{listed(named)} {'are' if len(named) > 1 else 'is'} the data set's own"
    rest = f"{listed(drawn)} {'are' if len(drawn) > 1 else 'is'} drawn"
    return ", ".join([own] * bool(official) + [rest] * bool(drawn))


def tap_words(taps: Mapping[str, Mapping[str, str]]) -> str:
    """Say which module of the teachers each tap is, and which of the students.

    last1 layer4 -> blocks, last2 layer3 -> blocks.3
    """
    return (
        ", ".join(
            f"{tap} {_modules(modules, of_teachers=True)} -> {_modules(modules)}"
            for tap, modules in taps.items()
        )
        or "none in common"
    )


def _modules(modules: Mapping[str, str], *, of_teachers: bool = False) -> str:
    chosen = {name: path for name, path in modules.items() if is_teacher(name) == of_teachers}
    if len({*chosen.values()}) == 1:
        return next(iter(chosen.values()))
    return " or ".join(f"{path} of {model_name(name)}" for name, path in chosen.items())


def model_name(name: str) -> str:
    """A model without the digest of its file: mine.py:small@1a2b3c4d5e6f -> mine.py:small"""
    return re.sub(f"@[0-9a-f]{{{DIGEST_LENGTH}}}", "", name)


def shortened(text: str, most: int = 60) -> str:
    """Cut a label that would not fit above a row; tables have it whole."""
    return text if len(text) <= most else text[: most - 1] + "…"
