"""What a report is made from: one frozen `StudyData`, read once, of plain values and numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd.protocol import Protocol
from kd.recipe import Recipe
from reports.intervals import mean_interval
from reports.read.teachers import TeacherData
from reports.read.trials import ArmData, TrialData
from reports.wording import Measure, measure, model_name
from storage.files.layout import StudyLayout
from storage.files.records import Costs, Finalist, RunRecord, StudySettings
from storage.files.seal import Choice, Opening, OtherStudies

PLAIN = "plain"  # the arm without distillation, the baseline of every verdict


def learns_from_teacher(recipe: Recipe) -> bool:
    """Whether the teacher has any weight in the loss: a soft loss at alpha 0 has none."""
    return any(recipe.alpha.ends) or recipe.feature_kind != "none"


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
    seal: tuple[Opening, ...]  # of the test split
    choices: tuple[Choice, ...]  # of finalists
    others: OtherStudies
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

    @property
    def by_promotion(self) -> bool:
        """Whether the search was by promotion, so that a budget is a number of epochs."""
        return not self.settings.sampler

    @property
    def unit(self) -> int:
        """What one of `--trials` is, in the measure of `spent`: a trial, or a training's epochs."""
        return self.protocol.epochs if self.by_promotion else 1

    def spent(self, arm: ArmData) -> int:
        """What an arm's search took of its budget: trials, or epochs."""
        if not self.by_promotion:
            return len(arm.counted)
        return sum(trial.spent for trial in arm.counted)

    def same_budget(self, one: ArmData, other: ArmData) -> bool:
        """Whether two arms were searched equally.

        The last job of an arm may take it beyond its epochs, by less than a training's worth.
        """
        return abs(self.spent(one) - self.spent(other)) < self.unit

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
        paused = self.by_promotion and trial.state == "PRUNED" and trial.history
        where = f", paused after epoch {trial.history[-1].epoch}" if paused else ""
        return f"{what} {trial.arm} (trial {trial.number}{where})"

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
