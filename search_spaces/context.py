"""What a search space may depend on: the taps, the optimizer and the students of its study."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd.errors import ProtocolError
from kd.names import OPTIMIZERS

if TYPE_CHECKING:
    from kd.optimizers import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext:
    """What `suggest(trial, study)` receives as `study`: what the protocol fixes.

    The default stands for a study without flags.
    """

    taps: tuple[str, ...] = ("last1", "last2", "last3")
    optimizer: str = "sgd"
    students: tuple[str, ...] = ()  # with several, the recipe names one, or the study asks for it

    @property
    def lr(self) -> "Range":
        """The range of learning rates of the optimizer, with its default."""
        lr: Range = OPTIMIZERS.load(self.optimizer).LR
        return lr

    @property
    def weight_decay(self) -> "Range":
        """The range of weight decays of the optimizer, with its default."""
        weight_decay: Range = OPTIMIZERS.load(self.optimizer).WEIGHT_DECAY
        return weight_decay

    def offered(self, choices: Sequence[str]) -> list[str]:
        """Return those of some choices of taps, such as last1+last2, that the study can read.

        Raises ProtocolError where it can read none of them.
        """
        offered = [choice for choice in choices if {*choice.split("+")} <= {*self.taps}]
        if not offered:
            raise ProtocolError(
                f"it reads {choices[0]}, which the protocol lacks: name it in --taps, or use "
                "--space with a search space of your own"
            )
        return offered
