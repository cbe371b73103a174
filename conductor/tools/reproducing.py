"""Trains one run of a study again from its record, and compares them epoch by epoch.

It trains in a scratch folder: the study's database and folders do not change, and the test split
stays sealed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from tempfile import TemporaryDirectory

from conductor.display import Display
from conductor.stages.confirm import view_order
from conductor.stages.provenance import machine, read_context
from kd.errors import StudyError
from kd.names import LIBRARIES
from kd.protocol import Protocol
from kd.registry import check_name
from kd.training.history import EpochMetrics
from reports.wording import counted
from storage.files.artifacts import read_record
from storage.files.layout import RunLayout, StudyLayout
from storage.files.records import Costs, Finalists, RunRecord, StudySettings
from workers.events import Diverged, EpochDone, Failed, Note
from workers.jobs import KernelsJob, TrainJob
from workers.pools.worker_pool import WorkerPool, error_of

DECISIVE = ("torch", "torchvision")  # libraries whose version changes the bits of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A run that is trained again: its title, its record, and its views in order."""

    title: str
    record: RunRecord
    views: list[int]


def trial_subject(paths: StudyLayout, number: int, arm: str | None) -> Subject:
    """Return trial `number` of an arm, by default of the first that distils.

    Raises ProtocolError for an unknown arm, StudyError for a trial that has not ended or that has
    failed.
    """
    arms = StudySettings.read(paths.settings).arms
    name = arm or next((other for other in arms if other != "plain"), arms[0])
    check_name(f"arm of study {paths.name}", name, arms)
    views = range(_protocol(paths).view_count)
    return _subject(f"trial {number} of {name}", paths.trial(name, number), list(views))


def finalist_subject(paths: StudyLayout, name: str, replicate: int) -> Subject:
    """Return confirmation run `replicate`, from 0, of a finalist.

    Raises ProtocolError for an unknown finalist, StudyError for a run that has not ended.
    """
    if not paths.finalists.exists():
        raise StudyError(f"study {paths.name} has not been confirmed")
    known = dict.fromkeys(f.name for f in Finalists.read(paths.finalists).finalists)
    check_name(f"finalist of study {paths.name}", name, known)
    run = paths.confirmation(name, replicate)
    subject = _subject(f"replicate {replicate} of {name}", run, [])
    return replace(subject, views=view_order(subject.record.seed, _protocol(paths).view_count))


def _subject(title: str, run: RunLayout, views: list[int]) -> Subject:
    if not run.result.exists():
        raise StudyError(f"{title} has not ended or does not exist: {run.result} is missing")
    record = RunRecord.read(run.result)
    if record.outcome == "failed":
        raise StudyError(f"{title} failed because of the machine: {record.reason}")
    return Subject(title=title, record=record, views=views)


def _protocol(paths: StudyLayout) -> Protocol:
    return read_record(paths.protocol, Protocol)


def reproduce_run(
    paths: StudyLayout,
    subject: Subject,
    workers: WorkerPool,
    display: Display,
    verifying: str,
) -> bool:
    """Train the run again, and compare it with its record. Returns whether every bit is equal.

    It is trained from epoch 1 to the last of its record, also where its trial continued another
    one, was pruned or paused. `verifying` is the command to print if
    no reason for a difference is known.
    """
    settings = StudySettings.read(paths.settings)
    context, record = read_context(paths), subject.record
    with TemporaryDirectory(dir=paths.folder, prefix=".reproduce-") as folder:
        job = context.job(
            TrainJob,
            folder=folder,
            recipe=record.recipe,
            seed=record.seed,
            horizon=record.horizon,
            until=_epochs(record),
            views=subject.views,
        )
        history, reason = _train(subject, job, workers, display)
    difference = first_difference(record, history, reason)
    if difference is None:
        how = f"; it diverged again: {reason}" if reason else ""
        epochs = counted(len(history), "epoch")
        display.say(f"{subject.title}: {epochs}, equal to the last bit{how}")
        return True
    display.say(f"{subject.title}: {difference}")
    kernels = str(workers.run(context.job(KernelsJob))["used"])
    reasons = list(known_reasons(settings, paths, kernels))
    display.say(
        f"possible reasons: {'; '.join(reasons)}"
        if reasons
        else f"versions and machine are those of the study; check the teacher cache: {verifying}"
    )
    return False


def _train(
    subject: Subject, job: TrainJob, workers: WorkerPool, display: Display
) -> tuple[list[EpochMetrics], str]:
    """Train the recorded epochs; return them, and why the run diverged, if it did."""
    reason = ""
    history: list[EpochMetrics] = []
    epochs = _epochs(subject.record)
    with display.bar(subject.title, epochs) as bar:
        workers.start(subject.title, job)
        while workers.busy:
            for _, event in workers.events():
                if isinstance(event, EpochDone) and event.metrics.epoch == len(history) + 1:
                    history.append(event.metrics)
                    bar(len(history), epochs)
                elif isinstance(event, Note):
                    display.say(event.text)
                elif isinstance(event, Diverged):
                    reason = event.reason
                elif isinstance(event, Failed):
                    raise error_of(event)
    return history[:epochs], reason


def _epochs(record: RunRecord) -> int:
    """Return how many epochs to train; one more than recorded where the run diverged in it."""
    return len(record.history) + (record.outcome == "diverged")


def first_difference(record: RunRecord, history: list[EpochMetrics], reason: str) -> str | None:
    """Return the first epoch and figure in which a run differs from its record, or None.

    `reason` is why the run diverged, empty if it did not. Seconds are not compared.
    """
    for kept, fresh in zip(record.history, history, strict=False):
        differing = [
            name
            for name, value in kept.to_json().items()
            if name != "seconds" and value != getattr(fresh, name)
        ]
        if differing:
            return f"differs from epoch {kept.epoch} on: {_compared(kept, fresh, differing)}"
    if reason != record.reason or len(history) != len(record.history):
        was, now = _ending(record.history, record.reason), _ending(history, reason)
        return f"its common epochs are equal, but it had {was}; now it has {now}"
    return None


def _ending(history: list[EpochMetrics], reason: str) -> str:
    return counted(len(history), "epoch") + (f", then: {reason}" if reason else "")


def _compared(was: EpochMetrics, now: EpochMetrics, names: list[str]) -> str:
    """Return both values of the first figure, and the names of others that differ."""
    first, *others = names
    left, right = getattr(was, first), getattr(now, first)
    apart = "" if None in (left, right) else f" ({abs(left - right):.2g} apart)"
    more = f"; so do {', '.join(others)}" if others else ""
    return f"{first} was {left}, is {right}{apart}{more}"


def known_reasons(settings: StudySettings, paths: StudyLayout, kernels: str) -> Iterator[str]:
    """Yield what has changed since the study last ran and may change the bits of a run.

    `kernels` are the present convolution kernels.
    """
    of_models = [library for library in LIBRARIES.names if library in settings.versions]
    for name in dict.fromkeys((*DECISIVE, *of_models)):
        was, now = settings.versions.get(name), version(name)
        if was != now:
            yield f"{name} was {was}, is {now}"
    for name, now in machine(kernels).items():
        was = settings.machine.get(name)
        if name in ("system", "processor", "kernels") and was != now:
            yield f"the {name} was {was}, is {now}"
    if paths.costs.exists() and (device := Costs.read(paths.costs).device) != "cpu":
        yield f"the study ran on {device}, where results may differ in their last bits"
