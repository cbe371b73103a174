"""Confirmation: from the search's winners to runs on fresh seeds, tested once.

The best few recipes of each arm run again on fresh seeds, and the one with the best mean on the
validation images is the arm's winner: the search's own best score is biased upward. Winners and
defaults then run on further seeds, the same for all, and of a student's runs only these see the
test split. If asked for, so do the ablations of the winner that the verdict is about.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from conductor.display import Display
from conductor.search.arm import Arm
from kd.ablations import ablations
from kd.errors import ArtifactError, StudyError
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics
from reports.wording import Measure, measure
from storage.files.layout import RunLayout, StudyLayout
from storage.files.records import Finalist, Finalists, RunRecord
from workers.events import Diverged, EpochDone, Event, Note, Result
from workers.jobs import TrainJob
from workers.pools.worker_pool import WorkerPool

CANDIDATES = 3  # of each arm that run again before one is chosen
SELECTION_SEEDS = 3

Scores = dict[int, list[float]]  # the validation metric on the seeds of the selection, by trial
MakeJob = Callable[[Recipe, int, int, list[int], RunLayout, str], TrainJob]


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that confirmation asks for; `purpose` is what the seal is broken for, if it is."""

    title: str
    recipe: Recipe
    seed: int
    horizon: int
    layout: RunLayout
    purpose: str = ""


