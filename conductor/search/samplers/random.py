"""Independent random parameters."""

from optuna.samplers import BaseSampler, RandomSampler

from conductor.search.samplers.tpe import Past


def make(seed: int, startup: int, past: Past) -> BaseSampler:
    return RandomSampler(seed=seed)
