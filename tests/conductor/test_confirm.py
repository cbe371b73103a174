"""Confirmation: winners are chosen on fresh seeds, and only then is the seal broken."""

import random
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import BaseTrial, TrialState

from conductor.search.arm import Arm
from conductor.stages.confirm import CANDIDATES, SELECTION_SEEDS, Confirmation
from kd.ablations import ablations
from kd.errors import ArtifactError, DataError, StudyError
from kd.recipe import Recipe, Schedule
from search_spaces.space import Space
from storage.files.layout import RunLayout
from storage.files.records import Finalists, RunRecord
from tests.support.fakes import (
    FakePool,
    Killed,
    context,
    diverged,
    epochs,
    failed,
    make_arm,
    quiet,
    search,
    study_paths,
    told,
    trained,
)
from workers.events import Event, Result
from workers.jobs import TrainJob
from workers.pools.worker_pool import WorkerPool

HORIZON, VIEWS, SEEDS = 5, 6, 4
SEARCHED = [0.5, 0.9, 0.8, 0.7, 0.6, 0.4]  # search scores of trials 0, 1, …


def make_arms(*spaces: str | Space, scores: list[float] = SEARCHED) -> list[Arm]:
    """Return arms, searched by a sampler, whose trials have these search scores."""
    arms = [make_arm(InMemoryStorage(), space, sampler="random", lag=99) for space in spaces]
    for arm in arms:
        for score in scores:
            arm.tell(arm.ask(99), TrialState.COMPLETE, score, {})
    return arms


def ran(job: TrainJob, accuracy: float) -> list[Event]:
    """Return the events of a run that ends at this validation accuracy."""
    tested = accuracy - 0.1
    test = {"objective": tested, "accuracy": tested, "nll": 1.0, "ece": 0.1}
    test = test if job.confirm else None
    if test:
        predictions = RunLayout(Path(job.folder)).predictions
        predictions.parent.mkdir(parents=True, exist_ok=True)
        predictions.touch()
    return [*epochs([0.2, accuracy]), Result.of(test=test)]


def steady(job: TrainJob) -> list[Event]:
    """Every run comes out as well as its recipe's smoothing: a number that differs by recipe."""
    return ran(job, 0.3 + job.recipe.label_smoothing)


def make_confirmation(root: Path, arms: list[Arm], pool: FakePool, seed: int = 0) -> Confirmation:
    shared = context(root, views=VIEWS, confirm_epochs=HORIZON, seed=seed)
    return Confirmation(arms, WorkerPool(pool), study_paths(root), quiet(), shared)


def confirm(
    root: Path, arms: list[Arm], pool: FakePool, seeds: int = SEEDS, seed: int = 0
) -> Finalists:
    return make_confirmation(root, arms, pool, seed).run(seeds)


def tuned(chosen: Finalists, arm: str) -> int:
    (number,) = [one.trial for one in chosen.finalists if (one.arm, one.role) == (arm, "tuned")]
    return number


def test_the_winner_has_the_best_mean_on_fresh_seeds_and_not_the_best_search_score(tmp_path):
    (arm,) = make_arms("plain")
    told_by_trial = {1: [0.6, 0.6, 0.6], 2: [0.65, 0.6, 0.7], 3: [0.7, 0.1, 0.95]}
    told = {
        arm.decisions.recipe(number).lr: list(values) for number, values in told_by_trial.items()
    }
    pool = FakePool(
        objective=lambda job: ran(job, 0.5 if job.confirm else told[job.recipe.lr].pop(0))
    )
    chosen = confirm(tmp_path, [arm], pool)
    assert tuned(chosen, "plain") == 2
    winner = chosen.finalists[-1]
    assert (winner.searched, winner.selection) == (0.8, [0.65, 0.6, 0.7])
    assert winner.recipe == arm.decisions.recipe(2)


def test_the_first_trial_wins_among_equals(tmp_path):
    chosen = confirm(tmp_path, make_arms("plain"), FakePool(objective=lambda job: ran(job, 0.5)))
    assert tuned(chosen, "plain") == 1


