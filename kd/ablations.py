"""Ablations: copies of a recipe, each without one of its parts, to see what it contributes."""

import math
from dataclasses import fields, replace
from typing import Any

from kd.recipe import Recipe, Schedule

POINTS = 1000  # intervals of the midpoint rule for a schedule's mean over the horizon


def mean_value(schedule: Schedule) -> float:
    """Return a schedule's mean over the horizon, by the midpoint rule."""
    return math.fsum(schedule.value((point + 0.5) / POINTS) for point in range(POINTS)) / POINTS


def ablations(recipe: Recipe, defaults: Recipe) -> dict[str, Recipe]:
    """Return copies of `recipe`, each without one of its parts, by a description of the change.

    Changes that have no effect are omitted, for example of a temperature where alpha is 0.
    `defaults` provides the optimizer's values before tuning.
    """
    soft = recipe.alpha.ends != (0, 0)
    variants = {
        "with constant temperature": _constant(recipe, "temperature") if soft else recipe,
        "with constant alpha": _constant(recipe, "alpha"),
        "without feature loss": _default_fields(recipe, "feature"),
        "without soft loss": (
            _default_fields(recipe, "soft", "temperature", "alpha") if soft else recipe
        ),
        "with default optimizer": replace(
            recipe,
            lr=defaults.lr,
            weight_decay=defaults.weight_decay,
            label_smoothing=defaults.label_smoothing,
        ),
    }
    return {change: variant for change, variant in variants.items() if variant != recipe}


def _default_fields(recipe: Recipe, *beginnings: str) -> Recipe:
    """Return a recipe with the defaults of all fields whose names begin so."""
    names = [field.name for field in fields(Recipe) if field.name.startswith(beginnings)]
    default = Recipe()
    changed = {name: getattr(default, name) for name in names}
    kinds = [changed.get(name, getattr(recipe, name)) for name in ("soft_kind", "feature_kind")]
    if kinds == ["none", "none"]:  # then no teacher has a share
        changed["teacher_shares"] = ()
    return replace(recipe, **changed)


def _constant(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe with the mean of the schedule `name` in its place, if that moves at all."""
    schedule: Schedule = getattr(recipe, name)
    if schedule.initial == schedule.final:
        return recipe
    constant: dict[str, Any] = {name: Schedule.constant(mean_value(schedule))}
    return replace(recipe, **constant)
