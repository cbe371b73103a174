"""Samplers: how the parameters of the next trial are proposed. Each file is one, by its name."""

from typing import TYPE_CHECKING, Protocol

from kd.registry import Kind

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from conductor.search.samplers.tpe import Past

SAMPLERS = Kind("sampler", __name__)


class SamplerModule(Protocol):
    """What a file of this folder offers."""

    def make(self, seed: int, startup: int, past: "Past") -> "BaseSampler":
        """Make a sampler for one decision, random before `startup` trials have ended.

        `past` is what is remembered between the decisions of a study.
        """
        ...