def test_the_best_few_of_each_arm_run_again(tmp_path):
    assert (CANDIDATES, SELECTION_SEEDS) == (3, 3)
    arms, pool = make_arms("scheduled", "plain"), FakePool(objective=steady)
    confirm(tmp_path, arms, pool)
    selection = [job for job in pool.jobs if not job.confirm]
    assert len(selection) == 2 * 3 * 3
    for arm in arms:
        wanted = [arm.decisions.recipe(number) for number in (1, 2, 3)]
        recipes = [job.recipe for job in selection if job.recipe in wanted]
        assert [recipes.count(recipe) for recipe in wanted] == [3, 3, 3]
    assert all((job.horizon, job.seal) == (HORIZON, "") for job in selection)


def test_finalists_are_written_down_before_any_run_that_sees_the_test_split(tmp_path):
    order: list[tuple[bool, bool]] = []

    def note(job: TrainJob) -> None:
        assert bool(job.seal) == bool(job.confirm)
        order.append((bool(job.seal), study_paths(tmp_path).finalists.exists()))

    pool = FakePool(3, objective=steady)
    pool.on_submit = note
    chosen = confirm(tmp_path, make_arms("scheduled", "plain"), pool)
    assert order == 18 * [(False, False)] + len(chosen.finalists) * SEEDS * [(True, True)]
    assert Finalists.read(study_paths(tmp_path).finalists) == chosen
    seals = {job.seal for job in pool.jobs if job.seal}
    assert seals == {str(study_paths(tmp_path).seal)}


def test_defaults_and_the_tuned_recipe_of_every_arm_are_confirmed(tmp_path):
    pool = FakePool(objective=steady)
    chosen = confirm(tmp_path, make_arms("scheduled", "plain", scores=SEARCHED[::-1]), pool)
    found = [(one.arm, one.role, one.title, one.trial) for one in chosen.finalists]
    assert [one for one in found if one[1] == "default"] == [
        ("scheduled", "default", "classic", 0),
        ("scheduled", "default", "vanilla KD", 1),
        ("plain", "default", "defaults", 0),
    ]
    assert [one[:3] for one in found if one[1] == "tuned"] == [
        ("scheduled", "tuned", "tuned"),
        ("plain", "tuned", "tuned"),
    ]
    assert chosen.seeds == SEEDS
    confirmed = [job.recipe for job in pool.jobs if job.confirm]
    assert all(confirmed.count(one.recipe) == SEEDS for one in chosen.finalists)
    defaults = [one for one in chosen.finalists if one.role == "default"]
    assert [one.selection for one in defaults] == [[], [], []]


def test_a_default_that_wins_is_confirmed_once(tmp_path):
    (arm,) = make_arms("plain", scores=[0.9, 0.5, 0.4, 0.3])
    pool = FakePool(
        objective=lambda job: ran(job, 0.8 if job.recipe == arm.decisions.recipe(0) else 0.1)
    )
    chosen = confirm(tmp_path, [arm], pool)
    assert [(one.name, one.role, one.trial) for one in chosen.finalists] == [
        ("plain-00000", "default", 0),
        ("plain-00000", "tuned", 0),
    ]
    confirmed = [job for job in pool.jobs if job.confirm]
    assert len(confirmed) == SEEDS
    assert len({job.folder for job in confirmed}) == SEEDS


# Equal recipes: a parameter without effect, or few choices.

ORDER = [0, 1, 1, 0, 2, 1, 3]  # of LEARNING_RATES, trial by trial; trial 0 is the default
LEARNING_RATES = [0.1, 0.2, 0.05, 0.025]


def repeating(order: list[int], scores: list[float]) -> Arm:
    """Return an arm whose trials have these of the learning rates, and these search scores."""

    def suggest(trial: BaseTrial) -> Recipe:
        trial.suggest_float("spare", 0, 1)  # of no effect
        return Recipe(lr=LEARNING_RATES[order[trial.number]])

    space = Space("grid", suggest, {"first": {"spare": 0.5}}, "0" * 64)
    return make_arms(space, scores=scores)[0]


