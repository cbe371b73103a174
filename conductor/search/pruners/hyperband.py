"""Hyperband: several brackets of successive halving, which begin at different epochs."""

from optuna.pruners import BasePruner, HyperbandPruner


def make(horizon: int) -> BasePruner:
    return HyperbandPruner(
        min_resource=max(1, horizon // 9), max_resource=horizon, reduction_factor=3
    )
