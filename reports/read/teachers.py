"""A study's teachers, as far as they are trained and tested."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kd.protocol import Protocol
from kd.training.scoring import scores
from reports.read.artifacts import info_of, read_predictions
from storage.files.artifacts import read_json
from storage.files.layout import Layout, StudyLayout
from storage.files.records import StudySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherData:
    """A teacher: its name in records (see `Protocol.teacher_roles`), model, training and test.

    `info` is that of its manifest (its accuracy is that on the validation split), empty when
    missing. `test` has accuracy, nll and ece on the test split, whose images the arrays follow;
    empty and None before.
    """

    role: str
    model: str
    info: Mapping[str, Any]
    test: Mapping[str, float]
    scores: NDArray[np.float64] | None = None  # [N], those of the study's metric
    correct: NDArray[np.bool_] | None = None  # [N], the test images that it gets right
    confidence: NDArray[np.float64] | None = None  # [N], as that of a confirmation run

    @property
    def value(self) -> float | None:
        """Its metric on the test split."""
        return None if self.scores is None else float(self.scores.mean())


def read_teachers(
    layout: Layout,
    study: StudyLayout,
    protocol: Protocol,
    settings: StudySettings,
    missing: list[str],
) -> tuple[TeacherData, ...]:
    trained = settings.teachers or ("",) * len(protocol.teachers)
    return tuple(
        _read_teacher(layout.teacher(fingerprint), study, role, label, protocol.metric, missing)
        for fingerprint, role, label in zip(
            trained, protocol.teacher_roles, protocol.teacher_labels, strict=True
        )
    )


def _read_teacher(
    folder: Path, study: StudyLayout, role: str, label: str, metric: str, missing: list[str]
) -> TeacherData:
    """Read a teacher, which has been trained in `folder`, and its test."""
    who = "the teacher" if role == "teacher" else role
    info, run = info_of(folder, "teacher", who, missing), study.teacher_test(role)
    if not run.result.is_file():
        missing.append(f"{who}'s test")
    test = read_json(run.result) if run.result.is_file() else {}
    if not run.predictions.is_file():
        return TeacherData(role=role, model=label, info=info, test=test)
    logits, labels = read_predictions(run.predictions)
    return TeacherData(
        role=role,
        model=label,
        info=info,
        test=test,
        scores=scores(metric, logits, labels),
        correct=logits.argmax(1) == labels,
        confidence=np.exp(log_softmax(logits.astype(float), axis=1).max(1)),
    )
