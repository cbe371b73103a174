"""What other programs read: trials.csv, which `docs/report-schema.md` describes."""

from typing import Any

import pandas as pd

from reports.read.data import StudyData
from reports.read.trials import TrialData

FIRST = ("arm", "number", "state", "value")  # columns of trials.csv before the parameters
LAST = ("epochs", "diverged", "auditor", "started", "seconds")
OF_JOBS = ("run", "continues", "repeats", "begun", "until", "early_signal")  # then LAST


def metric_value(data: StudyData, score: float | None) -> float | None:
    """Return a value, or a difference of values, as the metric's own."""
    return None if score is None else data.measure.sign * score + 0.0


def trials_frame(data: StudyData) -> pd.DataFrame:
    """One row per trial, by arm and number; only `started` and `seconds` vary between runs."""
    trials = [trial for arm in data.arms for trial in arm.trials]
    parameters = sorted({name for trial in trials for name in trial.parameters})
    others = (*(OF_JOBS if data.by_promotion else ()), *LAST)

    def column(parameter: str) -> str:
        """Keep parameters apart from the other columns: a user's space may use their names."""
        return f"parameter {parameter}" if parameter in (*FIRST, *others) else parameter

    rows = [
        {
            "arm": trial.arm,
            "number": trial.number,
            "state": trial.state,
            "value": metric_value(data, trial.value),
            **{column(name): trial.parameters.get(name) for name in parameters},
            **_job(trial),
            "epochs": trial.epochs,
            "diverged": trial.diverged,
            "auditor": trial.auditor,
            "started": trial.started.isoformat() if trial.started else None,
            "seconds": trial.trained_seconds,
        }
        for trial in trials
    ]
    frame = pd.DataFrame(rows, columns=[*FIRST, *map(column, parameters), *others])
    whole = [name for name in ("run", "continues", "repeats", "until") if name in others]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _job(trial: TrialData) -> dict[str, Any]:
    """The columns of a job of the search by promotion."""
    if trial.run is None:
        return {}
    last = max(trial.early, default=None)
    return {
        "run": trial.run,
        "continues": trial.continues,
        "repeats": trial.repeats,
        "begun": trial.begun,
        "until": trial.until,
        "early_signal": None if last is None else trial.early[last],
    }
