"""Findings: everything that is computed from a study before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.caveats import find_caveats
from reports.data import ArmData, FinalistData, StudyData, TrialData
from reports.ledger import Ledger, keep_ledger
from reports.statistics import MINIMUM_AUDITORS, kendall_by_epoch, mean_and_deviation
from reports.verdict import Comparison, Verdict, decide, secondary
from storage.records import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A finalist's test results over its seeds; shares of 1, nll in nats, None when unknown."""

    one: FinalistData
    accuracy: float | None
    deviation: float | None
    nll: float | None
    ece: float | None
    agreement: float | None
    teacher_kl: float | None
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimism:
    """What a tuned recipe scored on validation images: in the search, then on fresh seeds.

    `selected` is the mean on the seeds that chose it, `confirmed` the mean of its confirmation
    runs; None where those are missing, or of another horizon than the search.
    """

    one: FinalistData
    searched: float
    selected: float | None
    confirmed: float | None

    @property
    def fresh(self) -> float | None:
        """The mean on the seeds that had no part in any choice, as far as there is one."""
        return self.selected if self.confirmed is None else self.confirmed

    @property
    def excess(self) -> float | None:
        return None if self.fresh is None else self.searched - self.fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Auditors of one arm, and Kendall's tau of each epoch with the last from 8 auditors on."""

    arm: str
    auditors: int
    taus: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    data: StudyData
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    standings: tuple[Standing, ...]
    optimism: tuple[Optimism, ...]
    audits: tuple[Audit, ...]
    ledger: Ledger
    caveats: tuple[str, ...]

    def standing(self, one: FinalistData | None) -> Standing | None:
        return next((item for item in self.standings if item.one is one), None)


def find(data: StudyData) -> Findings:
    verdict = decide(data)
    return Findings(
        data=data,
        verdict=verdict,
        comparisons=secondary(data),
        standings=tuple(_standing(data, one) for one in _ordered(data)),
        optimism=tuple(_optimism(data, one) for one in data.of_role("tuned")),
        audits=tuple(_audit(arm, data.protocol.epochs) for arm in data.arms),
        ledger=keep_ledger(data),
        caveats=find_caveats(data, verdict),
    )


def best_trial(data: StudyData, arm: ArmData) -> TrialData | None:
    """The trial that the arm's tuned finalist comes from, or else its best so far."""
    tuned = data.tuned(arm.name)
    number = tuned.finalist.trial if tuned else None
    return next((trial for trial in arm.trials if trial.number == number), arm.best)


def _ordered(data: StudyData) -> list[FinalistData]:
    """Finalists arm by arm, the tuned one first."""
    arms = [arm.name for arm in data.arms]
    return sorted(
        data.finalists,
        key=lambda one: (arms.index(one.finalist.arm), one.finalist.role != "tuned"),
    )


def _standing(data: StudyData, one: FinalistData) -> Standing:
    accuracy, deviation = mean_and_deviation(one.accuracies) if one.accuracies else (None, None)
    model = "distilled" if one.distils else "plain"
    return Standing(
        one=one,
        accuracy=accuracy,
        deviation=deviation,
        nll=_mean_test(one, "nll"),
        ece=_mean_test(one, "ece"),
        agreement=_mean([run.agreement for run in one.tested]),
        teacher_kl=_mean([run.teacher_kl for run in one.tested]),
        cost=data.costs.models.get(model) if data.costs else None,
    )


def _mean_test(one: FinalistData, name: str) -> float | None:
    return _mean([run.record.test.get(name) for run in one.tested if run.record.test])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean_and_deviation(known)[0] if known else None


def _optimism(data: StudyData, one: FinalistData) -> Optimism:
    same = data.protocol.confirm_horizon == data.protocol.epochs
    confirmed = [run.record.accuracy for run in one.runs] if same else []
    selection = one.finalist.selection if same else []
    return Optimism(
        one=one,
        searched=one.finalist.search_accuracy,
        selected=mean_and_deviation(selection)[0] if selection else None,
        confirmed=mean_and_deviation(confirmed)[0] if confirmed else None,
    )


def _audit(arm: ArmData, horizon: int) -> Audit:
    """Take the auditors that were trained to the horizon; a diverged one has no last epoch."""
    curves = [
        list(trial.values.values())
        for trial in arm.trials
        if trial.auditor and trial.state == "COMPLETE" and len(trial.values) == horizon
    ]
    enough = len(curves) >= MINIMUM_AUDITORS
    taus = kendall_by_epoch(np.asarray(curves)) if enough else []
    return Audit(arm=arm.name, auditors=len(curves), taus=tuple(taus))
