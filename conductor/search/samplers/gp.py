"""A Gaussian process, which learns from completed trials alone."""

from optuna.samplers import BaseSampler, GPSampler

from conductor.search.samplers.tpe import Past


def make(seed: int, startup: int, past: Past) -> BaseSampler:
    return GPSampler(n_startup_trials=startup, seed=seed)