def test_the_best_distinct_recipes_run_again_each_with_its_best_trial(tmp_path):
    arm = repeating(ORDER, [0.5, 0.8, 0.9, 0.6, 0.7, 0.85, 0.4])
    pool = FakePool(objective=lambda job: ran(job, 1 - job.recipe.lr))
    chosen = confirm(tmp_path, [arm], pool)
    selected = [job.recipe.lr for job in pool.jobs if not job.confirm]
    assert sorted(selected) == sorted([0.2, 0.05, 0.1] * SELECTION_SEEDS)
    winner = chosen.finalists[-1]
    assert (winner.recipe.lr, winner.trial, winner.searched) == (0.05, 4, 0.7)


def test_no_recipe_is_run_twice_on_one_seed(tmp_path):
    arm = repeating([0, 1, 1, 0, 0], [0.5, 0.8, 0.9, 0.6, 0.95])
    pool = FakePool(objective=lambda job: ran(job, 1 - job.recipe.lr))
    chosen = confirm(tmp_path, [arm], pool)
    runs = [(job.recipe, job.seed) for job in pool.jobs]
    assert len(runs) == len(set(runs)) == 2 * SELECTION_SEEDS + SEEDS
    assert [(one.name, one.role, one.trial, one.searched) for one in chosen.finalists] == [
        ("grid-00000", "default", 0, 0.5),
        ("grid-00000", "tuned", 4, 0.95),
    ]
    selections = [one.selection for one in chosen.finalists]
    assert selections[0] == selections[1] == [0.9] * SELECTION_SEEDS


def test_by_promotion_the_score_of_a_recipe_in_the_search_is_the_mean_of_its_runs(tmp_path):
    def noisy(job: TrainJob) -> list[Event]:
        noise = random.Random(job.seed).uniform(-0.01, 0.01)
        return trained([0.3 + job.recipe.label_smoothing + noise] * job.horizon)

    arm = make_arm(InMemoryStorage(), "plain")
    search(tmp_path, [arm], FakePool(objective=noisy), 24)
    trials = arm.study.trials
    origins = {one.user_attrs["repeats"] for one in trials if "repeats" in one.user_attrs}
    repeated = {arm.decisions.recipe(number) for number in origins}
    pool = FakePool(objective=lambda job: ran(job, 0.9 if job.recipe in repeated else 0.5))
    winner = confirm(tmp_path, [arm], pool).finalists[-1]
    same = [one for one in trials if one.params == trials[winner.trial].params]
    values = [one.value for one in same if one.state == TrialState.COMPLETE]
    assert len(set(values)) > 1
    assert winner.searched == pytest.approx(sum(values) / len(values))


def test_more_trials_of_a_finalists_recipe_run_nothing_again(tmp_path):
    order, scores = [0, 1, 1, 1], [0.5, 0.8, 0.9, 0.95]

    def objective(job: TrainJob) -> list[Event]:
        return ran(job, job.recipe.lr)

    confirm(tmp_path, [repeating(order, scores[:2])], FakePool(objective=objective))
    again = FakePool(objective=objective)
    chosen = confirm(tmp_path, [repeating(order, scores)], again)
    assert again.jobs == []
    found = [(one.name, one.trial) for one in chosen.finalists]
    assert found == [("grid-00000", 0), ("grid-00001", 3)]


def test_an_ablation_with_a_finalists_recipe_shares_its_runs(tmp_path):
    def suggest(trial: BaseTrial) -> Recipe:
        alpha = trial.suggest_float("alpha", 0, 1)
        return Recipe(soft_kind="kl", alpha=Schedule.constant(alpha))

    space = Space("soft", suggest, {"soft": {"alpha": 0.9}}, "0" * 64)
    arms = [*make_arms(space, scores=[0.9]), *make_arms("plain", scores=[0.9])]
    pool = FakePool(objective=steady)
    assert ablate(tmp_path, arms, pool) == ["plain-00000"]
    runs = [(job.recipe, job.seed) for job in pool.jobs]
    assert len(runs) == len(set(runs)) == 2 * SELECTION_SEEDS + 2 * SEEDS
    again = FakePool(objective=steady)
    assert ablate(tmp_path, arms, again, wanted=False) == ["plain-00000"]
    assert again.jobs == []
    assert ablate(tmp_path / "other", arms, FakePool(objective=steady), wanted=False) == []


