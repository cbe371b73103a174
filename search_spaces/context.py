"""The study's settings that a search space may use: taps, optimizer and models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

from kd import optimizers
from kd.errors import ProtocolError
from kd.optimizers import Range, Ranges

NO_TAPS = (
    "teacher and students have no taps in common: use logit losses alone where study.taps is "
    "empty, or name pairs of modules, as in --taps layer4=blocks.5"
)


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """The argument `study` of `suggest(trial, study)`, with settings of the protocol.

    The defaults are those of a study without flags, except that without `students` the ranges are
    the optimizer's own. `taps` is empty where teacher and students have
    none in common.
    """

    taps: tuple[str, ...] = ("last1", "last2", "last3")
    optimizer: str = "sgd"
    teachers: tuple[str, ...] = ()  # if several, a recipe has shares, else the study suggests them
    students: tuple[str, ...] = ()  # if several, the recipe names one, else the study suggests it
    mixing: bool = False  # whether augmentation mixes images, as mixup: then dkd is not defined
    pretrained: bool = False  # whether students start from weights that have been trained
    loss: str = ""  # soft loss of every recipe that distils (--loss); empty: the space chooses
    binary: bool = False  # whether there are two classes; False until the data have been read

    @property
    def lr(self) -> Range:
        """The range of learning rates, with its default: see `ranges`."""
        return self.ranges.lr

    @property
    def weight_decay(self) -> Range:
        """The range of weight decays, with its default: see `ranges`."""
        return self.ranges.weight_decay

    @cached_property
    def ranges(self) -> Ranges:
        """The ranges of the optimizer for the students, those of several joined.

        The defaults are those of the first.
        """
        found = [
            optimizers.ranges(self.optimizer, student, pretrained=self.pretrained)
            for student in self.students or ("",)
        ]
        return reduce(Ranges.joined, found)

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
