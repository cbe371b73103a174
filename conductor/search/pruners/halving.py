"""Successive halving: at each rung, only the best third continues."""

from optuna.pruners import BasePruner, SuccessiveHalvingPruner


def make(horizon: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=max(1, horizon // 9), reduction_factor=3)
