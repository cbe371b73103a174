"""Distillation with a fixed temperature and alpha, a soft and a feature loss."""

from typing import Any

from optuna.trial import BaseTrial

from kd.recipe import Recipe, Schedule
from search_spaces import plain
from search_spaces.context import StudyContext
from search_spaces.scheduled import kl, no_feature, suggest_feature, suggest_soft


def suggest(trial: BaseTrial, study: StudyContext) -> Recipe:
    """Suggest a recipe."""
    temperature = trial.suggest_float("temperature", 1, 10, log=True)
    alpha = trial.suggest_float("alpha", 0, 1)
    soft_kind = suggest_soft(trial, study)
    feature = suggest_feature(trial, study)
    return Recipe(
        soft_kind=soft_kind,
        temperature=Schedule.constant(temperature),
        alpha=Schedule.constant(alpha),
        **feature,
        **plain.suggest_common(trial, study),
    )


def enqueued(study: StudyContext) -> dict[str, dict[str, Any]]:
    """Return the parameters of the recipes to try first, by title."""
    vanilla = {"temperature": 4.0, "alpha": 0.9, **kl(study), **no_feature(study)}
    return {"vanilla KD": {**vanilla, **plain.defaults(study)}}
