"""The search: ask, report, prune, tell, for all arms side by side on one crew."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from conductor.display import Display
from conductor.search.arm import Arm
from kd.errors import StudyError, WorkerError
from kd.training.history import EpochMetrics
from reports.wording import measure
from storage.files.layout import StudyLayout
from storage.files.records import RunRecord
from workers.events import Diverged, EpochDone, Event, Failed, LastEvent, Note, Result
from workers.jobs import TrainJob
from workers.pools.crew import Crew, error_of

LOOK_SECONDS = 2.0  # between two looks at what other supervisors do
MAX_FAILED = 5  # trials of an arm that machines may fail before a session gives up
ENDINGS: dict[type[LastEvent], str] = {Result: "complete", Diverged: "diverged"}
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
        metric: str = "accuracy",
    ) -> None:
        self._measure = measure(metric)
        self.arms = arms
        self._crew = crew
        self._layout = layout
        self._display = display
        self._make_job = make_job
        self._publish = publish
        self._running: dict[tuple[str, int], _Trial] = {}
        self._failed: Counter[str] = Counter()
        self._orphans: list[tuple[Arm, int]] = []
        self._leaving: set[tuple[str, int]] = set()  # given up, and not stopped yet
        self._looked = -LOOK_SECONDS

    def run(self, total: int) -> None:
        """Run until every arm has `total` trials that count."""
        done = sum(min(arm.counted, total) for arm in self.arms)
        self._display.begin("trials", total * len(self.arms), done)
        if done == total * len(self.arms):
            self._display.say(f"trials: all {total} of each arm are there")
        try:
            while True:
                self._look_around()
                self._fill(total)
                if not self._crew.busy and all(arm.counted >= total for arm in self.arms):
                    return
                self._listen()
        finally:
            for arm in self.arms:
                arm.membership.leave()

    def _look_around(self) -> None:
        """Take over trials that nobody runs: at the start, and again where others may die."""
        due = time.monotonic() - self._looked >= LOOK_SECONDS
        for arm in self.arms:
            arm.membership.beat()
            if due and (arm.membership.shared or self._looked < 0):
                self._orphans += [(arm, number) for number in arm.claim()]
        if due:
            self._looked = time.monotonic()
            for key, trial in list(self._running.items()):
                if not trial.arm.owns(trial.number):
                    self._give_up(key, "taken over by another supervisor")
                    self._leaving.add(key)

    def _fill(self, total: int) -> None:
        """Give every free worker a trial: orphans first, then of the arm that has fewest."""
        while self._crew.free > 0:
            found = self._next_orphan() or self._ask(total)
            if found is None:
                return
            self._start(*found)

    def _next_orphan(self) -> tuple[Arm, int] | None:
        """Return a trial to take over; one that we gave up is not taken again while we leave it."""
        orphans = [(arm, number) for arm, number in self._orphans if arm.owns(number)]
        ready = [orphan for orphan in orphans if (orphan[0].name, orphan[1]) not in self._leaving]
        self._orphans = [orphan for orphan in orphans if orphan not in ready[:1]]
        return ready[0] if ready else None

    def _ask(self, total: int) -> tuple[Arm, int] | None:
        ready = [arm for arm in self.arms if arm.may_ask(total)]
        for arm in sorted(ready, key=lambda arm: arm.asked):
            number = arm.ask(total)
            while number is not None and (excess := arm.excess(number)):
                self._display.say(f"{arm.name} {number}: infeasible: {excess}")
                number = arm.ask(total)
            if number is not None:
                return arm, number
        return None

    def _listen(self) -> None:
        """Hear what the workers say; with others about, only until it is time to look around."""
        shared = any(arm.membership.shared for arm in self.arms)
        if not self._crew.busy:
            time.sleep(LOOK_SECONDS)  # the trials that are missing are run by others
            return
        for key, event in self._crew.events(LOOK_SECONDS if shared else None):
            last = isinstance(event, LastEvent)
            if key in self._leaving:
                self._leaving -= {key} if last else set()
                continue
            try:
                self._hear(self._running[key], event)
            except UpdateFinishedTrialError:
                arm = self._running[key].arm
                self._give_up(key, "ended by another supervisor")
                self._leaving |= set() if last else {key}
                arm.refresh()

    def _give_up(self, key: tuple[str, int], reason: str) -> None:
        """Leave a trial that another supervisor took over while we seemed dead."""
        self._crew.stop(key)
        trial = self._running.pop(key)
        self._display.run_ended(key, f"{trial.arm.name} {trial.number}: {reason}")

    def _start(self, arm: Arm, number: int) -> None:
        key, job = (arm.name, number), self._make_job(arm, number)
        self._running[key] = _Trial(arm, number, job)
        self._display.run_started(key, f"{arm.name} {number}", job.horizon)
        self._crew.start(key, job)

    def _hear(self, trial: _Trial, event: Event) -> None:
        if isinstance(event, EpochDone):
            self._hear_epoch(trial, event.metrics)
        elif isinstance(event, Note):
            self._display.say(f"{trial.arm.name} {trial.number}: {event.text}")
        elif isinstance(event, LastEvent):
            self._end(trial, event)

    def _hear_epoch(self, trial: _Trial, metrics: EpochMetrics) -> None:
        """Report an epoch, and stop the trial if it is to be pruned.

        Epochs that a stopped worker still says, or that one says again after a retry, are ignored.
        """
        if trial.pruned or metrics.epoch <= len(trial.history):
            return
        trial.history.append(metrics)
        key = (trial.arm.name, trial.number)
        self._display.epoch(key, metrics.epoch, self._measure.value(metrics.objective, 1))
        if trial.arm.report(trial.number, metrics.epoch, metrics.objective):
            trial.pruned = True
            self._crew.stop(key)

    def _end(self, trial: _Trial, event: LastEvent) -> None:
        """Tell a trial. Divergence is the worst value; only faults of a machine are failures.

        What is wrong with the study's own files (a full disk, a damaged shard) would fail every
        trial: it ends the session, raised here, and the trial goes on with the next one.
        """
        if isinstance(event, Failed) and not isinstance(error := error_of(event), WorkerError):
            raise error
        outcome = "pruned" if trial.pruned else ENDINGS.get(type(event), "failed")
        reason = event.reason if isinstance(event, Diverged | Failed) else ""
        arm, number, job = trial.arm, trial.number, trial.job
        record = RunRecord(
            recipe=job.recipe,
            seed=job.seed,
            horizon=job.horizon,
            outcome=outcome,
            reason="" if trial.pruned else reason,
            history=trial.history,
            seconds=sum(metrics.seconds for metrics in trial.history),
        )
        state = OUTCOMES.get(outcome, TrialState.COMPLETE)
        value = None if outcome == "failed" else record.objective(self._measure.worst)
        attributes = _attributes(record)
        record = replace(record, digest=arm.digest(number, state, value, attributes))
        record.write(self._layout.trial(arm.name, number).result)
        self._publish(arm, number, record)
        arm.tell(number, state, value, attributes)
        self._layout.trial(arm.name, number).checkpoint.unlink(missing_ok=True)
        del self._running[arm.name, number]
        self._say_ended(arm, number, record)
        if outcome == "failed":
            self._count_failure(arm, record.reason)

    def _count_failure(self, arm: Arm, reason: str) -> None:
        """Give up after `MAX_FAILED` failures; those of earlier sessions do not count."""
        self._failed[arm.name] += 1
        if self._failed[arm.name] >= MAX_FAILED:
            raise StudyError(
                f"{self._failed[arm.name]} trials of {arm.name} have failed; the last: {reason}"
            )

    def _say_ended(self, arm: Arm, number: int, record: RunRecord) -> None:
        best = arm.best(1)
        top = f", best {self._measure.value(best[0].value, 1)}" if best else ""
        value = self._measure.value(record.objective(self._measure.worst), 1)
        self._display.summarise(arm.name, f"{arm.name}: {arm.counted} trials{top}")
        how = {
            "complete": f"{value} validation {self._measure.name}",
            "pruned": f"pruned after epoch {len(record.history)} at {value}",
            "diverged": f"diverged: {record.reason}",
            "failed": f"failed: {record.reason}",
        }[record.outcome]
        self._display.run_ended((arm.name, number), f"{arm.name} {number}: {how}{top}")


def _attributes(record: RunRecord) -> dict[str, Any]:
    """What the study keeps of a trial beside its values."""
    attributes: dict[str, Any] = {"diverged": record.outcome == "diverged"}
    if record.reason:
        attributes["reason"] = record.reason
    if record.history:
        last = record.history[-1]
        attributes |= {"epochs": last.epoch, "nll": last.nll, "seconds": round(record.seconds, 3)}
        if last.agreement is not None:
            attributes["agreement"] = last.agreement
    return attributes
