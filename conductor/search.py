"""The search: ask, report, prune, tell, for all arms side by side on one crew."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState

from conductor.arm import Arm
from conductor.crew import Crew
from conductor.progress import Display, percent
from kd.errors import StudyError
from kd.metrics import EpochMetrics
from storage.layout import StudyLayout
from storage.records import RunRecord
from workers.events import LAST_EVENTS, Event
from workers.jobs import TrainJob

MAX_FAILED = 5  # trials of an arm that machines may fail before the study gives up
OUTCOMES = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}  # all others are COMPLETE

MakeJob = Callable[[Arm, int], TrainJob]
Publish = Callable[[Arm, int, RunRecord], None]


@dataclass(slots=True)
class _Trial:
    """A trial in progress, and the epoch after which it was pruned."""

    arm: Arm
    number: int
    job: TrainJob
    history: list[EpochMetrics] = field(default_factory=list)
    pruned: bool = False


class Search:
    """Brings every arm to the same number of trials. Running it again finishes, or does nothing."""

    def __init__(
        self,
        arms: list[Arm],
        crew: Crew,
        layout: StudyLayout,
        display: Display,
        make_job: MakeJob,
        publish: Publish,
    ) -> None:
        self.arms = arms
        self._crew = crew
        self._layout = layout
        self._display = display
        self._make_job = make_job
        self._publish = publish
        self._running: dict[tuple[str, int], _Trial] = {}

    def run(self, total: int) -> None:
        """Run until every arm has `total` trials that count."""
        done = sum(min(arm.counted, total) for arm in self.arms)
        self._display.begin("trials", total * len(self.arms), done)
        orphans = [(arm, number) for arm in self.arms for number in arm.running]
        while True:
            self._fill(orphans, total)
            if not self._running:
                return
            for key, event in self._crew.events():
                self._hear(self._running[key], event)

    def _fill(self, orphans: list[tuple[Arm, int]], total: int) -> None:
        """Give every free worker a trial: those left by an earlier session first."""
        while self._crew.free > 0:
            if orphans:
                self._start(*orphans.pop(0))
                continue
            ready = [arm for arm in self.arms if arm.may_ask(total)]
            if not ready:
                return
            arm = min(ready, key=lambda arm: len(arm.trials))
            self._start(arm, arm.ask())

    def _start(self, arm: Arm, number: int) -> None:
        key, job = (arm.name, number), self._make_job(arm, number)
        self._running[key] = _Trial(arm, number, job)
        self._display.run_started(key, f"{arm.name} {number}", job.horizon)
        self._crew.start(key, job)

    def _hear(self, trial: _Trial, event: Event) -> None:
        if event["event"] == "epoch":
            self._hear_epoch(trial, EpochMetrics.from_json(event["metrics"]))
        elif event["event"] == "note":
            self._display.say(f"{trial.arm.name} {trial.number}: {event['text']}")
        elif event["event"] in LAST_EVENTS:
            self._end(trial, event)

    def _hear_epoch(self, trial: _Trial, metrics: EpochMetrics) -> None:
        """Report an epoch, and stop the trial if it is to be pruned.

        Epochs that a stopped worker still says, or that one says again after a retry, are ignored.
        """
        if trial.pruned or metrics.epoch <= len(trial.history):
            return
        trial.history.append(metrics)
        key = (trial.arm.name, trial.number)
        self._display.epoch(key, metrics.epoch, metrics.accuracy)
        if trial.arm.report(trial.number, metrics.epoch, metrics.accuracy):
            trial.pruned = True
            self._crew.stop(key)

    def _end(self, trial: _Trial, event: Event) -> None:
        """Tell a trial. Divergence is the worst value; only faults of a machine are failures."""
        ending = {"result": "complete", "diverged": "diverged"}.get(event["event"], "failed")
        outcome = "pruned" if trial.pruned else ending
        arm, number, job = trial.arm, trial.number, trial.job
        record = RunRecord(
            recipe=job.recipe,
            seed=job.seed,
            horizon=job.horizon,
            outcome=outcome,
            reason=event.get("reason", "") if outcome in ("diverged", "failed") else "",
            history=trial.history,
            seconds=sum(metrics.seconds for metrics in trial.history),
            digest=digest(job, outcome, trial.history),
        )
        record.write(self._layout.trial(arm.name, number).result)
        state = OUTCOMES.get(outcome, TrialState.COMPLETE)
        value = None if outcome == "failed" else record.accuracy
        self._publish(arm, number, record)
        arm.tell(number, state, value, _attributes(record))
        self._layout.trial(arm.name, number).checkpoint.unlink(missing_ok=True)
        del self._running[arm.name, number]
        self._say_ended(arm, number, record)
        if arm.failed >= MAX_FAILED:
            raise StudyError(
                f"{arm.failed} trials of {arm.name} have failed; the last: {record.reason}"
            )

    def _say_ended(self, arm: Arm, number: int, record: RunRecord) -> None:
        best = arm.best(1)
        top = f", best {percent(best[0].value or 0.0)}" if best else ""
        self._display.summarise(arm.name, f"{arm.name}: {arm.counted} trials{top}")
        how = {
            "complete": f"{percent(record.accuracy)} validation accuracy",
            "pruned": f"pruned after epoch {len(record.history)} at {percent(record.accuracy)}",
            "diverged": f"diverged: {record.reason}",
            "failed": f"failed: {record.reason}",
        }[record.outcome]
        self._display.run_ended((arm.name, number), f"{arm.name} {number}: {how}{top}")


def digest(job: TrainJob, outcome: str, history: list[EpochMetrics]) -> str:
    """Return what identifies a trial's result: SHA-256 of recipe, outcome and accuracies."""
    content: list[Any] = [
        job.recipe.to_json(),
        outcome,
        [metrics.accuracy for metrics in history],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _attributes(record: RunRecord) -> dict[str, Any]:
    """What the study keeps of a trial beside its values."""
    attributes: dict[str, Any] = {"diverged": record.outcome == "diverged", "digest": record.digest}
    if record.reason:
        attributes["reason"] = record.reason
    if record.history:
        last = record.history[-1]
        attributes |= {"epochs": last.epoch, "nll": last.nll, "seconds": round(record.seconds, 3)}
        if last.agreement is not None:
            attributes["agreement"] = last.agreement
    return attributes