def test_all_finalists_share_the_seeds_and_views_replicate_by_replicate(tmp_path):
    arms, pool = make_arms("scheduled", "plain"), FakePool(4, 2, objective=steady)
    chosen = confirm(tmp_path, arms, pool)
    for runs in (
        [job for job in pool.jobs if not job.confirm],
        [job for job in pool.jobs if job.confirm],
    ):
        by_replicate: dict[str, set[tuple[int, tuple[int, ...]]]] = {}
        for job in runs:
            replicate = job.folder.replace("-", "/").split("/")[-1]
            by_replicate.setdefault(replicate, set()).add((job.seed, tuple(job.views)))
        assert [len(found) for found in by_replicate.values()] == len(by_replicate) * [1]
        assert all(sorted(job.views) == list(range(VIEWS)) for job in runs)
        assert len({tuple(job.views) for job in runs}) > 1
    assert len(by_replicate) == SEEDS
    assert len([job for job in pool.jobs if job.confirm]) == SEEDS * len(chosen.finalists)


def test_seeds_of_search_selection_and_confirmation_have_none_in_common(tmp_path):
    searched, pool = FakePool(), FakePool(objective=steady)
    arms = [make_arm(InMemoryStorage(), "plain", sampler="random")]
    search(tmp_path, arms, searched, 8)
    confirm(tmp_path, arms, pool, seeds=8)
    seeds = [
        {job.seed for job in searched.jobs},
        {job.seed for job in pool.jobs if not job.confirm},
        {job.seed for job in pool.jobs if job.confirm},
    ]
    assert [len(found) for found in seeds] == [8, SELECTION_SEEDS, 8]
    assert len(set.union(*seeds)) == 8 + SELECTION_SEEDS + 8
    other = FakePool(objective=steady)
    confirm(tmp_path / "other", arms, other, seed=1)
    assert not {job.seed for job in other.jobs} & set.union(*seeds)


def test_runs_that_are_there_are_not_run_again(tmp_path):
    arms = make_arms("scheduled", "plain")
    first = confirm(tmp_path, arms, FakePool(objective=steady))
    again = FakePool(objective=steady)
    assert confirm(tmp_path, arms, again) == first
    assert again.jobs == []
    more = FakePool(objective=steady)
    assert confirm(tmp_path, arms, more, seeds=SEEDS + 1).seeds == SEEDS + 1
    assert len(more.jobs) == len(first.finalists)


def test_seeds_are_a_minimum_for_finalists_that_all_have_more(tmp_path):
    arms = make_arms("scheduled", "plain")
    first = confirm(tmp_path, arms, FakePool(objective=steady))
    fewer = FakePool(objective=steady)
    assert confirm(tmp_path, arms, fewer, seeds=1) == first
    assert fewer.jobs == []
    study_paths(tmp_path).confirmation(first.finalists[0].name, SEEDS - 1).result.unlink()
    assert confirm(tmp_path, arms, FakePool(objective=steady), seeds=1).seeds == SEEDS - 1


def test_ablations_take_the_seeds_that_their_winner_has(tmp_path):
    arms, pool = make_arms("scheduled", "plain"), FakePool(objective=steady)
    confirm(tmp_path, arms, pool)
    more = FakePool(objective=steady)
    chosen = make_confirmation(tmp_path, arms, more).run(1, ablate=True)
    ladder = [one for one in chosen.finalists if one.role == "ablation"]
    assert (chosen.seeds, len(more.jobs)) == (SEEDS, SEEDS * len(ladder))


