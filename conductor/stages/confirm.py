"""Selection and confirmation: the search's best recipes again, on fresh seeds.

The best few recipes of each arm run again on fresh seeds, and the one with the best mean on the
validation images is the arm's winner: the search's own best score is biased upward. Winners and
defaults then run on further seeds, the same for all, and of a student's runs only these see the
test split. On request so do the ablations of the winner that the verdict is about.
"""

import random
from dataclasses import dataclass, replace
from statistics import fmean

from optuna.trial import FrozenTrial

from conductor.search.arm import Arm
from conductor.search.stage import Stage, run_record
from kd.ablations import ablations
from kd.errors import ArtifactError, StudyError
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics
from reports.wording import Measure
from storage.files.layout import RunLayout
from storage.files.records import Finalist, Finalists, RunRecord
from storage.files.seal import record_choice
from workers.events import Diverged, EpochDone, Event, Note, Result
from workers.jobs import TrainJob

CANDIDATES = 3  # of each arm that run again before one is chosen
SELECTION_SEEDS = 3

Scores = dict[int, list[float]]  # the validation metric on the seeds of the selection, by trial


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of the selection or the confirmation."""

    title: str
    job: TrainJob


class Confirmation(Stage):
    """Selection and confirmation of one study. Runs that have ended are not run again."""

    def run(self, seeds: int, *, ablate: bool = False) -> Finalists:
        """Choose the finalists, record them, then confirm them.

        `seeds` is a minimum: finalists that all have runs on more seeds keep them.
        """
        scores = self._select()
        finalists = [
            finalist for arm in self._arms for finalist in _finalists(arm, scores[arm.name])
        ]
        ladder = self._ladder(finalists, ablate=ablate)
        seeds = max(seeds, self._confirmed(finalists))
        chosen = Finalists(seeds=seeds, finalists=[*finalists, *ladder])
        chosen.write(self._layout.finalists)
        trials = {arm.name: len(arm.decisions.trials) for arm in self._arms}
        tuned = {one.arm: one.name for one in finalists if one.role == "tuned"}
        record_choice(self._layout.seal, trials, tuned)
        for stage, group in (("confirmation", finalists), ("ablation", ladder)):
            if group:
                self._run_all(stage, self._confirmations(group, seeds))
        return chosen

    def _confirmed(self, finalists: list[Finalist]) -> int:
        """Return how many seeds, from the first, all finalists have been confirmed on."""
        names = {finalist.name for finalist in finalists}
        replicate = 0
        while all(self._layout.confirmation(name, replicate).result.exists() for name in names):
            replicate += 1
        return replicate

    def _confirmations(self, finalists: list[Finalist], seeds: int) -> list[_Run]:
        """Return the runs of all finalists on the first seed, then on the second, and so on."""
        recipes = {finalist.name: finalist for finalist in finalists}
        return [
            _Run(
                f"{finalist.arm} {finalist.title}, seed {replicate + 1} of {seeds}",
                self._job(
                    self._layout.confirmation(finalist.name, replicate),
                    finalist.recipe,
                    derive_seed(self._context.protocol.seed, "confirmation", replicate),
                    f"{finalist.arm} {finalist.title}, seed {replicate + 1}",
                ),
            )
            for replicate in range(seeds)
            for finalist in recipes.values()
        ]

    def _ladder(self, finalists: list[Finalist], *, ablate: bool) -> list[Finalist]:
        """Return the ablations of the winner that the verdict is about.

        Those of an earlier call stay, while the winner is the same. One that has the recipe of a
        finalist, or of another ablation, shares its runs.
        """
        arm = next((arm for arm in self._arms if arm.name != "plain"), None)
        if arm is None:
            return []
        (winner,) = (one for one in finalists if (one.arm, one.role) == (arm.name, "tuned"))
        names = {one.recipe: one.name for one in finalists}
        ladder = [
            replace(
                winner,
                name=names.setdefault(recipe, f"{winner.name}-{done.replace(' ', '-')}"),
                title=done,
                role="ablation",
                recipe=recipe,
                selection=[],
            )
            for done, recipe in ablations(winner.recipe, _defaults(arm)).items()
        ]
        return ladder if ablate else [one for one in ladder if one.title in self._earlier(winner)]

    def _earlier(self, winner: Finalist) -> set[str]:
        """Return the titles of this recipe's recorded ablations."""
        path = self._layout.finalists
        kept = Finalists.read(path).finalists if path.exists() else []
        same = any(
            (one.arm, one.role, one.recipe) == (winner.arm, winner.role, winner.recipe)
            for one in kept
        )
        return {one.title for one in kept if same and one.role == "ablation"}

    def _select(self) -> dict[str, Scores]:
        """Run the candidates of every arm; return their validation scores by trial."""
        runs: dict[tuple[str, int, int], _Run] = {}
        for arm in self._arms:
            candidates = _candidates(arm)
            if not candidates:
                raise StudyError(f"arm {arm.name} has no trial to confirm; add --trials")
            for recipe, trial in candidates.items():
                first = arm.decisions.first(recipe)
                for replicate in range(SELECTION_SEEDS):
                    runs[arm.name, trial.number, replicate] = _Run(
                        f"{arm.name} {trial.number}, selection {replicate + 1}",
                        self._job(
                            self._layout.selection(arm.name, first, replicate),
                            recipe,
                            derive_seed(self._context.protocol.seed, "selection", replicate),
                        ),
                    )
        records = self._run_all("selection", list(runs.values()))
        scores: dict[str, Scores] = {arm.name: {} for arm in self._arms}
        for (arm_name, number, _), record in zip(runs, records, strict=True):
            scores[arm_name].setdefault(number, []).append(record.objective(self._measure.worst))
        return scores

    def _run_all(self, stage: str, runs: list[_Run]) -> list[RunRecord]:
        """Run what is missing, and return the records of all, in order."""
        records = [_finished(run.job) for run in runs]
        jobs = {index: run.job for index, run in enumerate(runs) if records[index] is None}
        self._display.begin(f"{stage} runs", len(runs), len(runs) - len(jobs))
        histories: dict[int, list[EpochMetrics]] = {}

        def listen(index: int, event: Event) -> None:
            if isinstance(event, Note):
                self._display.say(f"{runs[index].title}: {event.text}")
            elif isinstance(event, EpochDone):
                history = histories.setdefault(index, [])
                self._on_epoch(index, runs[index], history, event.metrics)

        for index, event in self._workers.run_all(jobs, listen):
            record = _record(runs[index].job, event, histories.get(index, []))
            records[index] = record
            self._display.run_ended(index, _ending(runs[index], record, self._measure))
        return [record for record in records if record is not None]

    def _job(self, run: RunLayout, recipe: Recipe, seed: int, purpose: str = "") -> TrainJob:
        """Make a run's job; with a `purpose` in words, the run is tested for it."""
        protocol = self._context.protocol
        return self._context.job(
            TrainJob,
            folder=str(run.folder),
            recipe=recipe,
            seed=seed,
            horizon=protocol.confirm_horizon,
            views=view_order(seed, protocol.view_count),
            confirm=purpose,
            seal=str(self._layout.seal) if purpose else "",
        )

    def _on_epoch(
        self, index: int, run: _Run, history: list[EpochMetrics], metrics: EpochMetrics
    ) -> None:
        """Keep an epoch; one that is repeated after a retry is kept once."""
        if not history:
            self._display.run_started(index, run.title, run.job.horizon)
        if metrics.epoch > len(history):
            history.append(metrics)
        self._display.epoch(index, metrics.epoch, self._measure.value(metrics.objective, 1))


