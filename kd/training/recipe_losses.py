"""The losses of a recipe for a batch: hard, soft and feature."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kd.data.labels import Labels, MixedLabels, targets
from kd.losses import features
from kd.losses import logits as logit_losses
from kd.losses.adapters import Adapters, feature_loss
from kd.losses.features import FeatureLoss
from kd.losses.hard import hard
from kd.losses.logits import LogitLoss
from kd.recipe import Recipe
from kd.training.teacher import TeacherReading


@dataclass(frozen=True, slots=True)
class RecipeLosses:
    """The losses of a recipe, loaded once and not at every step."""

    label_smoothing: float
    soft: LogitLoss | None
    feature: FeatureLoss | None

    @classmethod
    def of(cls, recipe: Recipe) -> "RecipeLosses":
        soft, feature = recipe.soft_kind, recipe.feature_kind
        return cls(
            label_smoothing=recipe.label_smoothing,
            soft=None if soft == "none" else logit_losses.load(soft, recipe.soft_parameters),
            feature=(
                None if feature == "none" else features.load(feature, recipe.feature_parameters)
            ),
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
        hard_loss = hard(student_logits, labels, self.label_smoothing)
        if isinstance(labels, MixedLabels):
            labels = targets(labels, student_logits.shape[1])
        soft_loss = feature = torch.zeros_like(hard_loss)
        if reading is not None:
            if self.soft:
                soft_loss = self.soft.loss(student_logits, reading.logits, labels, temperature)
            if self.feature:
                feature = feature_loss(self.feature, student_taps, reading.taps, adapters)
        return hard_loss, soft_loss, feature
