"""The search reports, prunes and tells; what it writes down is what the study says."""

import random
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage

from conductor.search.arm import Arm
from kd.errors import StudyError
from kd.recipe import Recipe, Schedule
from search_spaces import SPACES
from search_spaces.space import load_space
from storage.files.records import RunRecord
from tests.support.fakes import (
    FINGERPRINTS,
    HORIZON,
    FakePool,
    diverged,
    epochs,
    failed,
    landscape,
    make_arm,
    make_search,
    rows,
    search,
    study_paths,
    trained,
)
from workers.events import Event, Note, Progress, Result
from workers.jobs import TrainJob


def number_of(job: TrainJob) -> int:
    return int(Path(job.folder).name)


WAYS = ["", "random"]  # by promotion, and by a sampler


def searched(
    root: Path, objective: object, total: int, pool: FakePool | None = None, **chosen: object
) -> tuple[Arm, FakePool]:
    arm = make_arm(InMemoryStorage(), "plain", **chosen)
    pool = pool or FakePool()
    pool.objective = objective
    search(root, [arm], pool, total)
    return arm, pool


def record_of(root: Path, arm: Arm, number: int) -> RunRecord:
    return RunRecord.read(study_paths(root).trial(arm.name, number).result)


def falling(job: TrainJob) -> list[Event]:
    """Each trial is worse than those before it, and each epoch better than the one before."""
    return trained([0.01 * epoch - 0.02 * number_of(job) + 0.6 for epoch in range(1, HORIZON + 1)])


def falling_stubbornly(job: TrainJob) -> list[Event]:
    """As above; every epoch is said twice, as after a retry."""
    events = falling(job)
    return [*events[:3], *events]


@pytest.mark.parametrize("objective", [falling, falling_stubbornly])
@pytest.mark.parametrize("order", range(3))
def test_epochs_that_arrive_after_pruning_or_again_are_ignored(tmp_path, objective, order):
    arm, pool = searched(tmp_path, objective, 12, FakePool(1, order), sampler="random")
    trials = arm.study.get_trials()
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert [trial.number for trial in pruned] == [5, 7, 8, 9, 10, 11]
    for trial in trials:
        last = 2 if trial in pruned else HORIZON  # median: from a quarter of the horizon on
        assert sorted(trial.intermediate_values) == list(range(1, last + 1))
        assert trial.user_attrs["epochs"] == len(record_of(tmp_path, arm, trial.number).history)
    assert {number_of(pool.jobs[ticket - 1]) for ticket in pool.stopped} == {5, 7, 8, 9, 10, 11}


def test_pruned_trials_carry_their_last_value(tmp_path):
    arm, _ = searched(tmp_path, falling, 8, sampler="random")
    trial = arm.study.get_trials()[7]
    assert trial.state.name == "PRUNED"
    assert trial.value == trial.intermediate_values[2] == pytest.approx(0.48)


