"""No distillation: the student that distillation has to beat, tuned with the same effort."""

from optuna.trial import BaseTrial

from kd.recipe import Recipe

DEFAULTS = {"lr": 0.1, "weight_decay": 5e-4, "label_smoothing": 0.0}


def suggest(trial: BaseTrial) -> Recipe:
    """Suggest what every arm may vary."""
    return Recipe(
        lr=trial.suggest_float("lr", 0.01, 0.3, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 2e-3, log=True),
        label_smoothing=trial.suggest_float("label_smoothing", 0, 0.1),
    )


ENQUEUED = {"defaults": DEFAULTS}
