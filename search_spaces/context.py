"""The study's settings that a search space may use: taps, optimizer and students."""

from collections.abc import Sequence
from dataclasses import dataclass

from kd import optimizers
from kd.errors import ProtocolError
from kd.optimizers import Range

NO_TAPS = (
    "teacher and students have no taps in common: use logit losses alone where study.taps is "
    "empty, or name pairs of modules, as in --taps layer4=blocks.5"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext:
    """The argument `study` of `suggest(trial, study)`, with settings of the protocol.

    The defaults are those of a study without flags. `taps` is empty where teacher and students have
    none in common.
    """

    taps: tuple[str, ...] = ("last1", "last2", "last3")
    optimizer: str = "sgd"
    students: tuple[str, ...] = ()  # if several, the recipe names one, else the study suggests it
    loss: str = ""  # soft loss of every recipe that distils (--loss); empty: the space chooses
    binary: bool = False  # whether there are two classes; False until the data have been read
    mixing: bool = False  # whether the augmentation mixes images

    @property
    def lr(self) -> Range:
        """The range of learning rates of the optimizer, with its default."""
        return optimizers.load(self.optimizer).LR

    @property
    def weight_decay(self) -> Range:
        """The range of weight decays of the optimizer, with its default."""
        return optimizers.load(self.optimizer).WEIGHT_DECAY

    def offered(self, choices: Sequence[str]) -> list[str]:
        """Return the choices, such as last1+last2, whose taps are all among the study's.

        Raises ProtocolError if there are none.
        """
        offered = [choice for choice in choices if {*choice.split("+")} <= {*self.taps}]
        if not offered and not self.taps:
            raise ProtocolError(f"it reads {choices[0]}, and {NO_TAPS}")
        if not offered:
            raise ProtocolError(
                f"it reads {choices[0]}, which the protocol lacks: add it to --taps, or use "
                "--space with a search space of your own"
            )
        return offered