@pytest.mark.parametrize(("sampler", "early"), [("", "paused"), ("random", "pruned")])
def test_result_files_say_what_the_database_states(tmp_path, sampler, early):
    """A record of a run that goes on has its whole history; the trial's seconds are its own."""
    outcomes = {"COMPLETE": "complete", "PRUNED": early, "FAIL": "failed"}
    seen = set()
    others = {3: failed(), 9: diverged([0.5] if sampler else [])}

    def objective(job: TrainJob) -> list[Event]:
        return others.get(number_of(job)) or landscape(job)

    arm, pool = searched(tmp_path, objective, 30, FakePool(4), sampler=sampler, lag=4)
    jobs = {(number_of(job), job.until): job for job in pool.jobs}
    for trial in arm.study.get_trials():
        record, attributes = record_of(tmp_path, arm, trial.number), trial.user_attrs
        job = jobs[attributes.get("run", trial.number), attributes.get("until", 0)]
        outcome = "diverged" if attributes["diverged"] else outcomes[trial.state.name]
        seen.add(outcome)
        assert record.outcome == outcome
        assert {one.epoch: one.accuracy for one in record.history} == trial.intermediate_values
        assert record.objective(0.0) == (trial.value or 0.0)
        assert record.recipe == job.recipe == arm.decisions.recipe(trial.number)
        assert (record.seed, record.horizon) == (job.seed, HORIZON)
        assert record.digest == attributes["digest"]
        assert record.reason == attributes.get("reason", "")
        assert record.test is None
        if sampler:
            assert attributes["auditor"] == (trial.number % 6 == 0)
        else:
            straight = job.until == HORIZON and "continues" not in attributes
            assert attributes.get("auditor", straight) == straight
        if not sampler:
            signals = [one.early_nll for one in record.history]
            reached = [rung for rung in (1, 3, 8) if rung <= len(signals)]  # rungs of 8 epochs
            means = {str(rung): pytest.approx(np.mean(signals[:rung])) for rung in reached}
            assert attributes["early_signal"] == means
        if record.history:
            before = attributes.get("continues")
            begun = 0 if before is None else arm.study.trials[before].user_attrs["until"]
            assert record.seconds == 0.25 * len(record.history)
            assert attributes["seconds"] == 0.25 * (len(record.history) - begun)
            assert attributes["nll"] == record.history[-1].nll
            assert attributes["epochs"] == len(record.history)
    assert seen == {"complete", early, "diverged", "failed"}


def goal_of(job: TrainJob) -> float:
    return random.Random(f"{job.recipe}").uniform(0.2, 0.8)


def honest(job: TrainJob) -> list[Event]:
    """Each run has all the time the accuracy that it ends with."""
    return trained([goal_of(job)] * HORIZON)


def misleading(job: TrainJob) -> list[Event]:
    """The worse a run ends, the better it seems before."""
    return trained([1 - goal_of(job)] * (HORIZON - 1) + [goal_of(job)])


def test_a_search_whose_early_signal_misleads_goes_by_whole_runs(tmp_path):
    arm, _ = searched(tmp_path, misleading, 25, lag=2)
    trials = arm.study.get_trials()
    auditors = [trial.number for trial in trials if "auditor" in trial.user_attrs]
    doubted = [*range(auditors[1], len(trials), 2)]
    assert auditors == [20, *doubted]
    assert {trial.user_attrs["until"] for trial in arm.decisions.ranked()} == {HORIZON}
    promoted = [t.value for t in trials if t.value and "continues" in t.user_attrs]
    assert np.median([trials[number].value for number in auditors]) > np.median(promoted)


def test_where_every_whole_run_diverged_the_paused_ones_can_be_picked(tmp_path):
    """Runs that were promoted diverge, and so do auditors: the signal is doubted."""

    def objective(job: TrainJob) -> list[Event]:
        return diverged([goal_of(job)] * (HORIZON - 2))

    arm, _ = searched(tmp_path, objective, 20, lag=2)
    told = [trial.user_attrs for trial in arm.study.get_trials()]
    assert sum("auditor" in one for one in told) > 2
    assert arm.decisions.learnt().trusted is False
    assert {trial.user_attrs["until"] for trial in arm.decisions.ranked()} == {1, 3}


def test_a_search_whose_early_signal_is_right_begins_few_auditors(tmp_path):
    arm, _ = searched(tmp_path, honest, 25, lag=2)
    trials = arm.study.get_trials()
    auditors = [trial.number for trial in trials if "auditor" in trial.user_attrs]
    assert auditors == [*range(20, len(trials), 24)]
    assert len({trial.user_attrs["until"] for trial in arm.decisions.ranked()}) == 3


@pytest.mark.parametrize(("sampler", "before"), [("", []), ("random", [0.9, 0.95])])
def test_divergence_is_complete_with_the_worst_value(tmp_path, sampler, before):
    def objective(job: TrainJob) -> list[Event]:
        return diverged(before) if number_of(job) == 1 else landscape(job)

    arm, _ = searched(tmp_path, objective, 3, sampler=sampler)
    trial = arm.study.get_trials()[1]
    assert (trial.state.name, trial.value) == ("COMPLETE", 0)
    assert trial.user_attrs["diverged"] is True
    assert trial.user_attrs["reason"] == "the loss is not finite"
    assert trial.intermediate_values == dict(enumerate(before, 1))
    assert arm.decisions.spent // arm.decisions.unit == 3
    assert arm.decisions.cost(1) == 1
    assert 1 not in [best.number for best in arm.decisions.ranked()[:3]]


