"""Several teachers as one: the weighted average of their logits, and the features of one of them.

Averaging teachers' outputs is that of You et al., "Learning from Multiple Teacher Networks" (KDD
2017). Here it is the raw logits, before the temperature, so that every soft loss can follow.
"""

from collections.abc import Sequence

from torch import Tensor

from kd.training.teacher import TeacherReading, TeacherSource


class AveragedTeacher:
    """A source of what several teachers answer together; see `kd.training.teacher.TeacherSource`.

    `shares` of the sources have the sum 1. Features are those of the source with the largest share,
    the first of equals (`kd.recipe.Recipe.lead`).
    """

    def __init__(self, sources: Sequence[TeacherSource], shares: Sequence[float]) -> None:
        self._sources = sources
        self._shares = shares
        self._lead = shares.index(max(shares))
        self.validation_logits = self._average([one.validation_logits for one in sources])

    def read(self, view: int, index: Tensor, images: Tensor, taps: Sequence[str]) -> TeacherReading:
        readings = [
            source.read(view, index, images, taps if place == self._lead else ())
            for place, source in enumerate(self._sources)
        ]
        logits = self._average([reading.logits for reading in readings])
        return TeacherReading(logits, readings[self._lead].taps)

    def _average(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the average of logits [B, classes], each with the weight of its source."""
        average = self._shares[0] * logits[0]
        for share, other in zip(self._shares[1:], logits[1:], strict=True):
            average = average + share * other
        return average
