"""Pruners: when a trial is ended before its horizon. Each file is one, by its name."""

from typing import TYPE_CHECKING, Protocol

from kd.registry import Kind

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

PRUNERS = Kind("pruner", __name__)


class PrunerModule(Protocol):
    """What a file of this folder offers."""

    def make(self, horizon: int) -> "BasePruner":
        """Make a pruner for trials of `horizon` epochs.

        Resources are set, never left to `auto`, which resolves anew in every process.
        """
        ...
