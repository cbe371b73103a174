"""Pruners, which end trials before their horizon. Each file is one."""

from typing import TYPE_CHECKING, Protocol

from kd.registry import Kind

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

PRUNERS = Kind("pruner", __name__)


class PrunerModule(Protocol):
    """The interface of a file in this folder."""

    def make(self, horizon: int) -> "BasePruner":
        """Make a pruner for trials of `horizon` epochs.

        Set resources explicitly: `auto` is resolved again in every process.
        """
        ...
