"""Samplers, which choose the parameters of the next trial. Each file is one.

`mine.py:make` is one of the user's own: see `conductor.search.own_sampler`.
"""

import re
from typing import TYPE_CHECKING, Protocol

from kd.errors import ProtocolError
from kd.registry import Kind

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from conductor.search.samplers.tpe import Past

SAMPLERS = Kind("sampler", __name__)
OWN_SAMPLER = re.compile(r"([A-Za-z]\w{0,30}\.py):([A-Za-z_]\w{0,60})@([0-9a-f]{12})", re.ASCII)


class SamplerModule(Protocol):
    """The interface of a file in this folder."""

    def make(self, seed: int, startup: int, past: "Past") -> "BaseSampler":
        """Make a sampler for one decision, random until `startup` trials have ended.

        `past` is shared by all decisions of a study.
        """
        ...


def check_sampler(name: str) -> None:
    """Raise ProtocolError unless `name` is a member, or the user's, as in `mine.py:make@digest`."""
    if ".py" not in name:
        SAMPLERS.check(name)
    elif not OWN_SAMPLER.fullmatch(name):
        raise ProtocolError(
            "a sampler of your own must be FILE.py:FUNCTION, both of letters, digits and _, got "
            f"{name!r}; for example --sampler mine.py:make"
        )
