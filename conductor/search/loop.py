"""The search loop: ask, report, prune and tell, for all arms at once on the same workers."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import TrialState

from conductor.search.arm import Arm
from conductor.search.stage import Stage, run_record
from kd.errors import StudyError, WorkerError
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics
from storage.files.records import RunRecord
from workers.events import Diverged, EpochDone, Event, Failed, LastEvent, Note, Result
from workers.jobs import TrainJob
from workers.pools.worker_pool import error_of

MAX_FAILED = 5  # failed trials of an arm, after which the session ends
ENDINGS: dict[type[LastEvent], str] = {Result: "complete", Diverged: "diverged"}
OUTCOMES = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}  # all others are COMPLETE

Publish = Callable[[Arm, int, RunRecord], None]


@dataclass(slots=True)
class _Trial:
    """A trial in progress, and the epoch after which it was pruned."""

    arm: Arm
    number: int
    job: TrainJob
    history: list[EpochMetrics] = field(default_factory=list)
    pruned: bool = False


class Search(Stage):
    """Runs trials until every arm has the same number. Ended trials are not run again."""

    def run(self, total: int, publish: Publish, deadline: float = math.inf) -> int:
        """Run until every arm has `total` counted trials; `publish` is called before each ends.

        After `deadline`, on the monotonic clock, arms are only filled to the number of the one with
        the most trials. Returns the number of trials of each arm.
        """
        self._publish = publish
        self._deadline = deadline
        self._running: dict[tuple[str, int], _Trial] = {}
        self._failed: Counter[str] = Counter()
        done = sum(min(arm.decisions.counted, total) for arm in self._arms)
        self._display.begin("trials", total * len(self._arms), done)
        if done == total * len(self._arms):
            self._display.say(f"trials: all {total} of each arm have already run")
        self._unfinished = [(arm, number) for arm in self._arms for number in arm.decisions.running]
        total = self._fill(total)
        while self._workers.busy:
            for key, event in self._workers.events():
                self._on_event(self._running[key], event)
            total = self._fill(total)
        return total

    def _fill(self, total: int) -> int:
        """Give every free worker a trial; return the total, which shrinks when the time ends."""
        if time.monotonic() >= self._deadline:
            self._deadline = math.inf
            most = max(arm.decisions.begun for arm in self._arms)
            if 0 < most < total:
                self._say_ended(most, total)
            total = min(most, total)
        self._start_trials(total)
        return total

    def _say_ended(self, most: int, total: int) -> None:
        self._display.say(
            f"the time of the search has ended: {most} of {total} trials of each arm; to continue, "
            "run the command again"
        )
        done = sum(min(arm.decisions.counted, most) for arm in self._arms)
        self._display.begin("trials", most * len(self._arms), done)

    def _start_trials(self, total: int) -> None:
        """Give every free worker a trial; unfinished trials of an earlier session come first."""
        while self._workers.free > 0:
            trial = self._unfinished.pop(0) if self._unfinished else self._ask(total)
            if trial is None:
                return
            self._start(*trial)

    def _ask(self, total: int) -> tuple[Arm, int] | None:
        """Ask the arm with the fewest trials, of those that may begin one, for its next trial."""
        ready = [arm for arm in self._arms if arm.decisions.may_ask(total)]
        for arm in sorted(ready, key=lambda arm: arm.decisions.asked):
            number = arm.ask(total)
            while number is not None and (excess := arm.decisions.excess(number)):
                self._display.say(f"{arm.name} {number}: infeasible: {excess}")
                number = arm.ask(total)
            if number is not None:
                return arm, number
        return None

    def _start(self, arm: Arm, number: int) -> None:
        key, job = (arm.name, number), self.job(arm, number)
        self._running[key] = _Trial(arm, number, job)
        self._display.run_started(key, f"{arm.name} {number}", job.horizon)
        self._workers.start(key, job)

    def job(self, arm: Arm, number: int) -> TrainJob:
        """Make a trial's job. Its seed depends on its number alone: arms have the same seeds."""
        protocol = self._context.protocol
        return self._context.job(
            TrainJob,
            folder=str(self._layout.trial(arm.name, number).folder),
            recipe=arm.decisions.recipe(number),
            seed=derive_seed(protocol.seed, "trial", number),
            horizon=protocol.epochs,
            views=list(range(protocol.view_count)),
        )

    def _on_event(self, trial: _Trial, event: Event) -> None:
        if isinstance(event, EpochDone):
            self._on_epoch(trial, event.metrics)
        elif isinstance(event, Note):
            self._display.say(f"{trial.arm.name} {trial.number}: {event.text}")
        elif isinstance(event, LastEvent):
            self._end(trial, event)

    def _on_epoch(self, trial: _Trial, metrics: EpochMetrics) -> None:
        """Report an epoch, and stop the trial if the pruner decides so.

        Epochs after the decision to prune, or repeated after a retry, are ignored.
        """
        if trial.pruned or metrics.epoch <= len(trial.history):
            return
        trial.history.append(metrics)
        key = (trial.arm.name, trial.number)
        self._display.epoch(key, metrics.epoch, self._measure.value(metrics.objective, 1))
        if trial.arm.report(trial.number, metrics.epoch, metrics.objective):
            trial.pruned = True
            self._workers.stop(key)

    def _end(self, trial: _Trial, event: LastEvent) -> None:
        """End a trial. If it diverged, its value is the worst; only faults of a machine are FAIL.

        Errors in the study's files (a full disk, a damaged shard) would fail every trial, so they
        are raised and end the session; the next session continues the trial.
        """
        if isinstance(event, Failed) and not isinstance(error := error_of(event), WorkerError):
            raise error
        outcome = "pruned" if trial.pruned else ENDINGS.get(type(event), "failed")
        arm, number, run = trial.arm, trial.number, trial.job.run
        reason = ""
        if isinstance(event, Diverged | Failed) and not trial.pruned:
            reason = event.reason
        record = run_record(trial.job, trial.history, outcome=outcome, reason=reason)
        state = OUTCOMES.get(outcome, TrialState.COMPLETE)
        value = None if outcome == "failed" else record.objective(self._measure.worst)
        attributes = _attributes(record)
        record = replace(record, digest=arm.decisions.digest(number, state, value, attributes))
        record.write(run.result)
        self._publish(arm, number, record)
        arm.tell(number, state, value, attributes)
        run.checkpoint.unlink(missing_ok=True)
        del self._running[arm.name, number]
        self._print_ended(arm, number, record)
        if outcome == "failed":
            self._count_failure(arm, record.reason)

    def _count_failure(self, arm: Arm, reason: str) -> None:
        """Raise StudyError after `MAX_FAILED` failures in this session."""
        self._failed[arm.name] += 1
        if self._failed[arm.name] >= MAX_FAILED:
            raise StudyError(
                f"{self._failed[arm.name]} trials of {arm.name} have failed; the last: {reason}"
            )

    def _print_ended(self, arm: Arm, number: int, record: RunRecord) -> None:
        best = arm.decisions.best(1)
        top = f", best {self._measure.value(best[0].value, 1)}" if best else ""
        value = self._measure.value(record.objective(self._measure.worst), 1)
        self._display.summarise(arm.name, f"{arm.name}: {arm.decisions.counted} trials{top}")
        how = {
            "complete": f"{value} validation {self._measure.name}",
            "pruned": f"pruned after epoch {len(record.history)} at {value}",
            "diverged": f"diverged: {record.reason}",
            "failed": f"failed: {record.reason}",
        }[record.outcome]
        self._display.run_ended((arm.name, number), f"{arm.name} {number}: {how}{top}")


def _attributes(record: RunRecord) -> dict[str, Any]:
    """Return the user attributes of a trial."""
    attributes: dict[str, Any] = {"diverged": record.outcome == "diverged"}
    if record.reason:
        attributes["reason"] = record.reason
    if record.history:
        last = record.history[-1]
        attributes |= {"epochs": last.epoch, "nll": last.nll, "seconds": round(record.seconds, 3)}
        if last.agreement is not None:
            attributes["agreement"] = last.agreement
    return attributes
