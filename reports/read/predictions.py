"""The teachers' predictions on the test split, which those of students are compared with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kd.errors import ArtifactError
from kd.protocol import Protocol
from kd.recipe import Recipe
from reports.read.artifacts import read_predictions
from storage.files.layout import StudyLayout


class TeacherPredictions:
    """The teachers' predictions on the test split, and the labels that all runs must share.

    `paths` are those of the predictions, empty before all teachers are tested.
    """

    def __init__(self, study: StudyLayout, protocol: Protocol, paths: Sequence[Path]) -> None:
        self._confirming = study.command("confirm")
        self.metric = protocol.metric
        self.labels: NDArray[np.int64] | None = None
        self._teachers: list[NDArray[np.float64]] = []  # logits [N, C]
        self._together: dict[tuple[float, ...], NDArray[np.float64]] = {}  # by their shares
        for path in paths:
            logits, labels = read_predictions(path)
            self.check(path, labels)
            self._teachers.append(logits.astype(float))

    def check(self, path: Path, labels: NDArray[np.int64]) -> None:
        """Raises ArtifactError for the labels of another test split."""
        self.labels = labels if self.labels is None else self.labels
        if not np.array_equal(self.labels, labels):
            raise ArtifactError(
                f"{path} is of other test images than the runs before it; "
                f"delete its folder and run: {self._confirming}"
            )

    def fidelity(
        self, recipe: Recipe, student: NDArray[np.float64]
    ) -> tuple[float | None, float | None]:
        """Agreement with the teacher, and KL(teacher || student) at temperature 1, in nats.

        `student`: the logarithms of its probabilities [N, C]. Of several teachers, it is what the
        recipe's student learns from: their logits by its shares, equal ones if it does not distil.
        """
        if not self._teachers:
            return None, None
        teacher = self._teacher(recipe.shares(len(self._teachers)))
        agreement = float(np.mean(student.argmax(1) == teacher.argmax(1)))
        kl = (np.exp(teacher) * (teacher - student)).sum(1).mean()
        return agreement, float(kl)

    def _teacher(self, shares: tuple[float, ...]) -> NDArray[np.float64]:
        """Return the logarithms of the probabilities [N, C] that teachers give together."""
        if shares not in self._together:
            logits = [share * one for share, one in zip(shares, self._teachers, strict=True)]
            self._together[shares] = log_softmax(np.sum(logits, axis=0), axis=1)
        return self._together[shares]