@pytest.mark.parametrize("fuse", [0, 5, 20, 27, 40])
def test_a_confirmation_that_was_killed_ends_as_an_uninterrupted_one(tmp_path, fuse):
    arms = make_arms("scheduled", "plain")
    alone = confirm(tmp_path / "alone", arms, FakePool(objective=steady))
    pool = FakePool(3, fuse, objective=steady)
    pool.fuse = fuse
    with pytest.raises(Killed):
        confirm(tmp_path / "killed", arms, pool)
    assert confirm(tmp_path / "killed", arms, FakePool(3, objective=steady)) == alone
    one, other = (
        {path.relative_to(folder): RunRecord.read(path) for path in folder.rglob("result.json")}
        for folder in (tmp_path / "alone", tmp_path / "killed")
    )
    assert one == other


def test_a_result_of_another_recipe_is_refused(tmp_path):
    arms = make_arms("plain")
    confirm(tmp_path, arms, FakePool(objective=steady))
    run = study_paths(tmp_path).confirmation("plain-00000", 2)
    record = RunRecord.read(run.result).to_json()
    for changed in ({"recipe": Recipe(lr=0.123).to_json()}, {"seed": 5}, {"horizon": 9}):
        RunRecord.from_json({**record, **changed}).write(run.result)
        with pytest.raises(ArtifactError, match=r"plain-00000/02 holds another run; delete it"):
            confirm(tmp_path, arms, FakePool(objective=steady))


def test_a_run_that_diverges_is_recorded_and_does_not_stop_the_study(tmp_path):
    (arm,) = make_arms("plain")

    def objective(job: TrainJob) -> list[Event]:
        return diverged([0.7]) if job.recipe == arm.decisions.recipe(1) else ran(job, 0.4)

    pool = FakePool(objective=objective)
    chosen = confirm(tmp_path, [arm], pool)
    assert tuned(chosen, "plain") == 2
    record = RunRecord.read(study_paths(tmp_path).selection("plain", 1, 0).result)
    assert (record.outcome, record.objective(0.0)) == ("diverged", 0)
    assert record.reason == "the loss is not finite"
    assert [one.accuracy for one in record.history] == [0.7]


def test_a_finalist_that_diverges_has_no_test_result(tmp_path):
    arms = make_arms("plain")

    def objective(job: TrainJob) -> list[Event]:
        return diverged([]) if job.confirm.startswith("plain defaults, seed 2") else steady(job)

    confirm(tmp_path, arms, FakePool(objective=objective))
    runs = [study_paths(tmp_path).confirmation("plain-00000", place) for place in range(SEEDS)]
    records = [RunRecord.read(run.result) for run in runs]
    outcomes = [record.outcome for record in records]
    assert outcomes == ["complete", "diverged", "complete", "complete"]
    assert [record.test is None for record in records] == [False, True, False, False]
    assert records[0].test["accuracy"] == pytest.approx(records[0].objective(0.0) - 0.1)


def test_a_recipe_that_the_search_paused_can_win(tmp_path):
    arm = make_arm(InMemoryStorage(), "plain", lag=99)
    for state, value in ((TrialState.COMPLETE, 0.3), (TrialState.PRUNED, 0.9)):
        number = arm.ask(99)
        arm.tell(number, state, value, told(arm, number, value))
    arm.ask(99)  # is running still
    paused = arm.decisions.recipe(1)
    pool = FakePool(objective=lambda job: ran(job, 0.8 if job.recipe == paused else 0.5))
    chosen = confirm(tmp_path, [arm], pool)
    winner = chosen.finalists[-1]
    assert (winner.trial, winner.recipe, winner.searched) == (1, paused, None)
    assert winner.selection == [0.8, 0.8, 0.8]
    assert chosen.finalists[0].searched == 0.3


def test_a_run_that_fails_ends_the_confirmation_with_its_error(tmp_path):
    pool = FakePool(objective=lambda job: failed("DataError", "the test split is gone"))
    with pytest.raises(DataError, match="the test split is gone"):
        confirm(tmp_path, make_arms("plain"), pool)


