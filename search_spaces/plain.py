"""No distillation: the baseline that distillation has to beat, tuned with the same budget."""

from typing import Any

from optuna.trial import BaseTrial

from kd.recipe import Recipe
from search_spaces.context import StudyContext


def suggest(trial: BaseTrial, study: StudyContext) -> Recipe:
    """Suggest a recipe with the parameters that all built-in arms vary."""
    return Recipe(**suggest_common(trial, study))


def suggest_common(trial: BaseTrial, study: StudyContext) -> dict[str, Any]:
    """Suggest what all built-in arms vary: fields of a recipe."""
    lr, decay = study.lr, study.weight_decay
    return {
        "lr": trial.suggest_float("lr", lr.low, lr.high, log=True),
        "weight_decay": trial.suggest_float("weight_decay", decay.low, decay.high, log=True),
        "label_smoothing": trial.suggest_float("label_smoothing", 0, 0.1),
    }


def defaults(study: StudyContext) -> dict[str, Any]:
    """Return the default parameters, with which enqueued recipes begin."""
    return {
        "lr": study.lr.default,
        "weight_decay": study.weight_decay.default,
        "label_smoothing": 0.0,
    }


def enqueued(study: StudyContext) -> dict[str, dict[str, Any]]:
    """Return the parameters of the recipes to try first, by title."""
    return {"defaults": defaults(study)}
