"""Samplers and pruners by name. They need Optuna, so they are made only where a study runs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, GPSampler, RandomSampler

from conductor.search.names import PRUNERS, SAMPLERS
from conductor.search.tpe import Past, ReadingTPESampler
from kd.registry import check_name

STARTUP_TRIALS = 10  # random trials before a sampler learns


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchMethod:
    """How an arm is searched: names of sampler and pruner, lag, seed, and horizon in epochs."""

    sampler: str
    pruner: str
    lag: int
    seed: int
    horizon: int


def make_sampler(
    name: str, seed: int, startup: int = STARTUP_TRIALS, past: Past | None = None
) -> BaseSampler:
    """Make a sampler for one decision, which is random before `startup` trials have ended.

    `past` is kept for all decisions of a study. Raises ProtocolError for an unknown name.
    """
    check_name("sampler", name, SAMPLERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[name](seed % 2**32, startup, past or Past())


def make_pruner(name: str, horizon: int) -> BasePruner:
    """Make a pruner for runs of `horizon` epochs. Raises ProtocolError for an unknown name.

    Resources are set, never left to `auto`, which resolves anew in every process.
    """
    check_name("pruner", name, PRUNERS)
    return _PRUNERS[name](horizon)


_SAMPLERS: dict[str, Callable[[int, int, Past], BaseSampler]] = {
    "tpe": lambda seed, startup, past: ReadingTPESampler(past, startup=startup, seed=seed),
    "random": lambda seed, startup, past: RandomSampler(seed=seed),
    "gp": lambda seed, startup, past: GPSampler(n_startup_trials=startup, seed=seed),
}
_PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "median": lambda horizon: MedianPruner(n_startup_trials=5, n_warmup_steps=horizon // 4),
    "quartile": lambda horizon: PercentilePruner(
        25.0, n_startup_trials=5, n_warmup_steps=horizon // 4
    ),
    "halving": lambda horizon: SuccessiveHalvingPruner(
        min_resource=max(1, horizon // 9), reduction_factor=3
    ),
    "hyperband": lambda horizon: HyperbandPruner(
        min_resource=max(1, horizon // 9), max_resource=horizon, reduction_factor=3
    ),
    "none": lambda horizon: NopPruner(),
}