def test_epochs_that_are_repeated_after_a_retry_are_kept_once(tmp_path):
    def objective(job: TrainJob) -> list[Event]:
        return [*epochs([0.2]), *steady(job)]

    confirm(tmp_path, make_arms("plain"), FakePool(objective=objective))
    record = RunRecord.read(study_paths(tmp_path).confirmation("plain-00000", 0).result)
    assert [one.epoch for one in record.history] == [1, 2]
    assert record.seconds == 0.5


def test_an_arm_without_a_complete_trial_cannot_be_confirmed(tmp_path):
    (arm,) = make_arms("plain", scores=[])
    with pytest.raises(StudyError, match="arm plain has no trial to confirm; add --tr"):
        confirm(tmp_path, [arm], FakePool())


def test_a_checkpoint_is_removed_once_its_run_has_ended(tmp_path):
    run = study_paths(tmp_path).confirmation("plain-00000", 0)
    run.folder.mkdir(parents=True)
    run.checkpoint.touch()
    confirm(tmp_path, make_arms("plain"), FakePool(objective=steady))
    assert run.result.exists()
    assert not run.checkpoint.exists()


def test_purposes_name_the_finalist_and_the_seed(tmp_path):
    pool = FakePool(objective=steady)
    confirm(tmp_path, make_arms("plain"), pool, seeds=2)
    purposes = {job.confirm for job in pool.jobs if job.confirm}
    assert purposes == {
        f"plain {title}, seed {seed}" for title in ("defaults", "tuned") for seed in (1, 2)
    }


# Ablations.


def ablate(root: Path, arms: list[Arm], pool: FakePool, *, wanted: bool = True) -> list[str]:
    """Confirm, and return the names of the ablations that were written down."""
    confirmation = make_confirmation(root, arms, pool)
    chosen = confirmation.run(SEEDS, ablate=wanted)
    return [one.name for one in chosen.finalists if one.role == "ablation"]


def test_the_winner_of_the_first_arm_that_distils_is_ablated_after_all_is_confirmed(tmp_path):
    arms, pool = make_arms("plain", "scheduled"), FakePool(objective=steady)
    names = ablate(tmp_path, arms, pool)
    chosen = Finalists.read(study_paths(tmp_path).finalists)
    (winner,) = [one for one in chosen.finalists if (one.arm, one.role) == ("scheduled", "tuned")]
    ladder = ablations(winner.recipe, arms[1].decisions.recipe(0))
    assert names == [f"{winner.name}-{done.replace(' ', '-')}" for done in ladder]
    assert len(ladder) > 0
    runs = pool.jobs[-len(ladder) * SEEDS :]
    assert [job.recipe for job in runs] == [*ladder.values()] * SEEDS
    assert [Path(job.folder).parent.name for job in runs] == names * SEEDS


def test_ablations_run_on_the_seeds_and_views_of_their_winner(tmp_path):
    pool = FakePool(objective=steady)
    names = ablate(tmp_path, make_arms("scheduled", "plain"), pool)
    told = {
        Path(job.folder): (job.seed, job.views, job.horizon, bool(job.seal))
        for job in pool.jobs
        if job.confirm
    }
    for name in names:
        winner = name[: len("scheduled-00000")]
        for folder, what in told.items():
            if folder.parent.name == name:
                assert what == told[folder.parents[1] / winner / folder.name]


def test_ablations_run_only_on_request_and_stay_with_more_seeds(tmp_path):
    arms = make_arms("scheduled", "plain")
    assert ablate(tmp_path, arms, FakePool(objective=steady), wanted=False) == []
    names = ablate(tmp_path, arms, FakePool(objective=steady))
    pool = FakePool(objective=steady)
    assert ablate(tmp_path, arms, pool, wanted=False) == names
    assert pool.jobs == []


def test_a_study_that_does_not_distil_has_nothing_to_ablate(tmp_path):
    assert ablate(tmp_path, make_arms("plain"), FakePool(objective=steady)) == []
