"""Check that Optuna can store what a search space suggests, and that trials agree."""

import enum
import json
import math
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from typing import Any, cast

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import BaseTrial

from kd.errors import ProtocolError

PLAIN = (str, int, float, bool, type(None))  # exact types: Optuna converts others to these
EXACT = 2**53  # integers up to this one are exact as the floats that Optuna stores
SHOWN = 60  # characters of a value in an error
LONGEST_NAME = 512  # characters, of the columns in Optuna's tables

Distributions = MutableMapping[str, BaseDistribution]


class ForwardedTrial:
    """Base of trials that wrap another, and treat deprecated methods as the present ones."""

    _trial: BaseTrial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        raise NotImplementedError

    # Deprecated methods: forwarded, because Optuna's own would bypass those of the subclass.

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)


class CheckedTrial(ForwardedTrial):
    """A trial that raises ProtocolError for suggestions with which a study could not be resumed.

    `known` has the distribution of each parameter in this and earlier trials, and is extended.
    Numeric ranges may differ between trials, as Optuna allows; kinds and choices may not.
    """

    def __init__(self, trial: BaseTrial, known: Distributions) -> None:
        self._trial = trial
        self._known = known

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        if isinstance(choices, set | frozenset):
            raise ProtocolError(
                f"the choices of {name!r} must be a list, got a set, whose order changes between "
                "processes"
            )
        kept = tuple(choices)
        check_choices(name, kept)
        self._note(name, CategoricalDistribution(kept))
        return self._trial.suggest_categorical(name, kept)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        distribution = _quietly(FloatDistribution, low, high, log=bool(log), step=step)
        _check_range(name, distribution, sys.float_info.max)
        self._note(name, distribution)
        return self._trial.suggest_float(name, low, high, step=step, log=bool(log))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        distribution = _quietly(IntDistribution, low, high, log=bool(log), step=step)
        _check_range(name, distribution, EXACT)
        self._note(name, distribution)
        return self._trial.suggest_int(name, low, high, step=step, log=bool(log))

    def report(self, value: float, step: int) -> None:
        raise ProtocolError("suggest must not report values: each epoch of the training does")

    def set_user_attr(self, key: str, value: Any) -> None:
        _check_name("an attribute", key)
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise ProtocolError(
                f"the attribute {key!r} must be representable as JSON, got {_short(value)}"
            ) from None
        self._trial.set_user_attr(key, value)

    def _note(self, name: str, distribution: BaseDistribution) -> None:
        """Record a distribution. Raises ProtocolError if it conflicts with earlier trials."""
        _check_name("a parameter", name)
        before = self._known.setdefault(name, distribution)
        if kind_of(before) != kind_of(distribution):
            raise ProtocolError(
                f"{name!r} had {_described(before)} before, and has {_described(distribution)} "
                "now; suggest the same in every trial, or give each of them a separate name"
            )


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise ProtocolError(
            f"{what}'s name must be a str of 1-{LONGEST_NAME} characters, got {_short(name)}"
        )


def check_choices(name: str, choices: tuple[Any, ...]) -> None:
    """Raise ProtocolError for a choice that Optuna would not return unchanged."""
    for place, choice in enumerate(choices):
        if not _is_kept(choice):
            raise ProtocolError(
                f"Optuna cannot store the choice {_short(choice)} of {name!r}: "
                f"{_instead(name, choice)}"
            )
        twin = choices[choices.index(choice)]  # the one that Optuna stores for it
        if repr(twin) != repr(choice):
            raise ProtocolError(
                f"Optuna cannot distinguish the choices {twin!r} and {choice!r} of {name!r} "
                f"(numbers {choices.index(choice) + 1} and {place + 1}): "
                f"{_texts(name, choice)}"
            )


def check_enqueued(
    parameters: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> None:
    """Raise ProtocolError for an enqueued parameter that Optuna would change."""
    for name, value in parameters.items():
        if not _is_kept(value):
            raise ProtocolError(
                f"Optuna cannot store {_short(value)} for {name!r}: {_instead(name, value)}"
            )
        distribution = distributions.get(name)
        if isinstance(distribution, CategoricalDistribution):
            kept = distribution.choices[int(distribution.to_internal_repr(value))]
            if repr(kept) != repr(value):
                raise ProtocolError(f"{name!r} must be {kept!r}, as in its choices, got {value!r}")


def _check_range(name: str, distribution: FloatDistribution | IntDistribution, most: float) -> None:
    """Raise ProtocolError for bounds that are not finite, or that Optuna would round."""
    ends = (distribution.low, distribution.high)
    if not all(abs(end) <= most for end in ends):
        kind = "integers within ±2**53" if most == EXACT else "finite numbers"
        raise ProtocolError(
            f"the range of {name!r} must be of {kind}, got {ends[0]} to {ends[1]}: Optuna would "
            "round others"
        )


def _is_kept(value: Any) -> bool:
    """Return whether a value is unchanged by Optuna's JSON, and can be in the report's."""
    if type(value) not in PLAIN or (isinstance(value, float) and not math.isfinite(value)):
        return False
    try:
        str(value).encode()
        written = distribution_to_json(CategoricalDistribution([value]))
        (back,) = cast(CategoricalDistribution, json_to_distribution(written)).choices
    except ValueError:  # half of a surrogate pair; an int with more digits than Python parses
        return False
    return type(back) is type(value) and bool(back == value)


def _instead(name: str, value: Any) -> str:
    """Return the advice on what to write in place of a value that cannot be stored."""
    plain = value
    if isinstance(value, enum.Enum):
        plain = value.value
    elif getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of NumPy
        plain = value.item()
    if plain is not value and _is_kept(plain):
        return f"write {plain!r}"
    return _texts(name, value)


def _texts(name: str, value: Any) -> str:
    return (
        f"use texts as keys of the values, as in {{'a': {_short(value)}, …}}"
        f"[trial.suggest_categorical({name!r}, ['a', …])]"
    )


def kind_of(distribution: BaseDistribution) -> object:
    """Return the properties of a distribution that must be the same in all trials."""
    if isinstance(distribution, CategoricalDistribution):
        return "choices", repr(distribution.choices)
    return type(distribution).__name__, getattr(distribution, "log", False)


def _described(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"the choices {', '.join(map(repr, distribution.choices))}"
    kind = "a range of integers" if isinstance(distribution, IntDistribution) else "a range"
    return f"{kind}{' on a log scale' if getattr(distribution, 'log', False) else ''}"


def _quietly(kind: type[Any], *bounds: Any, **options: Any) -> Any:
    """Return a distribution without Optuna's warnings, which the real suggestion repeats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(*bounds, **options)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
