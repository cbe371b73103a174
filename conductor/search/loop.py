"""The search loop: ask, report, stop and tell, for all arms at once on the same workers."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import TrialState

from conductor.search.arm import Arm
from conductor.search.decisions import Decisions
from conductor.search.promotion.rungs import rungs_of
from conductor.search.stage import Stage, run_record
from kd.errors import StudyError, WorkerError
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics, early_signal
from reports.wording import counted, recipes_begun, trainings
from storage.files.records import RunRecord
from storage.studies.trials import EARLY, RUN, UNTIL
from workers.events import Diverged, EpochDone, Event, Failed, LastEvent, Note, Result
from workers.jobs import TrainJob
from workers.pools.worker_pool import error_of

MAX_FAILED = 5  # failed trials of an arm, after which the session ends
ENDINGS: dict[type[LastEvent], str] = {Result: "complete", Diverged: "diverged"}
PRUNED = ("pruned", "paused")  # outcomes of runs that ended before the horizon

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
    """Runs trials until every arm has spent the same. Ended trials are not run again.

    What a trial costs, and the unit of `--trials`, are those of the arms' way to search: trials, or
    epochs (`conductor.search.proposal`).
    """

    def run(self, total: int, publish: Publish, deadline: float = math.inf) -> float:
        """Run until every arm has spent `total` units; `publish` is called before a trial ends.

        After `deadline`, on the monotonic clock, arms are only filled to the whole units that the
        one that is furthest has spent. Returns the units that each arm was given.
        """
        self._publish = publish
        self._deadline = deadline
        self._running: dict[tuple[str, int], _Trial] = {}
        self._failed: Counter[str] = Counter()
        self._unit = self._arms[0].decisions.unit
        limit = total * self._unit
        self._begin(limit)
        if all(arm.decisions.spent >= limit for arm in self._arms):
            self._display.say(f"search: all {self._words(limit)} of each arm have been spent")
        self._unfinished = [(arm, number) for arm in self._arms for number in arm.decisions.running]
        limit = self._fill(limit)
        while self._workers.busy:
            for key, event in self._workers.events():
                self._on_event(self._running[key], event)
            limit = self._fill(limit)
        for arm in self._arms if self._unit > 1 else ():
            begun, whole = arm.decisions.recipes_begun
            spent = self._words(arm.decisions.spent)
            self._display.say(f"{arm.name}: {spent}: {recipes_begun(begun, whole)}")
        return limit / self._unit

    def _begin(self, limit: int) -> None:
        done = sum(min(arm.decisions.spent, limit) for arm in self._arms)
        what = "trials" if self._unit == 1 else "epochs of the search"
        self._display.begin(what, limit * len(self._arms), done)

    def _words(self, limit: int) -> str:
        """Return a budget in words, as in "20 trials" or "20 trainings' worth of epochs"."""
        return trainings(limit / self._unit) if self._unit > 1 else counted(limit, "trial")

    def _fill(self, limit: int) -> int:
        """Give every free worker a trial; return the limit, which shrinks when the time ends."""
        if time.monotonic() >= self._deadline:
            self._deadline = math.inf
            most = max(arm.decisions.committed for arm in self._arms)
            most = most // self._unit * self._unit or most  # arms may be apart by less than a unit
            if 0 < most < limit:
                self._display.say(
                    f"the time of the search has ended: {self._words(most)} of each arm, not "
                    f"{limit // self._unit}; to continue, run the command again"
                )
                self._begin(most)
            limit = min(most, limit)
        self._start_trials(limit)
        return limit

    def _start_trials(self, limit: int) -> None:
        """Give every free worker a trial; unfinished trials of an earlier session come first."""
        while self._workers.free > 0:
            trial = self._unfinished.pop(0) if self._unfinished else self._ask(limit)
            if trial is None:
                return
            self._start(*trial)

    def _ask(self, limit: int) -> tuple[Arm, int] | None:
        """Ask the arm that is furthest behind, of those that may begin one, for its next trial."""
        ready = [arm for arm in self._arms if arm.decisions.may_ask(limit)]
        for arm in sorted(ready, key=lambda arm: arm.decisions.committed):
            number = arm.ask(limit)
            while number is not None and (excess := arm.decisions.excess(number)):
                self._display.say(f"{arm.name} {number}: infeasible: {excess}")
                number = arm.ask(limit)
            if number is not None:
                return arm, number
        return None

    def _start(self, arm: Arm, number: int) -> None:
        key, job = (arm.name, number), self.job(arm, number)
        self._running[key] = _Trial(arm, number, job)
        self._display.run_started(key, f"{arm.name} {number}", job.end)
        self._workers.start(key, job)

    def job(self, arm: Arm, number: int) -> TrainJob:
        """Make a trial's job.

        Its seed and folder are those of its run, and the seed depends on the number of that alone:
        arms have the same seeds.
        """
        protocol, told = self._context.protocol, arm.decisions.trial(number).user_attrs
        run = told.get(RUN, number)
        return self._context.job(
            TrainJob,
            folder=str(self._layout.trial(arm.name, run).folder),
            recipe=arm.decisions.recipe(number),
            seed=derive_seed(protocol.seed, "trial", run),
            horizon=protocol.epochs,
            until=told.get(UNTIL, 0),
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
        if outcome == "complete" and trial.job.end < trial.job.horizon:
            outcome = "paused"
        arm, number, run = trial.arm, trial.number, trial.job.run
        reason = ""
        if isinstance(event, Diverged | Failed) and not trial.pruned:
            reason = event.reason
        record = run_record(trial.job, trial.history, outcome=outcome, reason=reason)
        state = TrialState.PRUNED if outcome in PRUNED else TrialState.COMPLETE
        state = TrialState.FAIL if outcome == "failed" else state
        value = None if outcome == "failed" else record.objective(self._measure.worst)
        attributes = _attributes(record, arm.decisions, number)
        record = replace(record, digest=arm.decisions.digest(number, state, value, attributes))
        record.write(self._layout.trial(arm.name, number).result)
        self._publish(arm, number, record)
        arm.tell(number, state, value, attributes)
        if outcome != "paused":
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
        best = arm.decisions.highest
        top = f", best {self._measure.value(best.value, 1)}" if best else ""
        value = self._measure.value(record.objective(self._measure.worst), 1)
        spent = self._words(arm.decisions.spent)
        self._display.summarise(arm.name, f"{arm.name}: {spent}{top}")
        how = {
            "complete": f"{value} validation {self._measure.name}",
            "paused": f"paused after epoch {len(record.history)} at {value}",
            "pruned": f"pruned after epoch {len(record.history)} at {value}",
            "diverged": f"diverged: {record.reason}",
            "failed": f"failed: {record.reason}",
        }[record.outcome]
        title = f"{arm.name} {number}: {how}{top}"
        self._display.run_ended((arm.name, number), title, arm.decisions.cost(number))


def _attributes(record: RunRecord, decisions: Decisions, number: int) -> dict[str, Any]:
    """Return the user attributes of a trial that has ended with this record of its run.

    `epochs` is the epoch that the run has reached, `seconds` the time of the trial's own epochs.
    """
    attributes: dict[str, Any] = {"diverged": record.outcome == "diverged"}
    if record.reason:
        attributes["reason"] = record.reason
    if record.history:
        last = record.history[-1]
        own = sum(epoch.seconds for epoch in record.history[decisions.begun(number) :])
        attributes |= {"epochs": last.epoch, "nll": last.nll, "seconds": round(own, 3)}
        if last.agreement is not None:
            attributes["agreement"] = last.agreement
    if RUN in decisions.trial(number).user_attrs:
        rungs = rungs_of(record.horizon)
        attributes[EARLY] = {
            str(rung): early_signal(record.history[:rung])
            for rung in rungs
            if rung <= len(record.history)
        }
    return attributes