def _record(job: TrainJob, event: Result | Diverged, history: list[EpochMetrics]) -> RunRecord:
    if isinstance(event, Diverged):
        record = run_record(job, history, outcome="diverged", reason=event.reason)
    else:
        record = run_record(job, history, outcome="complete", test=event["test"])
    record.write(job.run.result)
    job.run.checkpoint.unlink(missing_ok=True)
    return record


def _finished(job: TrainJob) -> RunRecord | None:
    """Return the record of a run that has ended. Raises ArtifactError for that of another run.

    A tested run whose predictions are lost is run again.
    """
    if not job.run.result.exists():
        return None
    record = RunRecord.read(job.run.result)
    if (record.recipe, record.seed, record.horizon) != (job.recipe, job.seed, job.horizon):
        raise ArtifactError(f"{job.folder} holds another run; delete it")
    lost = record.test and not job.run.predictions.exists()
    return None if lost else record


def _ending(run: _Run, record: RunRecord, measure: Measure) -> str:
    if record.outcome == "diverged":
        return f"{run.title}: diverged: {record.reason}"
    if record.test is None:
        value = measure.value(record.objective(measure.worst), 1)
        return f"{run.title}: {value} validation {measure.name}"
    return f"{run.title}: {measure.value(record.test['objective'], 1)} test {measure.name}"


