"""Recipes to try first, fitted to a space whose parameters were fixed or have other ranges."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FixedTrial

from search_spaces.changes import Changes, WarmRecipe

Propose = Callable[[BaseTrial, str], Any]  # of a trial and its name in errors
Recipes = Mapping[str, Mapping[str, Any]]
STUDENT = "student"  # the parameter that a study with several students adds to a space


def adapt(
    recipes: Recipes, warm: WarmRecipe | None, propose: Propose, known: Container[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return recipes to try first with the parameters that a changed space has, and what changed.

    A number outside of its range is moved to the nearest end. A parameter that a recipe lacks has
    the value of the first recipe with one, or else the middle of its range; only a student is then
    left out, which is chosen once it is known which are feasible. Of equal recipes the first is
    kept. `known` are the names of the space's parameters without changes.
    """
    adapted: dict[str, dict[str, Any]] = {}
    lines: list[str] = []
    whole = list(recipes.values())
    for title, parameters in recipes.items():
        _add(adapted, lines, title, _Filled([parameters, *whole]), propose)
    if warm:
        trial = _Filled([warm.parameters, *whole], Changes(fix=warm.fix))
        _add(adapted, lines, warm.title, trial, propose)
        unknown = [name for name in warm.parameters if name not in known]
        if unknown:
            lines.append(f"“{warm.title}” is tried without its {', '.join(unknown)}")
    return adapted, lines


def _add(
    adapted: dict[str, dict[str, Any]],
    lines: list[str],
    title: str,
    trial: "_Filled",
    propose: Propose,
) -> None:
    propose(trial, f"ENQUEUED[{title!r}]")
    same = next((one for one, values in adapted.items() if values == trial.params), None)
    if same is not None:
        lines.append(f"“{title}” is now the same recipe as “{same}”, and is tried once")
        return
    adapted[title] = trial.params
    if trial.notes:
        lines.append(f"“{title}” is tried with {', '.join(trial.notes)}")


class _Filled(FixedTrial):
    """A trial with the values of the first of several recipes, completed from the others."""

    def __init__(self, recipes: Sequence[Mapping[str, Any]], there: Changes | None = None) -> None:
        super().__init__({})
        self._recipes = recipes
        self._there = there or Changes()
        self._values: dict[str, Any] = {}
        self._known: dict[str, BaseDistribution] = {}
        self._open: set[str] = set()  # parameters that no recipe has, and are not decided here
        self.notes: list[str] = []

    @property
    def params(self) -> dict[str, Any]:
        return {name: value for name, value in self._values.items() if name not in self._open}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return dict(self._known)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._value(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._value(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._value(name, CategoricalDistribution(tuple(choices)))

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._values:
            self._known[name] = distribution
            self._values[name] = self._chosen(name, distribution)
        return self._values[name]

    def _chosen(self, name: str, distribution: BaseDistribution) -> Any:
        own = self._recipes[0].get(name)
        if own is None:  # or None itself, which is a choice
            text = self._there.fixed(name, getattr(distribution, "choices", ()))
            own = None if text is None else _read(text, distribution)
        offers = [own, *(one[name] for one in self._recipes if name in one)]
        fitted = (_fitted(offer, distribution) for offer in offers)
        value = next((one for one in fitted if one is not None), None)
        if value is None:
            value = _middle(distribution)
            if name == STUDENT:
                self._open.add(name)
                self.notes += [f"another student than {own}"] if own else []
                return value
        if own is None:
            self.notes.append(f"{name} {_shown(value)}, which it lacks")
        elif value != own:
            self.notes.append(f"{name} {_shown(value)}, not {_shown(own)}")
        return value


def _read(text: str, distribution: BaseDistribution) -> Any:
    """Return the value of a parameter that was fixed by text."""
    if isinstance(distribution, CategoricalDistribution):
        return next((one for one in distribution.choices if str(one) == text), text)
    try:
        return float(text)
    except ValueError:
        return text


def _fitted(value: Any, distribution: BaseDistribution) -> Any:
    """Return a value, or the nearest of the range; None where it is of another kind."""
    if isinstance(distribution, CategoricalDistribution):
        return next((one for one in distribution.choices if repr(one) == repr(value)), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    near = min(max(value, distribution.low), distribution.high)
    return _on_step(near, distribution)


def _middle(distribution: BaseDistribution) -> Any:
    """Return the first choice, or the middle of a range on its own scale."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    middle = (low * high) ** 0.5 if distribution.log else (low + high) / 2
    return _on_step(min(max(middle, low), high), distribution)


def _on_step(value: float, distribution: FloatDistribution | IntDistribution) -> float:
    """Return the nearest value with a whole number of steps from the lower end."""
    low, step = distribution.low, distribution.step
    if step is not None and not distribution.log:
        value = min(low + round((value - low) / step) * step, distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
