"""Ends a trial whose score is in the lowest three quarters at the same epoch."""

from optuna.pruners import BasePruner, PercentilePruner


def make(horizon: int) -> BasePruner:
    return PercentilePruner(25.0, n_startup_trials=5, n_warmup_steps=horizon // 4)
