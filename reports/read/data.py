"""What a report is made from: one frozen `StudyData`, read once, of plain values and numpy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.training.history import EpochMetrics
from reports.read.importances import Importance
from reports.read.teachers import TeacherData
from reports.statistics import mean_interval
from reports.wording import Measure, measure, model_name
from storage.files.layout import StudyLayout
from storage.files.records import Costs, Finalist, RunRecord, StudySettings

PLAIN = "plain"  # the arm without distillation, the baseline of every verdict
ENDED = ("COMPLETE", "PRUNED")  # the states that count towards a study's number of trials


def learns_from_teacher(recipe: Recipe) -> bool:
    """Whether the teacher has any weight in the loss: a soft loss at alpha 0 has none."""
    return any(recipe.alpha.ends) or recipe.feature_kind != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialData:
    """One trial as Optuna stores it, with its run record if it has ended.

    `values` are the metric on the validation split by epoch, from 1; `value` is the last of them.
    """

    arm: str
    number: int
    state: str  # COMPLETE, PRUNED, FAIL, RUNNING, WAITING, or INFEASIBLE: over the budget
    value: float | None
    parameters: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    values: Mapping[int, float]
    diverged: bool
    auditor: bool
    cut_epoch: int | None  # of an auditor: where the pruner would have cut it
    reason: str
    started: datetime | None
    seconds: float | None
    record: RunRecord | None

    @property
    def ranked(self) -> float:
        """Its value, below all others where it has none."""
        return -math.inf if self.value is None else self.value

    @property
    def epochs(self) -> int:
        """Epochs trained to their end."""
        return len(self.record.history) if self.record else max(self.values, default=0)

    @property
    def trained_seconds(self) -> float | None:
        """The time of its training, or until its end in the storage if it has no record."""
        return self.record.seconds if self.record else self.seconds

    @property
    def history(self) -> list[EpochMetrics]:
        return self.record.history if self.record else []


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmData:
    """One arm's trials by number, and which parameters mattered (sums to 1, largest first)."""

    name: str
    trials: tuple[TrialData, ...]
    importances: Mapping[str, Importance]
    importances_note: str  # why there are none, or how far to trust them

    @property
    def counted(self) -> tuple[TrialData, ...]:
        return tuple(trial for trial in self.trials if trial.state in ENDED)

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    @property
    def completed(self) -> list[TrialData]:
        """The trials that were trained to the horizon, the best first; of equals the earliest."""
        whole = (trial for trial in self.trials if trial.state == "COMPLETE" and not trial.diverged)
        return sorted(whole, key=lambda trial: (-trial.ranked, trial.number))

    @property
    def best(self) -> TrialData | None:
        return next(iter(self.completed), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationRun:
    """One confirmation run; what was measured on the N test images is None until it is tested.

    `predicted` [N] are the predicted classes, `scores` [N] those of the study's metric, `correct`
    [N] whether the prediction is right, `confidence` [N] the probability of the predicted class.
    `agreement` is the share of test images with the teacher's prediction, `teacher_kl` the mean
    KL(teacher || student) at temperature 1 in nats; both are None without the teacher's test.
    """

    replicate: int
    record: RunRecord
    predicted: NDArray[np.int64] | None = None
    scores: NDArray[np.float64] | None = None
    correct: NDArray[np.bool_] | None = None
    confidence: NDArray[np.float64] | None = None
    agreement: float | None = None
    teacher_kl: float | None = None

    @property
    def value(self) -> float | None:
        """The metric on the test split."""
        return None if self.scores is None else float(self.scores.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistData:
    """A finalist and its confirmation runs by replicate, as far as they have ended."""

    finalist: Finalist
    runs: tuple[ConfirmationRun, ...]

    @property
    def arm(self) -> str:
        return self.finalist.arm

    @property
    def role(self) -> str:
        return self.finalist.role

    @property
    def title(self) -> str:
        return self.finalist.title

    @property
    def recipe(self) -> Recipe:
        return self.finalist.recipe

    @property
    def key(self) -> str:
        """Its folder; a default that the search did not beat shares one with the tuned recipe."""
        return self.finalist.name

    @property
    def label(self) -> str:
        """Its name in the report, with its arm: "tuned plain", "scheduled: vanilla KD"."""
        return f"tuned {self.arm}" if self.role == "tuned" else f"{self.arm}: {self.title}"

    @property
    def distils(self) -> bool:
        """Whether its recipe distils; one of an arm that distils need not."""
        return learns_from_teacher(self.recipe)

    @property
    def tested(self) -> tuple[ConfirmationRun, ...]:
        return tuple(run for run in self.runs if run.scores is not None and run.record.test)

    @property
    def scores(self) -> dict[int, NDArray[np.float64]]:
        """The scores [N] of every tested run, by replicate."""
        return {run.replicate: run.scores for run in self.tested if run.scores is not None}

    @property
    def values(self) -> list[float]:
        """The metric on the test split of every tested run, by replicate."""
        return [run.value for run in self.tested if run.value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedViews:
    """How many of the study's views the teacher cache holds, and in how many bytes."""

    views: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """A study as far as it has come; `missing` are sentences about what does not exist yet.

    `teachers` are in the order of the protocol. `class_images` are empty when missing; `selection`
    are the runs that chose the finalists; `root` is the folder of all studies, as `--root` accepts
    it.
    """

    name: str
    root: str
    protocol: Protocol
    settings: StudySettings
    arms: tuple[ArmData, ...]
    selection: tuple[RunRecord, ...]
    seeds: int  # planned for every finalist; 0 before confirmation
    finalists: tuple[FinalistData, ...]
    labels: NDArray[np.int64] | None  # [N], of the test split; None before anything is tested
    teachers: tuple[TeacherData, ...]
    costs: Costs | None
    seal: tuple[Mapping[str, str], ...]
    example: str  # what one input is called: image, or example where inputs are arrays
    classes: tuple[str, ...]
    class_images: Mapping[str, tuple[int, ...]]  # by part, those of each class
    official: tuple[str, ...]  # the parts that the data set came with
    cached: CachedViews | None
    missing: tuple[str, ...]

    @property
    def images(self) -> dict[str, int]:
        """The number of images by part."""
        return {part: sum(counts) for part, counts in self.class_images.items()}

    @property
    def measure(self) -> Measure:
        """The study's metric, in words."""
        return measure(self.protocol.metric)

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps in use, by name."""
        recorded = self.settings.taps
        return self.protocol.tap_names if recorded is None else tuple(recorded)

    def arm(self, name: str) -> ArmData | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def primary_arm(self) -> str | None:
        """The first arm that distils: the one that the verdict is about."""
        return next((arm.name for arm in self.arms if arm.name != PLAIN), None)

    def trials_of(self, arm: str) -> int:
        """The number of an arm's trials that count towards its budget."""
        return sum(len(one.counted) for one in self.arms if one.name == arm)

    def student(self, recipe: Recipe) -> str:
        """The model that a recipe trains; it names none where the study has only one."""
        return recipe.student or self.protocol.student

    def tuned(self, arm: str | None) -> FinalistData | None:
        return next((one for one in self.of_role("tuned") if one.arm == arm), None)

    def chosen_trial(self, arm: ArmData) -> TrialData | None:
        """The trial that the arm's tuned finalist comes from, or else its best so far."""
        tuned = self.tuned(arm.name)
        number = tuned.finalist.trial if tuned else None
        return next((trial for trial in arm.trials if trial.number == number), arm.best)

    def trial_title(self, trial: TrialData) -> str:
        """Describe `chosen_trial`: the tuned recipe need not be the search's best trial."""
        what = "tuned recipe of" if self.tuned(trial.arm) else "best recipe so far of"
        return f"{what} {trial.arm} (trial {trial.number})"

    def of_role(self, role: str) -> tuple[FinalistData, ...]:
        return tuple(one for one in self.finalists if one.role == role)

    def named(self, finalist: FinalistData) -> str:
        """A finalist's label, with its student where the study has several.

        Finalists that share their runs are one: `tuned plain = defaults`.
        """
        same = [one for one in self.contenders if one.key == finalist.key and one is not finalist]
        label = " = ".join([finalist.label, *(one.title for one in same)])
        several = len(self.protocol.students) > 1
        return f"{label}, {model_name(self.student(finalist.recipe))}" if several else label

    def command(self, verb: str, *flags: str) -> str:
        """The line for a POSIX shell that runs a command on this study."""
        return StudyLayout(Path(self.root) / self.name, self.name).command(verb, *flags)

    @property
    def contenders(self) -> tuple[FinalistData, ...]:
        """The finalists that are compared: all but the ablations."""
        return tuple(one for one in self.finalists if one.role != "ablation")

    @property
    def confirmations(self) -> list[RunRecord]:
        """Every confirmation run once, also where two finalists share their runs."""
        folders = {one.key: one for one in self.finalists}
        return [run.record for one in folders.values() for run in one.runs]

    @property
    def test_images(self) -> int:
        """Images of the test split; 0 when unknown."""
        tested = [run.correct for one in self.finalists for run in one.runs]
        sizes = [len(correct) for correct in tested if correct is not None]
        return sizes[0] if sizes else self.images.get("test", 0)

    @property
    def teacher(self) -> TeacherData:
        """The teacher that students are compared with: of several, the best by validation."""
        return max(self.teachers, key=lambda teacher: teacher.info.get("accuracy", 0.0))

    def teacher_interval(self, teacher: TeacherData) -> tuple[float, float] | None:
        """A teacher's is one run: the interval of its metric is over the test images alone."""
        return None if teacher.scores is None else self._interval(teacher.scores[None])

    def named_teacher(self, teacher: TeacherData) -> str:
        """The words for a teacher in a sentence: `teacher`, of several `teacher resnet20`."""
        return f"teacher {model_name(teacher.model)}" if len(self.teachers) > 1 else "teacher"

    def shares(self, recipe: Recipe) -> tuple[float, ...]:
        """The share of each teacher in what a recipe's student learns."""
        return recipe.shares(len(self.teachers))

    def interval(self, finalist: FinalistData) -> tuple[float, float] | None:
        """The 95 % interval of a finalist's mean on the test split, over seeds and test images."""
        tables = list(finalist.scores.values())
        return self._interval(np.stack(tables)) if tables else None

    def _interval(self, scores: NDArray[np.float64]) -> tuple[float, float]:
        return mean_interval(scores, self.measure.worst, self.measure.best)
