"""Findings: everything that is computed from a study before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from reports.caveats.caveats import find_caveats
from reports.compute.audit import Audit, audit
from reports.compute.classes import ClassFindings, Images, compare_classes
from reports.compute.comparisons import (
    Comparison,
    compare_ablations,
    compare_others,
    minus_teacher,
)
from reports.compute.ledger import Ledger, keep_ledger
from reports.compute.rungs import ArmRungs, find_rungs
from reports.compute.tuning import Tuning, compare_tuning
from reports.compute.verdict import Verdict, decide
from reports.intervals import ratio_interval
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import mean_and_deviation
from storage.files.records import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A finalist's test results over its seeds; shares in 0-1, nll in nats, None when unknown.

    `value` is the mean of the study's metric, `interval` its 95 % interval over seeds and test
    images. `recovered` is its gain over the tuned plain student as a share of the teacher's, with
    `recovered_interval`, None where that is unbounded; None
    for a recipe that does not distil, and where the teacher's gain may be chance or is below the
    margin, since a share of almost nothing has no meaning.
    """

    finalist: FinalistData
    value: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    recovered: float | None
    recovered_interval: tuple[float, float] | None
    nll: float | None
    ece: float | None
    agreement: float | None
    teacher_kl: float | None
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimism:
    """A tuned recipe's scores on validation images: in the search, then on fresh seeds.

    `searched` is the mean over its runs at the horizon, with a sampler the score of its trial, None
    if the search did not train it to the horizon; `selected` is the mean on the seeds that chose
    it, `confirmed` the mean of its confirmation runs; these are None if they are missing, or their
    horizon is not that of the search.
    """

    finalist: FinalistData
    searched: float | None
    selected: float | None
    confirmed: float | None

    @property
    def fresh(self) -> float | None:
        """The mean on the seeds that had no part in any choice, or else on those of selection."""
        return self.selected if self.confirmed is None else self.confirmed

    @property
    def excess(self) -> float | None:
        if self.searched is None or self.fresh is None:
            return None
        return self.searched - self.fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    data: StudyData
    verdict: Verdict
    comparisons: tuple[Comparison, ...]  # all but that of the verdict
    standings: tuple[Standing, ...]
    tuning: tuple[Tuning, ...]
    optimism: tuple[Optimism, ...]
    audits: tuple[Audit, ...]  # none of a search by promotion
    rungs: tuple[ArmRungs, ...]  # none of one with a pruner
    ablations: tuple[Comparison, ...]  # each minus the winner, the worst first
    classes: ClassFindings | None
    ledger: Ledger
    caveats: tuple[str, ...]
    images: Images = field(default_factory=dict)  # the test images that `classes` names, if read

    def standing(self, finalist: FinalistData | None) -> Standing | None:
        return next((item for item in self.standings if item.finalist is finalist), None)

    @property
    def distinct(self) -> tuple[Standing, ...]:
        """The standings without a default that shares its runs with the tuned recipe."""
        first = {item.finalist.key: item for item in reversed(self.standings)}
        return tuple(item for item in self.standings if first[item.finalist.key] is item)


def find(data: StudyData) -> Findings:
    verdict = decide(data)
    audited = () if data.by_promotion else data.arms
    audits = tuple(audit(arm, data.protocol.epochs) for arm in audited)
    rungs = find_rungs(data)
    return Findings(
        data=data,
        verdict=verdict,
        comparisons=compare_others(data),
        standings=tuple(_standing(data, one) for one in _ordered(data)),
        tuning=compare_tuning(data),
        optimism=tuple(_optimism(data, one) for one in data.of_role("tuned")),
        audits=audits,
        rungs=rungs,
        ablations=compare_ablations(data),
        classes=compare_classes(data, verdict.a, verdict.b),
        ledger=keep_ledger(data),
        caveats=find_caveats(data, verdict, audits, rungs),
    )


def _ordered(data: StudyData) -> list[FinalistData]:
    """The contenders arm by arm, the tuned one first."""
    arms = [arm.name for arm in data.arms]
    return sorted(
        data.contenders,
        key=lambda finalist: (arms.index(finalist.arm), finalist.role != "tuned"),
    )


def _standing(data: StudyData, finalist: FinalistData) -> Standing:
    value, deviation = mean_and_deviation(finalist.values) if finalist.values else (None, None)
    recovered = _recovered(data, finalist, value)
    return Standing(
        finalist=finalist,
        value=value,
        deviation=deviation,
        interval=data.interval(finalist),
        recovered=recovered,
        recovered_interval=None if recovered is None else _recovered_interval(data, finalist),
        nll=_mean_test(finalist, "nll"),
        ece=_mean_test(finalist, "ece"),
        agreement=_mean([run.agreement for run in finalist.tested]),
        teacher_kl=_mean([run.teacher_kl for run in finalist.tested]),
        cost=_cost(data, finalist),
    )


def _cost(data: StudyData, finalist: FinalistData) -> Cost | None:
    """The cost of a finalist's own student; the first student was measured twice."""
    student = data.student(finalist.recipe)
    first = "distilled" if finalist.distils else "plain"
    name = first if student == data.protocol.student else student
    return data.costs.models.get(name) if data.costs else None


def _recovered(data: StudyData, finalist: FinalistData, value: float | None) -> float | None:
    plain = data.tuned(PLAIN)
    gap = minus_teacher(data, plain) if plain else None
    if not finalist.distils or value is None or plain is None or gap is None:
        return None
    if gap.high >= 0 or -abs(data.measure.scale) * gap.mean < data.protocol.margin:
        return None
    return (value - mean_and_deviation(plain.values)[0]) / -gap.mean


def _recovered_interval(data: StudyData, finalist: FinalistData) -> tuple[float, float] | None:
    """The interval on the seeds of both students; None if unbounded, or below two seeds."""
    plain, teacher = data.tuned(PLAIN), data.teacher.scores
    common = sorted(set(finalist.scores) & set(plain.scores)) if plain else []
    if plain is None or teacher is None or len(common) < 2:
        return None
    student, base = (
        np.stack([one.scores[replicate] for replicate in common]) for one in (finalist, plain)
    )
    return ratio_interval(student - base, teacher - base)


def _mean_test(finalist: FinalistData, name: str) -> float | None:
    return _mean([run.record.test.get(name) for run in finalist.tested if run.record.test])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean_and_deviation(known)[0] if known else None


def _optimism(data: StudyData, finalist: FinalistData) -> Optimism:
    same = data.protocol.confirm_horizon == data.protocol.epochs
    confirmed = [run.record.objective(data.measure.worst) for run in finalist.runs] if same else []
    return Optimism(
        finalist=finalist,
        searched=finalist.finalist.searched,
        selected=_mean(finalist.finalist.selection if same else []),
        confirmed=_mean(confirmed),
    )
