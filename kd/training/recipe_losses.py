"""The losses of a recipe for a batch: hard, soft and feature."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kd.data.labels import Labels, MixedLabels, targets
from kd.losses import features
from kd.losses import logits as logit_losses
from kd.losses.adapters import Adapters, feature_loss
from kd.losses.features import FeatureLoss
from kd.losses.hard import hard
from kd.losses.logits import LogitLoss
from kd.losses.own import Output, OwnLoss
from kd.recipe import Recipe
from kd.training.teacher import TeacherReading


@dataclass(frozen=True, slots=True)
class RecipeLosses:
    """The losses of a recipe, loaded once and not at every step.

    `taps` are read from student and teacher: those of the feature loss and, for a soft loss of the
    user's own, all of the study.
    """

    label_smoothing: float
    soft: LogitLoss | OwnLoss | None
    feature: FeatureLoss | None
    feature_taps: tuple[str, ...]
    taps: tuple[str, ...]
    class_weights: Tensor | None = None  # [C], of the hard loss

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        files: Path | None = None,
        study_taps: tuple[str, ...] = (),
        class_weights: Tensor | None = None,
    ) -> "RecipeLosses":
        """Load the losses; `files` is the folder with copies of the user's files."""
        feature, own = recipe.feature_kind, recipe.own_loss
        return cls(
            label_smoothing=recipe.label_smoothing,
            soft=_soft(recipe, files),
            feature_taps=recipe.feature_taps,
            taps=tuple(dict.fromkeys((*recipe.feature_taps, *(study_taps if own else ())))),
            feature=(
                None if feature == "none" else features.load(feature, recipe.feature_parameters)
            ),
            class_weights=class_weights,
        )

    def compute(
        self,
        temperature: float,
        student_logits: Tensor,
        student_taps: Mapping[str, Tensor],
        labels: Labels,
        reading: TeacherReading | None,
        adapters: Adapters,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hard, soft and feature losses of a batch; a term that is missing is 0.

        A soft loss receives the labels of mixed images as the share of each class, [B, C].
        """
        hard_loss = hard(student_logits, labels, self.label_smoothing, self.class_weights)
        if isinstance(labels, MixedLabels):
            labels = targets(labels, student_logits.shape[1])
        soft_loss = feature = torch.zeros_like(hard_loss)
        if reading is not None:
            if isinstance(self.soft, OwnLoss):
                ours = Output.of(student_logits, student_taps)
                theirs = Output.of(reading.logits, reading.taps)
                soft_loss = self.soft(ours, theirs, labels, temperature)
            elif self.soft:
                soft_loss = self.soft.loss(student_logits, reading.logits, labels, temperature)
            if self.feature:
                maps = {tap: student_taps[tap] for tap in self.feature_taps}
                readings = {tap: reading.taps[tap] for tap in self.feature_taps}
                feature = feature_loss(self.feature, maps, readings, adapters)
        return hard_loss, soft_loss, feature


def _soft(recipe: Recipe, files: Path | None) -> LogitLoss | OwnLoss | None:
    if recipe.own_loss and files:
        return OwnLoss.find(recipe.own_loss, files)
    if recipe.soft_kind == "none":
        return None
    return logit_losses.load(recipe.soft_kind, recipe.soft_parameters)
