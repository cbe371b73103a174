"""The audit of the pruner, by the trials that were exempt from it: ranks, wrong cuts, regret."""

import math
from dataclasses import dataclass

import numpy as np

from reports.read.trials import ArmData, TrialData
from reports.statistics import MINIMUM_AUDITORS, kendall_by_epoch

GOOD = 3  # a cut is wrong when the auditor ends among the best third of its arm's auditors


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditor:
    """One auditor: its validation metric at the horizon, and where it would have been cut."""

    number: int
    value: float
    cut_epoch: int | None
    wrong: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What one arm's pruner would have done with its auditors.

    `taus` are Kendall's tau of each epoch with the last, empty below 8 auditors. `regret` is the
    value of the best auditor minus that of the best one that the pruner would have kept; None if
    it would have kept none.
    """

    arm: str
    auditors: tuple[Auditor, ...]
    taus: tuple[float | None, ...]
    regret: float | None

    @property
    def cut(self) -> int:
        return sum(auditor.cut_epoch is not None for auditor in self.auditors)

    @property
    def wrong(self) -> int:
        return sum(auditor.wrong for auditor in self.auditors)

    @property
    def wrong_share(self) -> float | None:
        """The share of cuts that were wrong; None without a cut."""
        return self.wrong / self.cut if self.cut else None


def audit(arm: ArmData, horizon: int) -> Audit:
    """Judge the pruner by the auditors trained to the horizon; a diverged one has no last epoch."""
    trials = [
        trial
        for trial in arm.trials
        if trial.auditor and trial.state == "COMPLETE" and len(trial.values) == horizon
    ]
    curves = np.asarray([list(trial.values.values()) for trial in trials])
    taus = kendall_by_epoch(curves) if len(trials) >= MINIMUM_AUDITORS else []
    kept = [_last(trial) for trial in trials if trial.cut_epoch is None]
    return Audit(
        arm=arm.name,
        auditors=_auditors(trials),
        taus=tuple(taus),
        regret=max(map(_last, trials)) - max(kept) if kept else None,
    )


def _last(trial: TrialData) -> float:
    return trial.values[max(trial.values)]


def _auditors(trials: list[TrialData]) -> tuple[Auditor, ...]:
    """The best third is rounded up, and includes auditors that tie with the last of it."""
    values = sorted(map(_last, trials), reverse=True)
    good = values[math.ceil(len(trials) / GOOD) - 1] if trials else 0.0
    return tuple(
        Auditor(
            number=trial.number,
            value=_last(trial),
            cut_epoch=trial.cut_epoch,
            wrong=trial.cut_epoch is not None and _last(trial) >= good,
        )
        for trial in trials
    )
