"""The trial that a search space sees where `--fix` or `--range` changes it."""

from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import BaseTrial

from kd.errors import ProtocolError
from kd.registry import check_name
from search_spaces.changes import Changes, number, range_text, spelled
from search_spaces.checks import ForwardedTrial


class ChangedTrial(ForwardedTrial):
    """A trial in which fixed parameters are not suggested, and others in their new ranges."""

    def __init__(self, trial: BaseTrial, changes: Changes) -> None:
        self._trial = trial
        self._changes = changes
        self._fixed: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        return {**self._trial.params, **self._fixed}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        known = tuple(choices)
        text = self._changes.fixed(name, known)
        if text is not None:
            return self._keep(name, _choice(name, text, known))
        if name in self._changes.ranges:
            raise ProtocolError(
                f"--range {name}: {name} has choices ({', '.join(map(str, known))}) and no range; "
                f"use --fix {name}={known[0]}"
            )
        return self._trial.suggest_categorical(name, choices)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        text = self._changes.fixed(name)
        if text is not None:
            return float(self._keep(name, number(f"--fix {name}={text}", text)))
        low, high = _checked_ends(self._changes, name, low, high, step, log=log)
        return self._trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        text = self._changes.fixed(name)
        if text is not None:
            return int(self._keep(name, _whole(f"--fix {name}={text}", text)))
        first, last = _checked_ends(self._changes, name, low, high, step, log=log)
        if (first, last) != (low, high):
            flag = f"--range {range_text(name, (first, last))}"
            first, last = _whole(flag, first), _whole(flag, last)
        return self._trial.suggest_int(name, int(first), int(last), step=step, log=log)

    def _keep(self, name: str, value: Any) -> Any:
        self._fixed[name] = value
        return value


def check_change(changes: Changes, name: str, distribution: BaseDistribution) -> None:
    """Raise ProtocolError if a parameter's value or range does not fit its distribution."""
    trial = ChangedTrial(_Any(), changes)  # type: ignore[arg-type]
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
        return
    whole = isinstance(distribution, IntDistribution)
    suggest: Any = trial.suggest_int if whole else trial.suggest_float
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    step, log = distribution.step, distribution.log  # type: ignore[attr-defined]
    suggest(name, low, high, step=step, log=log)


class _Any:
    """A trial that takes every suggestion."""

    def suggest(self, *values: Any, **options: Any) -> None:
        return None

    suggest_categorical = suggest_float = suggest_int = suggest


def _checked_ends(
    changes: Changes, name: str, low: float, high: float, step: float | None, *, log: bool
) -> tuple[float, float]:
    """Return the ends of a range; a new upper one is moved down to a whole number of steps."""
    first, last = changes.ends(name, low, high)
    if (first, last) == (low, high):
        return low, high
    if log and first <= 0:
        raise ProtocolError(
            f"--range {name}: {name} is on a log scale, so its ends must be above 0, got {first:g}"
        )
    if step is not None and not log:
        width, one = Decimal(str(last)) - Decimal(str(first)), Decimal(str(step))
        last = float(Decimal(str(first)) + width // one * one)
    return first, last


def _choice(name: str, text: str, choices: tuple[Any, ...]) -> Any:
    """Return the choice that a text names, as in `kl`, `true` or `0.5`."""
    for choice in choices:
        if str(choice) == text:
            return choice
    for choice in choices:
        same = str(choice).lower() == text.lower()
        numeric = isinstance(choice, int | float) and not isinstance(choice, bool)
        if (same and not isinstance(choice, str)) or (numeric and spelled(text) == repr(choice)):
            return choice
    shown = [str(choice) for choice in choices]
    check_name(f"choice of --fix {name}", text, shown)
    raise AssertionError(text)  # it is among none of them


def _whole(flag: str, text: str | float) -> int:
    value = number(flag, str(text))
    if value != int(value):
        raise ProtocolError(f"{flag} takes whole numbers, got {text}")
    return int(value)
