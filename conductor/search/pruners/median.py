"""Ends a trial whose score is below the median of those before it at the same epoch."""

from optuna.pruners import BasePruner, MedianPruner


def make(horizon: int) -> BasePruner:
    return MedianPruner(n_startup_trials=5, n_warmup_steps=horizon // 4)
