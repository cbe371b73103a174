"""Findings: everything that is computed from a study before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from reports.compute.audit import Audit, audit
from reports.compute.caveats import find_caveats
from reports.compute.classes import ClassFindings, Images, compare_classes
from reports.compute.ladder import Ablation, compare_ablations
from reports.compute.ledger import Ledger, keep_ledger
from reports.compute.tuning import Tuning, compare_tuning
from reports.compute.verdict import Comparison, Verdict, decide, less_teacher, secondary
from reports.read.data import PLAIN, FinalistData, StudyData
from reports.statistics import mean_and_deviation
from storage.files.records import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A finalist's test results over its seeds; shares of 1, nll in nats, None when unknown.

    `value` is the mean of the study's metric, `interval` its 95 % interval, over seeds and test
    images. `recovered` is the share of the way from the tuned plain student to the teacher that it
    has gone; None for what does not distil, and where the teacher's lead over the plain student may
    be chance or is below the margin: a share of next to nothing says nothing.
    """

    one: FinalistData
    value: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    recovered: float | None
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
class Findings:
    data: StudyData
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    standings: tuple[Standing, ...]
    tuning: tuple[Tuning, ...]
    optimism: tuple[Optimism, ...]
    audits: tuple[Audit, ...]
    ablations: tuple[Ablation, ...]
    classes: ClassFindings | None
    teacher_interval: tuple[float, float] | None
    ledger: Ledger
    caveats: tuple[str, ...]
    images: Images = field(default_factory=dict)  # the test images that `classes` names, if read

    def standing(self, one: FinalistData | None) -> Standing | None:
        return next((item for item in self.standings if item.one is one), None)

    @property
    def distinct(self) -> tuple[Standing, ...]:
        """The standings without a default that shares its runs with the tuned recipe."""
        first = {item.one.key: item for item in reversed(self.standings)}
        return tuple(item for item in self.standings if first[item.one.key] is item)


def find(data: StudyData) -> Findings:
    verdict = decide(data)
    audits = tuple(audit(arm, data.protocol.epochs) for arm in data.arms)
    return Findings(
        data=data,
        verdict=verdict,
        comparisons=secondary(data),
        standings=tuple(_standing(data, one) for one in _ordered(data)),
        tuning=compare_tuning(data),
        optimism=tuple(_optimism(data, one) for one in data.of_role("tuned")),
        audits=audits,
        ablations=compare_ablations(data),
        classes=compare_classes(data, verdict.a, verdict.b),
        teacher_interval=data.teacher_interval,
        ledger=keep_ledger(data),
        caveats=find_caveats(data, verdict, audits),
    )


def _ordered(data: StudyData) -> list[FinalistData]:
    """The contenders arm by arm, the tuned one first."""
    arms = [arm.name for arm in data.arms]
    return sorted(
        data.contenders,
        key=lambda one: (arms.index(one.finalist.arm), one.finalist.role != "tuned"),
    )


def _standing(data: StudyData, one: FinalistData) -> Standing:
    value, deviation = mean_and_deviation(one.values) if one.values else (None, None)
    return Standing(
        one=one,
        value=value,
        deviation=deviation,
        interval=data.interval(one),
        recovered=_recovered(data, one, value),
        nll=_mean_test(one, "nll"),
        ece=_mean_test(one, "ece"),
        agreement=_mean([run.agreement for run in one.tested]),
        teacher_kl=_mean([run.teacher_kl for run in one.tested]),
        cost=_cost(data, one),
    )


def _cost(data: StudyData, one: FinalistData) -> Cost | None:
    """The cost of a finalist's own student; the first one was measured twice, for either kind."""
    student = data.student(one)
    first = "distilled" if one.distils else "plain"
    name = first if student == data.protocol.student else student
    return data.costs.models.get(name) if data.costs else None


def _recovered(data: StudyData, one: FinalistData, value: float | None) -> float | None:
    plain = data.tuned(PLAIN)
    gap = less_teacher(data, plain) if plain else None
    if not one.distils or value is None or plain is None or gap is None:
        return None
    if gap.high >= 0 or -abs(data.measure.scale) * gap.mean < data.protocol.margin:
        return None
    return (value - mean_and_deviation(plain.values)[0]) / -gap.mean


def _mean_test(one: FinalistData, name: str) -> float | None:
    return _mean([run.record.test.get(name) for run in one.tested if run.record.test])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean_and_deviation(known)[0] if known else None


def _optimism(data: StudyData, one: FinalistData) -> Optimism:
    same = data.protocol.confirm_horizon == data.protocol.epochs
    confirmed = [run.record.objective(data.measure.worst) for run in one.runs] if same else []
    selection = one.finalist.selection if same else []
    return Optimism(
        one=one,
        searched=one.finalist.searched,
        selected=mean_and_deviation(selection)[0] if selection else None,
        confirmed=mean_and_deviation(confirmed)[0] if confirmed else None,
    )
