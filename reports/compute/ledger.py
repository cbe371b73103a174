"""The budget ledger: what was trained, what pruning and the cache saved, where time went."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reports.read.data import StudyData
from reports.read.trials import ENDED, ArmData
from storage.files.records import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmLedger:
    """Trials and epochs of one arm's search.

    planned = runs * horizon = trained + saved (by pruning, or since runs are paused) + cut (by
    divergence); the epochs of failed and unfinished trials are `lost` and not part of the plan.
    With a sampler each trial is a run.
    """

    arm: str
    trials: int
    runs: int
    complete: int
    pruned: int
    failed: int
    unfinished: int
    diverged: int
    planned: int
    trained: int
    saved: int
    cut: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """`teacher_asked` and `teacher_saved` are passes of the teacher over one image each.

    `teacher_saved` can be negative: then filling the cache cost more than it saved so far. It is
    None while the size of the training split or the number of cached views is unknown.
    """

    arms: tuple[ArmLedger, ...]
    selection_epochs: int
    confirmation_epochs: int
    distilled_epochs: int  # search, selection and confirmation, with a cached teacher
    teacher_asked: int | None
    teacher_saved: int | None
    cache_bytes: int | None
    seconds: Mapping[str, float]


def keep_ledger(data: StudyData) -> Ledger:
    confirmation = data.confirmations
    trained = [
        (trial.record, trial.epochs) for arm in data.arms for trial in arm.trials if trial.record
    ]
    trained += [(record, len(record.history)) for record in (*data.selection, *confirmation)]
    served = [(record, epochs) for record, epochs in trained if _is_served(data, record)]
    asked = _asked(data)
    passes = sum(_readers(data, record) * epochs for record, epochs in served)
    return Ledger(
        arms=tuple(_arm_ledger(arm, data.protocol.epochs) for arm in data.arms),
        selection_epochs=_epochs(data.selection),
        confirmation_epochs=_epochs(confirmation),
        distilled_epochs=sum(epochs for _, epochs in served),
        teacher_asked=asked,
        teacher_saved=None if asked is None else passes * data.images["train"] - asked,
        cache_bytes=data.cached.bytes if data.cached else None,
        seconds=dict(data.settings.seconds),
    )


def _epochs(records: Iterable[RunRecord]) -> int:
    return sum(len(record.history) for record in records)


def _is_served(data: StudyData, record: RunRecord) -> bool:
    """Whether a run read the cache instead of running the teacher."""
    if not record.recipe.distils or data.settings.cache == "none":
        return False
    return data.settings.cache == "all" or not record.recipe.reads_taps


def _readers(data: StudyData, record: RunRecord) -> int:
    """How many teachers a run reads."""
    return sum(share > 0 for share in data.shares(record.recipe))


def _asked(data: StudyData) -> int | None:
    """The teachers' passes over images that filled the cache: views times training images."""
    if "train" not in data.images or (data.cached is None and data.settings.cache != "none"):
        return None
    return data.cached.views * data.images["train"] if data.cached else 0


def _arm_ledger(arm: ArmData, horizon: int) -> ArmLedger:
    counted, runs = arm.counted, arm.runs
    return ArmLedger(
        arm=arm.name,
        trials=len(counted),
        runs=len(runs),
        complete=arm.count("COMPLETE"),
        pruned=arm.count("PRUNED"),
        failed=arm.count("FAIL"),
        unfinished=arm.count("RUNNING") + arm.count("WAITING"),
        diverged=sum(trial.diverged for trial in arm.trials),
        planned=horizon * len(runs),
        trained=sum(trial.epochs for trial in counted),
        saved=sum(horizon - run.reached for run in runs if run.state == "PRUNED"),
        cut=sum(horizon - run.reached for run in runs if run.state == "COMPLETE"),
        lost=sum(trial.epochs for trial in arm.trials if trial.state not in ENDED),
    )
