"""Tuned recipes at the edge of their search space, and the command that widens it."""

import math
import shlex
from collections.abc import Iterator

from optuna.distributions import FloatDistribution, IntDistribution

from reports.read.data import StudyData
from reports.read.trials import TrialData
from reports.wording import figure, listed

EDGE = 0.05  # share of a range, on its own scale, that counts as its edge
FEW_RECIPES = 20  # below, that a value lies near an end of its range is likely chance
WIDER = 3  # factor of a new end on a log scale; on another one, half of the range is added
LARGEST = {  # value that a `Recipe` accepts, by parameter; label smoothing must be below 1
    "lr": 10.0,
    "weight_decay": 1.0,
    "label_smoothing": 0.99,
    "temperature": 1000.0,
    "alpha": 1.0,
    "feature_weight": 1000.0,
}
LONGEST, SUFFIX = 64, "-wider"  # characters of a study's name, and its end

Range = tuple[float, float]


def of_edges(data: StudyData) -> Iterator[str]:
    """Name the tuned recipes at an edge, then the command for one study with wider ranges."""
    ranges: dict[str, Range] = {}
    for arm in data.arms:
        trial = data.chosen_trial(arm)
        if trial is None or arm.recipes < FEW_RECIPES:
            continue
        edges = edge_parameters(trial)
        if not edges:
            continue
        shown = [
            f"{name} = {figure(trial.parameters[name])} (range {figure(low)} to {figure(high)})"
            for name, (low, high) in edges.items()
        ]
        title = data.trial_title(trial)
        yield f"The {title} lies at the edge of its search space: {listed(shown)}."
        for name in edges:
            low, high = _wider(trial, name)
            was = ranges.get(name, (low, high))
            ranges[name] = min(low, was[0]), max(high, was[1])
    if ranges:
        yield f"A wider range could contain a better recipe. Run: {_command(data, ranges)}"


def edge_parameters(trial: TrialData) -> dict[str, Range]:
    """Return the ranges of parameters within 5 % of an end that could have been wider.

    An end that is a limit of the quantity itself (0, or 1 for a share) does not count.
    """
    edges = {}
    for name, distribution in sorted(trial.distributions.items()):
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        low, high = distribution.low, distribution.high
        if low == high:
            continue
        at_low, at_high = _at_ends(trial, name, distribution)
        if at_low or at_high:
            edges[name] = (float(low), float(high))
    return edges


def _at_ends(
    trial: TrialData, name: str, distribution: FloatDistribution | IntDistribution
) -> tuple[bool, bool]:
    low, high = distribution.low, distribution.high
    place = _place(float(trial.parameters[name]), low, high, distribution.log)
    share = high == 1 and low >= 0 and not distribution.log
    return place <= EDGE and low != 0, place >= 1 - EDGE and not share and high < _largest(name)


def _largest(name: str) -> float:
    """Return the largest value of a parameter, or of the schedule whose end it is."""
    return LARGEST.get(name.removesuffix("_initial").removesuffix("_final"), math.inf)


def _place(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _wider(trial: TrialData, name: str) -> Range:
    """Return a range that is wider at the end where the trial's value lies."""
    distribution = trial.distributions[name]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    at_low, at_high = _at_ends(trial, name, distribution)
    more = (high - low) / 2
    below, above = (low / WIDER, high * WIDER) if distribution.log else (low - more, high + more)
    if low >= 0 and not distribution.log:
        below, above = max(below, 0.0), min(above, 1.0) if high <= 1 else above
    if isinstance(distribution, IntDistribution):
        below, above = (
            max(math.floor(below), 1) if low >= 1 else math.floor(below),
            math.ceil(above),
        )
    above = min(above, _largest(name))
    ends = (below if at_low else low), (above if at_high else high)
    return float(f"{ends[0]:.2g}") if at_low else low, float(f"{ends[1]:.2g}") if at_high else high


def _command(data: StudyData, ranges: dict[str, Range]) -> str:
    """Return the study's own command for a new study, with these ranges."""
    flags = {f"{name}={low:g}:{high:g}" for name, (low, high) in ranges.items()}
    words = _without(data.settings.command, {"--name"}, None)
    words = _without(words, {"--range"}, ranges)
    more = [word for flag in sorted(flags) for word in ("--range", flag)]
    name = f"{data.name[: LONGEST - len(SUFFIX)]}{SUFFIX}"
    return shlex.join([*words, "--name", name, *more])


def _without(words: list[str], flags: set[str], names: dict[str, Range] | None) -> list[str]:
    """Return the words without these flags and their values, or without those for `names`."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag not in flags:
            kept.append(word)
            continue
        text = value if equals else next(rest, "")
        if names is not None and text.partition("=")[0].strip() not in names:
            kept += [flag, text]
    return kept