def _candidates(arm: Arm) -> dict[Recipe, FrozenTrial]:
    """Return the best recipes of an arm, each with the first of its trials that are ranked.

    Equal recipes give equal results on the seeds of the selection.
    """
    candidates: dict[Recipe, FrozenTrial] = {}
    for trial in arm.decisions.ranked():
        candidates.setdefault(arm.decisions.recipe(trial.number), trial)
        if len(candidates) == CANDIDATES:
            break
    return candidates


def _finalists(arm: Arm, scores: Scores) -> list[Finalist]:
    """Return the arm's defaults and, last, its winner by its mean value on validation images."""
    trials = {trial.number: trial for trial in arm.decisions.trials}
    winner = max(scores, key=lambda number: (sum(scores[number]), -number))
    by_recipe = {arm.decisions.recipe(number): values for number, values in scores.items()}
    defaults = [
        _finalist(
            arm, trials[number], title, "default", by_recipe.get(arm.decisions.recipe(number), [])
        )
        for number, title in enumerate(arm.decisions.space.enqueued)
        if number in trials
    ]
    return [*defaults, _finalist(arm, trials[winner], "tuned", "tuned", scores[winner])]


def _finalist(
    arm: Arm, trial: FrozenTrial, title: str, role: str, selection: list[float]
) -> Finalist:
    """Make a finalist. Its folder is named by the first trial with its recipe.

    So one recipe is confirmed once, also where the winner has the recipe of a default, or where
    later trials repeat that of a finalist.
    """
    recipe = arm.decisions.recipe(trial.number)
    return Finalist(
        name=f"{arm.name}-{arm.decisions.first(recipe):05d}",
        title=title,
        arm=arm.name,
        role=role,
        recipe=recipe,
        trial=trial.number,
        searched=_searched(arm, trial, recipe),
        selection=selection,
    )


def _searched(arm: Arm, trial: FrozenTrial, recipe: Recipe) -> float | None:
    """Return a finalist's score in the search: by promotion the mean over its recipe's runs.

    These are the runs that reached the horizon, one or few; None if there is none. With a sampler
    it is that of its trial.
    """
    if arm.decisions.method.sampler:
        return trial.value
    values = [
        whole.value
        for whole in arm.decisions.whole
        if whole.value is not None and arm.decisions.recipe(whole.number) == recipe
    ]
    return fmean(values) if values else None


def _defaults(arm: Arm) -> Recipe:
    """Return the recipe that an arm began with."""
    return arm.decisions.recipe(0) if arm.decisions.space.enqueued else Recipe()


def view_order(seed: int, views: int) -> list[int]:
    """Return the views in the order that a replicate takes them."""
    order = list(range(views))
    random.Random(derive_seed(seed, "view order")).shuffle(order)
    return order
