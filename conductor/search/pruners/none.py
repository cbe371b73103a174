"""Every trial runs to its horizon."""

from optuna.pruners import BasePruner, NopPruner


def make(horizon: int) -> BasePruner:
    return NopPruner()
