"""A digest of what a search space does: the distributions and recipes of seeded draws.

Draws and hashed text are the same on every machine and in every process: values are computed by
additions, divisions and square roots, which IEEE 754 rounds exactly (logarithms and powers differ
between machines), and floats are written with 12 significant digits.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import BaseSampler
from optuna.trial import BaseTrial, FrozenTrial

from kd.recipe import Recipe
from kd.seeds import derive_seed

BITS = 40  # number of times that a range is halved to draw a float


def seeded_trials(count: int) -> Iterator[optuna.Trial]:
    """Yield trials whose parameters depend only on the trial's number and the parameter's name."""
    return _trials(count, _SeededSampler())


def corner_trials(count: int) -> Iterator[optuna.Trial]:
    """Yield such trials in which every number is one of the ends of its range."""
    return _trials(count, _CornerSampler())


def _trials(count: int, sampler: BaseSampler) -> Iterator[optuna.Trial]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    optuna.logging.set_verbosity(verbosity)
    for _ in range(count):
        yield study.ask()


def described(trial: BaseTrial, recipe: Recipe) -> list[Any]:
    """Return a trial's distributions and values, in the order of suggestion, and its recipe."""
    values = trial.params
    suggested = [
        [name, json.loads(distribution_to_json(distribution)), values[name]]
        for name, distribution in trial.distributions.items()
    ]
    return [suggested, recipe.to_json()]


def space_digest(draws: Sequence[list[Any]], enqueued: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the SHA-256 of described draws and of the enqueued recipes, in order."""
    content = [draws, [[title, dict(parameters)] for title, parameters in enqueued.items()]]
    text = json.dumps(_canonical(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return format(value, ".12g") if isinstance(value, float) else value


class _SeededSampler(BaseSampler):
    """Draws every parameter independently, from the trial's number and the parameter's name."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return _drawn(param_distribution, derive_seed(0, "space", trial.number, param_name))


class _CornerSampler(_SeededSampler):
    """Draws one of the ends of a range, and any choice."""

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seed = derive_seed(0, "corner", trial.number, param_name)
        if isinstance(param_distribution, FloatDistribution | IntDistribution):
            return param_distribution.high if seed & 1 else param_distribution.low
        return _drawn(param_distribution, seed)


def _drawn(distribution: BaseDistribution, seed: int) -> Any:
    """Return a value drawn from a distribution; `seed` lies in [0, 2**63)."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[seed % len(distribution.choices)]
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"unknown kind of Optuna distribution: {distribution!r}")
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and not distribution.log:
        return low + seed % (round((high - low) / step) + 1) * step
    for bit in range(BITS):
        middle = math.sqrt(low) * math.sqrt(high) if distribution.log else low / 2 + high / 2
        low, high = (middle, high) if seed >> bit & 1 else (low, middle)
    return int(low) if isinstance(distribution, IntDistribution) else low
