"""Samplers, which choose the parameters of the next trial. Each file is one."""

from typing import TYPE_CHECKING, Protocol

from kd.registry import Kind

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from conductor.search.samplers.tpe import Past

SAMPLERS = Kind("sampler", __name__)


class SamplerModule(Protocol):
    """The interface of a file in this folder."""

    def make(self, seed: int, startup: int, past: "Past") -> "BaseSampler":
        """Make a sampler for one decision, random until `startup` trials have ended.

        `past` is shared by all decisions of a study.
        """
        ...