def test_divergence_before_the_first_epoch_has_a_result(tmp_path):
    arm, _ = searched(tmp_path, lambda job: diverged([]), 1)
    assert arm.study.get_trials()[0].value == 0
    assert record_of(tmp_path, arm, 0).history == []


def test_a_failed_job_fails_its_trial_and_does_not_count(tmp_path):
    def objective(job: TrainJob) -> list[Event]:
        return failed() if number_of(job) in (1, 2) else landscape(job)

    arm, _ = searched(tmp_path, objective, 4, sampler="random", pruner="none")
    trials = arm.study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", *3 * ["COMPLETE"]]
    assert trials[1].user_attrs["reason"] == "no space left on device"
    assert trials[1].value is None


def test_five_failed_trials_end_the_study_in_one_line(tmp_path):
    storage = InMemoryStorage()
    arm = make_arm(storage, "plain")
    pool = FakePool(objective=lambda job: failed())
    with pytest.raises(StudyError, match="5 trials of plain have failed; the last: no space"):
        search(tmp_path, [arm], pool, 10)
    assert len(pool.jobs) == 5
    assert arm.decisions.running == []


def test_a_study_that_gave_up_continues_once_the_fault_is_mended(tmp_path):
    """Failures of an earlier session do not count, not even beside one of this session."""
    storage = InMemoryStorage()
    with pytest.raises(StudyError):
        search(tmp_path, [make_arm(storage, "plain")], FakePool(objective=lambda job: failed()), 4)
    arm = make_arm(storage, "plain")
    pool = FakePool(objective=lambda job: failed() if number_of(job) == 6 else landscape(job))
    search(tmp_path, [arm], pool, 4)
    assert arm.decisions.spent // arm.decisions.unit == 4


