"""No distillation: the student that distillation has to beat, tuned with the same effort."""

from typing import Any

from optuna.trial import BaseTrial

from kd.recipe import Recipe
from search_spaces.context import StudyContext


def suggest(trial: BaseTrial, study: StudyContext) -> Recipe:
    """Suggest what every arm may vary."""
    lr, decay = study.lr, study.weight_decay
    return Recipe(
        lr=trial.suggest_float("lr", lr.low, lr.high, log=True),
        weight_decay=trial.suggest_float("weight_decay", decay.low, decay.high, log=True),
        label_smoothing=trial.suggest_float("label_smoothing", 0, 0.1),
    )


def defaults(study: StudyContext) -> dict[str, Any]:
    """Return the parameters of a recipe that is tried first, before any is tuned."""
    return {
        "lr": study.lr.default,
        "weight_decay": study.weight_decay.default,
        "label_smoothing": 0.0,
    }


def enqueued(study: StudyContext) -> dict[str, dict[str, Any]]:
    """Return what is tried first, by title."""
    return {"defaults": defaults(study)}