class Confirmation:
    """Selection and confirmation of one study. Runs that are there already are not run again."""

    def __init__(
        self,
        arms: list[Arm],
        workers: WorkerPool,
        layout: StudyLayout,
        display: Display,
        make_job: MakeJob,
        metric: str = "accuracy",
    ) -> None:
        self._measure = measure(metric)
        self._arms = arms
        self._workers = workers
        self._layout = layout
        self._display = display
        self._make_job = make_job

    def run(
        self, study_seed: int, seeds: int, horizon: int, views: int, *, ablate: bool = False
    ) -> Finalists:
        """Choose the finalists, write them down, and only then confirm them.

        `seeds` is a minimum: finalists that all have runs on more seeds keep them.
        """
        scores = self._select(study_seed, horizon, views)
        finalists = [
            finalist for arm in self._arms for finalist in _finalists(arm, scores[arm.name])
        ]
        ladder = self._ladder(finalists, ablate=ablate)
        seeds = max(seeds, self._confirmed(finalists))
        chosen = Finalists(seeds=seeds, finalists=[*finalists, *ladder])
        chosen.write(self._layout.finalists)
        for stage, group in (("confirmation", finalists), ("ablation", ladder)):
            if group:
                runs = self._confirmations(group, study_seed, seeds, horizon)
                self._run_all(stage, runs, views)
        return chosen

    def _confirmed(self, finalists: list[Finalist]) -> int:
        """Return how many seeds, from the first, all finalists have been confirmed on."""
        names = {finalist.name for finalist in finalists}
        replicate = 0
        while all(self._layout.confirmation(name, replicate).result.exists() for name in names):
            replicate += 1
        return replicate

    def _confirmations(
        self, finalists: list[Finalist], study_seed: int, seeds: int, horizon: int
    ) -> list[_Run]:
        """Return the runs of all finalists on the first seed, then on the second, and so on."""
        recipes = {finalist.name: finalist for finalist in finalists}
        return [
            _Run(
                title=f"{finalist.arm} {finalist.title}, seed {replicate + 1} of {seeds}",
                recipe=finalist.recipe,
                seed=derive_seed(study_seed, "confirmation", replicate),
                horizon=horizon,
                layout=self._layout.confirmation(finalist.name, replicate),
                purpose=f"{finalist.arm} {finalist.title}, seed {replicate + 1}",
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
        """Return the titles of the ablations of this recipe that are written down."""
        path = self._layout.finalists
        kept = Finalists.read(path).finalists if path.exists() else []
        same = any(
            (one.arm, one.role, one.recipe) == (winner.arm, winner.role, winner.recipe)
            for one in kept
        )
        return {one.title for one in kept if same and one.role == "ablation"}

    def _select(self, study_seed: int, horizon: int, views: int) -> dict[str, Scores]:
        """Run the candidates of every arm; return their validation scores by trial."""
        runs: dict[tuple[str, int, int], _Run] = {}
        for arm in self._arms:
            candidates = _candidates(arm)
            if not candidates:
                raise StudyError(f"arm {arm.name} has no complete trial to confirm; add --trials")
            for recipe, trial in candidates.items():
                first = arm.decisions.first(recipe)
                for replicate in range(SELECTION_SEEDS):
                    runs[arm.name, trial.number, replicate] = _Run(
                        title=f"{arm.name} {trial.number}, selection {replicate + 1}",
                        recipe=recipe,
                        seed=derive_seed(study_seed, "selection", replicate),
                        horizon=horizon,
                        layout=self._layout.selection(arm.name, first, replicate),
                    )
        records = self._run_all("selection", list(runs.values()), views)
        scores: dict[str, Scores] = {arm.name: {} for arm in self._arms}
        for (arm_name, number, _), record in zip(runs, records, strict=True):
            scores[arm_name].setdefault(number, []).append(record.objective(self._measure.worst))
        return scores

    def _run_all(self, stage: str, runs: list[_Run], views: int) -> list[RunRecord]:
        """Run what is missing, and return the records of all, in order."""
        records = [_finished(run) for run in runs]
        missing = {index: run for index, run in enumerate(runs) if records[index] is None}
        self._display.begin(f"{stage} runs", len(runs), len(runs) - len(missing))
        jobs = {
            index: self._make_job(
                run.recipe,
                run.seed,
                run.horizon,
                view_order(run.seed, views),
                run.layout,
                run.purpose,
            )
            for index, run in missing.items()
        }
        histories: dict[int, list[EpochMetrics]] = {}

        def listen(index: int, event: Event) -> None:
            if isinstance(event, Note):
                self._display.say(f"{runs[index].title}: {event.text}")
            elif isinstance(event, EpochDone):
                history = histories.setdefault(index, [])
                self._hear_epoch(index, runs[index], history, event.metrics)

        for index, event in self._workers.run_all(jobs, listen):
            record = self._record(runs[index], event, histories.get(index, []))
            records[index] = record
            self._display.run_ended(index, _ending(runs[index], record, self._measure))
        return [record for record in records if record is not None]

    def _hear_epoch(
        self, index: int, run: _Run, history: list[EpochMetrics], metrics: EpochMetrics
    ) -> None:
        """Keep an epoch; one that is said again after a retry is kept once."""
        if not history:
            self._display.run_started(index, run.title, run.horizon)
        if metrics.epoch > len(history):
            history.append(metrics)
        self._display.epoch(index, metrics.epoch, self._measure.value(metrics.objective, 1))

    @staticmethod
    def _record(run: _Run, event: Result | Diverged, history: list[EpochMetrics]) -> RunRecord:
        record = RunRecord(
            recipe=run.recipe,
            seed=run.seed,
            horizon=run.horizon,
            outcome="complete" if isinstance(event, Result) else "diverged",
            reason=event.reason if isinstance(event, Diverged) else "",
            history=history,
            seconds=sum(metrics.seconds for metrics in history),
            test=event["test"] if isinstance(event, Result) else None,
        )
        record.write(run.layout.result)
        run.layout.checkpoint.unlink(missing_ok=True)
        return record


def _ending(run: _Run, record: RunRecord, measure: Measure) -> str:
    if record.outcome == "diverged":
        return f"{run.title}: diverged: {record.reason}"
    if record.test is None:
        value = measure.value(record.objective(measure.worst), 1)
        return f"{run.title}: {value} validation {measure.name}"
    return f"{run.title}: {measure.value(record.test['objective'], 1)} test {measure.name}"


def _finished(run: _Run) -> RunRecord | None:
    """Return the record of a run that has been done, with this recipe, seed and horizon.

    One that was tested, and has lost what it said, has not been done.
    """
    if not run.layout.result.exists():
        return None
    record = RunRecord.read(run.layout.result)
    wanted = (run.recipe, run.seed, run.horizon)
    if (record.recipe, record.seed, record.horizon) != wanted:
        raise ArtifactError(f"{run.layout.folder} holds another run; delete it")
    lost = record.test and not run.layout.predictions.exists()
    return None if lost else record


def _candidates(arm: Arm) -> dict[Recipe, FrozenTrial]:
    """Return the best recipes of an arm, each with the best of its trials.

    On the seeds of the selection, equal recipes would only come out equal.
    """
    found: dict[Recipe, FrozenTrial] = {}
    for trial in arm.decisions.best(arm.decisions.asked):
        found.setdefault(arm.decisions.recipe(trial.number), trial)
        if len(found) == CANDIDATES:
            break
    return found


def _finalists(arm: Arm, scores: Scores) -> list[Finalist]:
    """Return the arm's defaults and, last, its winner by its mean value on validation images."""
    trials = {trial.number: trial for trial in arm.decisions.trials}
    winner = max(scores, key=lambda number: (sum(scores[number]), -number))
    by_recipe = {arm.decisions.recipe(number): found for number, found in scores.items()}
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

    So one recipe is confirmed once, also where the winner asked again for a default's, or where
    further trials ask for a finalist's.
    """
    recipe = arm.decisions.recipe(trial.number)
    return Finalist(
        name=f"{arm.name}-{arm.decisions.first(recipe):05d}",
        title=title,
        arm=arm.name,
        role=role,
        recipe=recipe,
        trial=trial.number,
        searched=trial.value or 0.0,
        selection=selection,
    )


def _defaults(arm: Arm) -> Recipe:
    """Return the recipe that an arm began with."""
    return arm.decisions.recipe(0) if arm.decisions.space.enqueued else Recipe()


def view_order(seed: int, views: int) -> list[int]:
    """Return the views in the order that a replicate takes them."""
    order = list(range(views))
    random.Random(derive_seed(seed, "view order")).shuffle(order)
    return order