@pytest.mark.parametrize("sampler", WAYS)
def test_no_further_trial_begins_once_every_arm_has_its_total(tmp_path, sampler):
    spaces = ("scheduled", "plain")
    arms = [make_arm(InMemoryStorage(), space, sampler=sampler, lag=4) for space in spaces]
    search(tmp_path, arms, FakePool(4), 7)
    assert [arm.decisions.spent // arm.decisions.unit for arm in arms] == [7, 7]
    again = FakePool(4)
    search(tmp_path, arms, again, 7)
    search(tmp_path, arms, again, 3)
    assert again.jobs == []


def test_arms_spend_epochs_side_by_side(tmp_path):
    arms = [make_arm(InMemoryStorage(), space, lag=2) for space in ("scheduled", "plain")]
    pool, apart = FakePool(), []

    def compare(job: object) -> None:
        one, other = (arm.decisions.committed for arm in arms)
        apart.append(abs(one - other))

    pool.on_submit = compare
    search(tmp_path, arms, pool, 4)
    assert len(apart) > 8
    assert max(apart) <= HORIZON


def test_arms_run_side_by_side(tmp_path):
    spaces = ("scheduled", "plain")
    arms = [make_arm(InMemoryStorage(), space, sampler="random", lag=2) for space in spaces]
    pool = FakePool()
    search(tmp_path, arms, pool, 4)
    order = [Path(job.folder).parts[-2:] for job in pool.jobs]
    assert order == [
        (space, f"{number:05d}") for number in range(4) for space in ("scheduled", "plain")
    ]


def test_a_checkpoint_is_removed_once_its_trial_has_ended(tmp_path):
    checkpoint = study_paths(tmp_path).trial("plain", 0).checkpoint

    def objective(job: TrainJob) -> list[Event]:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        return landscape(job)

    searched(tmp_path, objective, 1)
    assert not checkpoint.exists()
    assert checkpoint.parent.is_dir()


def test_a_checkpoint_is_kept_while_its_run_is_paused(tmp_path):
    def objective(job: TrainJob) -> list[Event]:
        checkpoint = job.run.checkpoint
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        return landscape(job)

    arm, _ = searched(tmp_path, objective, 9)
    last = {trial.user_attrs["run"]: trial for trial in arm.study.get_trials()}
    paused = {run for run, trial in last.items() if trial.state.name == "PRUNED"}
    assert paused
    assert len(paused) < len(last)
    kept = study_paths(tmp_path).folder.glob("trials/plain/*/checkpoint.safetensors")
    assert {int(path.parent.name) for path in kept} == paused


def test_a_trial_is_published_before_it_ends_with_its_record(tmp_path):
    """Optuna takes no artifacts for a trial that has ended."""
    published = []

    def publish(arm: Arm, number: int, record: RunRecord) -> None:
        state = arm.study.get_trials()[number].state.name
        published.append((number, state, record == record_of(tmp_path, arm, number)))

    arm = make_arm(InMemoryStorage(), "plain")
    search(tmp_path, [arm], FakePool(), 3, publish)
    count = len(arm.study.get_trials())
    assert count > 3
    assert published == [(number, "RUNNING", True) for number in range(count)]


@pytest.mark.parametrize("sampler", WAYS)
def test_seeds_depend_on_the_run_and_not_on_the_arm(tmp_path, sampler):
    """The jobs of a run, which is named by its first trial, have one seed."""
    spaces = ("scheduled", "plain")
    arms = [make_arm(InMemoryStorage(), space, sampler=sampler, seed=3) for space in spaces]
    pool = FakePool()
    search(tmp_path, arms, pool, 6)
    seeds: dict[int, set[int]] = {}
    for job in pool.jobs:
        seeds.setdefault(number_of(job), set()).add(job.seed)
    assert {len(found) for found in seeds.values()} == {1}
    assert len(set.union(*seeds.values())) == len(seeds) >= 6
    other = FakePool()
    search(tmp_path, [make_arm(InMemoryStorage(), "plain", seed=4)], other, 6)
    assert not {job.seed for job in other.jobs} & set.union(*seeds.values())


@pytest.mark.parametrize("sampler", WAYS)
def test_jobs_have_the_horizon_the_views_in_order_and_a_folder_for_each_run(tmp_path, sampler):
    arm, pool = searched(tmp_path, landscape, 4, sampler=sampler)
    for job in pool.jobs:
        assert (job.horizon, job.views) == (HORIZON, [0, 1, 2])
        assert (job.confirm, job.seal) == ("", "")
        assert {name: getattr(job, name) for name in FINGERPRINTS} == FINGERPRINTS
        assert Path(job.folder).parent == study_paths(tmp_path).folder / "trials" / "plain"
    trials = arm.study.get_trials()
    runs = {trial.user_attrs.get("run", trial.number) for trial in trials}
    assert {number_of(job) for job in pool.jobs} == runs
    assert len(runs) == 4 if sampler else 4 < len(runs) < len(trials)


def expected_recipe(arm: str, given: dict) -> Recipe:
    """Put a recipe together from a trial's parameters by the words of the method."""

    def schedule(name: str) -> Schedule:
        if name in given:  # the arm `constant`
            return Schedule.constant(given[name])
        initial, shape = given[f"{name}_initial"], given[f"{name}_shape"]
        final = given.get(f"{name}_final", initial)
        sharpness = given.get(f"{name}_sharpness", 0.5)
        return Schedule(shape=shape, initial=initial, final=final, sharpness=sharpness)

    fields = {name: given[name] for name in ("lr", "weight_decay", "label_smoothing")}
    if arm != "plain":
        fields |= {"soft_kind": given["soft_kind"], "temperature": schedule("temperature")}
        fields |= {"alpha": schedule("alpha"), "feature_kind": given["feature_kind"]}
        fields["feature_weight"] = given.get("feature_weight", 0.0)
        taps = given.get("feature_taps", "")
        fields["feature_taps"] = tuple(taps.split("+")) if taps else ()
    return Recipe(**fields)


@pytest.mark.parametrize("name", SPACES.names)
def test_every_parameter_that_a_space_suggests_arrives_in_the_job(tmp_path, name):
    arm = make_arm(InMemoryStorage(), name, lag=200)
    search, suggested = make_search(tmp_path, [arm], FakePool()), set()
    for _ in range(150):
        number = arm.ask(2000)
        given = arm.decisions.trials[number].params
        suggested |= set(given)
        assert search.job(arm, number).recipe == expected_recipe(name, given)
    rest = load_space(name).enqueued
    assert suggested >= {parameter for given in rest.values() for parameter in given}


@pytest.mark.parametrize("name", SPACES.names)
def test_every_parameter_that_a_space_suggests_changes_the_recipe(name):
    """A parameter that reached nothing would be searched in vain."""
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    moved = set()
    for _ in range(60):
        trial = study.ask()
        recipe = space.suggest(trial)
        for parameter, distribution in trial.distributions.items():
            if isinstance(distribution, optuna.distributions.FloatDistribution):
                middle = (distribution.low + distribution.high) / 2
                other = middle if trial.params[parameter] != middle else distribution.low
            else:
                continue
            changed = optuna.trial.FixedTrial({**trial.params, parameter: other})
            assert space.suggest(changed) != recipe, parameter
            moved.add(parameter)
    assert {"lr", "weight_decay", "label_smoothing"} <= moved


def test_an_event_of_progress_or_a_note_changes_no_trial(tmp_path):
    def objective(job: TrainJob) -> list[Event]:
        progress = Progress(done=1, total=2)
        chatter = [Note(text="[bold]"), progress]
        return [*chatter, *epochs([0.5]), *chatter, Result.of(test=None)]

    arm, _ = searched(tmp_path, objective, 1)
    assert arm.study.get_trials()[0].intermediate_values == {1: 0.5}


@pytest.mark.parametrize("sampler", WAYS)
@pytest.mark.parametrize("order", range(4))
def test_when_the_time_ends_all_arms_get_the_same_budget(tmp_path, monkeypatch, order, sampler):
    """The next session continues, and has the trials of one without a limit."""
    now = 0.0
    monkeypatch.setattr("conductor.search.loop.time.monotonic", lambda: now)
    spaces = ("scheduled", "plain")

    def run(folder: str, storage: InMemoryStorage, deadline: float) -> tuple[float, list[Arm]]:
        nonlocal now
        now = 0.0
        arms = [make_arm(storage, space, sampler=sampler) for space in spaces]
        pool = FakePool(2, order)

        def tick(job: object) -> None:
            nonlocal now
            now += 1

        pool.on_submit = tick
        made = make_search(tmp_path / folder, arms, pool)
        return made.run(9, lambda *given: None, deadline), arms

    storage = InMemoryStorage()
    reached, arms = run("limited", storage, 5.0)
    assert 3 <= reached < 9 if sampler else 2 <= reached < 9
    unit = arms[0].decisions.unit
    for arm in arms:
        assert reached <= arm.decisions.spent / unit < reached + 1
    asked = [arm.decisions.asked for arm in arms]
    again, arms = run("limited", storage, 0.0)  # it has passed when the session begins
    assert ([arm.decisions.asked for arm in arms], again) == (asked, reached)
    assert run("limited", storage, 1e9)[0] == 9
    run("whole", whole := InMemoryStorage(), float("inf"))
    for space in spaces:
        name = f"study.{space}"
        one, other = (optuna.load_study(study_name=name, storage=s) for s in (storage, whole))
        assert rows(one) == rows(other)


def test_a_time_that_ends_before_the_first_trial_asks_none(tmp_path):
    arms = [make_arm(InMemoryStorage(), "plain")]
    assert make_search(tmp_path, arms, FakePool()).run(3, lambda *given: None, 0.0) == 0
    assert arms[0].decisions.asked == 0
