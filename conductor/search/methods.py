"""How an arm is searched: its sampler and pruner, made from their names.

The supervisor makes a sampler anew for each decision, with a seed that follows from the study's
seed, the arm and the number of the trial: what it chooses does not depend on sessions or timing.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from conductor.search.own_sampler import make_own
from conductor.search.pruners import PRUNERS, PrunerModule
from conductor.search.samplers import OWN_SAMPLER, SAMPLERS, SamplerModule
from conductor.search.samplers.tpe import Past

STARTUP_TRIALS = 10  # random trials before a sampler learns


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchMethod:
    """How an arm is searched: names of sampler and pruner, lag, seed, and horizon in epochs.

    Without a sampler it is searched by promotion. `is_share` says whether the metric lies in 0-1
    and 1 is best, `classes` are those of the data; `own` is the folder with the copies of the
    user's files, for a sampler of the user's own.
    """

    sampler: str
    pruner: str
    lag: int
    seed: int
    horizon: int
    is_share: bool = True
    classes: int = 10
    own: Path = Path()


def make_sampler(
    name: str,
    seed: int,
    startup: int = STARTUP_TRIALS,
    past: Past | None = None,
    own: Path = Path(),
) -> BaseSampler:
    """Make a sampler for one decision, random until `startup` trials have ended.

    `past` is shared by all decisions of a study. One of the user's own receives the seed alone.
    Raises ProtocolError for an unknown name, and for a user's function that fails.
    """
    if OWN_SAMPLER.fullmatch(name):
        with _experiments_allowed():
            return make_own(name, own, seed % 2**32)
    module = cast(SamplerModule, SAMPLERS.load(name))
    with _experiments_allowed():
        return module.make(seed % 2**32, startup, past or Past())


def make_pruner(name: str, horizon: int) -> BasePruner:
    """Make a pruner for runs of `horizon` epochs. Raises ProtocolError for an unknown name."""
    module = cast(PrunerModule, PRUNERS.load(name))
    with _experiments_allowed():
        return module.make(horizon)


@contextmanager
def _experiments_allowed() -> Iterator[None]:
    """Silence Optuna's warning that some samplers and pruners are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
