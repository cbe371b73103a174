"""The choice among several teachers: one of them, or an average of all."""

from collections.abc import Sequence

from optuna.trial import BaseTrial

AVERAGE = "average"
SHARES = 0.1, 0.9  # of the first teacher in an average


def suggest_shares(trial: BaseTrial, teachers: Sequence[str]) -> tuple[float, ...]:
    """Suggest a recipe's `teacher_shares` of these teachers.

    In an average, `teacher_share` is that of the first, and the others have equal parts of the
    rest.
    """
    chosen = trial.suggest_categorical("teacher", (AVERAGE, *teachers))
    if chosen != AVERAGE:
        return tuple(float(name == chosen) for name in teachers)
    first, others = trial.suggest_float("teacher_share", *SHARES), len(teachers) - 1
    return first, *[(1 - first) / others] * others


def equal_shares(teachers: Sequence[str]) -> dict[str, str | float]:
    """Return the parameters of the average in which all teachers have the same share."""
    return {"teacher": AVERAGE, "teacher_share": 1 / len(teachers)}
