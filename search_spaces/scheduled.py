"""The default space: temperature and alpha schedules, a soft and a feature loss."""

from typing import Any

from optuna.trial import BaseTrial

from kd.recipe import SHAPES, SHARP_SHAPES, Recipe, Schedule
from search_spaces import plain
from search_spaces.context import StudyContext

FEATURE_KINDS = ("none", "hint", "cosine", "attention", "similarity")
SOFT_KINDS = ("kl", "zscore", "dkd", "dist")
TAPS = ("last1", "last1+last2", "last1+last2+last3")


def suggest(trial: BaseTrial, study: StudyContext) -> Recipe:
    """Suggest a recipe. A parameter that would have no effect is not sampled."""
    temperature = suggest_schedule(trial, "temperature", 1, 10, log=True)
    alpha = suggest_schedule(trial, "alpha", 0, 1)
    soft_kind = suggest_soft(trial, study)
    feature = suggest_feature(trial, study)
    return Recipe(
        soft_kind=soft_kind,
        temperature=temperature,
        alpha=alpha,
        **feature,
        **plain.suggest_common(trial, study),
    )


def suggest_schedule(
    trial: BaseTrial, name: str, low: float, high: float, *, log: bool = False
) -> Schedule:
    """Suggest `name`_shape, `name`_initial and, where they have an effect, final and sharpness."""
    shape = trial.suggest_categorical(f"{name}_shape", SHAPES)
    initial = trial.suggest_float(f"{name}_initial", low, high, log=log)
    if shape == "constant":
        return Schedule.constant(initial)
    final = trial.suggest_float(f"{name}_final", low, high, log=log)
    if shape not in SHARP_SHAPES:
        return Schedule(shape=shape, initial=initial, final=final)
    sharpness = trial.suggest_float(f"{name}_sharpness", 0, 1)
    return Schedule(shape=shape, initial=initial, final=final, sharpness=sharpness)


def suggest_soft(trial: BaseTrial, study: StudyContext) -> str:
    """Suggest the soft loss, unless the study has one."""
    return study.loss or trial.suggest_categorical("soft_kind", soft_kinds(study))


def soft_kinds(study: StudyContext) -> list[str]:
    """Return the choices of the soft loss.

    With two classes a standardised row is (-0.7, 0.7) or (0.7, -0.7), whatever the logits, so
    `zscore` has no gradient; and `dkd`, with one class beside the label, is `kl`. Where images are
    mixed, `dkd` has no single label.
    """
    without = {"zscore", "dkd"} if study.binary else {"dkd"} if study.mixing else set()
    return [kind for kind in SOFT_KINDS if kind not in without]


def kl(study: StudyContext) -> dict[str, str]:
    """Return the parameters of a recipe to try first whose soft loss is `kl`, or the study's."""
    return {} if study.loss else {"soft_kind": "kl"}


def suggest_feature(trial: BaseTrial, study: StudyContext) -> dict[str, Any]:
    """Suggest kind, weight and taps of the feature loss: the fields of a recipe, if it has one."""
    if not study.taps:
        return {}
    kind = trial.suggest_categorical("feature_kind", FEATURE_KINDS)
    if kind == "none":
        return {}
    weight = trial.suggest_float("feature_weight", 1e-3, 10, log=True)
    taps = trial.suggest_categorical("feature_taps", study.offered(TAPS))
    return {"feature_kind": kind, "feature_weight": weight, "feature_taps": (*taps.split("+"),)}


def no_feature(study: StudyContext) -> dict[str, str]:
    """Return the parameters of a recipe to try first that has no feature loss."""
    return {"feature_kind": "none"} if study.taps else {}


def enqueued(study: StudyContext) -> dict[str, dict[str, Any]]:
    """Return the parameters of the recipes to try first, by title: classic, and Hinton's."""
    classic = {
        "temperature_shape": "linear",
        "temperature_initial": 5.0,
        "temperature_final": 1.0,
        "alpha_shape": "linear",
        "alpha_initial": 0.9,
        "alpha_final": 0.3,
        **kl(study),
    }
    if study.taps:
        classic |= {
            "feature_kind": "hint",
            "feature_weight": 1.0,
            "feature_taps": study.offered(TAPS[:2])[-1],
        }
    vanilla = {
        "temperature_shape": "constant",
        "temperature_initial": 4.0,
        "alpha_shape": "constant",
        "alpha_initial": 0.9,
        **kl(study),
        **no_feature(study),
    }
    common = plain.defaults(study)
    return {"classic": {**classic, **common}, "vanilla KD": {**vanilla, **common}}
