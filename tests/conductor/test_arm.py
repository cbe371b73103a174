"""An arm depends on its seed, lag and search method: not on workers, order, kills or totals."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from conductor.search.arm import Arm
from conductor.search.sampling import AUDIT_EVERY
from kd.errors import ProtocolError, StudyError
from kd.recipe import SHARP_SHAPES
from search_spaces import SPACES
from search_spaces.space import load_space
from storage.studies.databases import close_storage, open_storage
from tests.support.fakes import (
    HORIZON,
    DyingStorage,
    FakePool,
    Killed,
    Row,
    make_arm,
    rows,
    search,
    told,
)

TRIALS = 16
METHODS = [
    ("", ""),  # promotion
    ("random", "median"),
    ("random", "none"),
    ("tpe", "median"),
    ("tpe", "quartile"),
    ("tpe", "halving"),
    ("tpe", "hyperband"),
]


def searched(root: Path, pool: FakePool, total: int = TRIALS, **chosen: object) -> list[Row]:
    """Return the rows of an arm that was searched without an interruption."""
    arm = make_arm(InMemoryStorage(), **chosen)
    search(root, [arm], pool, total)
    return rows(arm.study)


@pytest.mark.parametrize("lag", [1, 4])
@pytest.mark.parametrize(("sampler", "pruner"), METHODS)
def test_the_same_seed_gives_the_same_trials_in_any_order_of_completion(
    tmp_path, sampler, pruner, lag
):
    chosen = {"sampler": sampler, "pruner": pruner, "lag": lag}
    alone = searched(tmp_path, FakePool(1), **chosen)
    states = [row[1] for row in alone]
    assert len(states) == TRIALS if sampler else len(states) > 2 * TRIALS
    assert set(states) == ({"COMPLETE"} if pruner == "none" else {"COMPLETE", "PRUNED"})
    for size, order in ((2, 1), (4, 2), (8, 3)):
        assert searched(tmp_path, FakePool(size, order), **chosen) == alone


def test_another_seed_lag_number_or_arm_gives_other_parameters(tmp_path):
    def parameters(total: int, **chosen: object) -> list[object]:
        found = searched(tmp_path, FakePool(), total, sampler="tpe", space=space, **chosen)
        return [row[3] for row in found]

    space = load_space("plain")
    usual = parameters(TRIALS)
    assert len({given["lr"] for given in usual}) == TRIALS
    assert parameters(5, seed=1)[1:] != usual[1:5]
    assert parameters(TRIALS, lag=4)[11:] != usual[11:]
    space = replace(space, name="other")
    assert parameters(5)[1:] != usual[1:5]


def test_the_lag_bounds_how_many_trials_run_at_once(tmp_path):
    for lag, most in ((1, 1), (4, 4)):
        arm = make_arm(InMemoryStorage(), lag=lag)
        pool, running = FakePool(8, 1), []

        def count(job: object, arm: Arm = arm, running: list[int] = running) -> None:
            running.append(len(arm.decisions.running))

        pool.on_submit = count
        search(tmp_path, [arm], pool, TRIALS)
        assert max(running) == most


@pytest.mark.parametrize(("sampler", "pruner"), [("", ""), ("tpe", "median"), ("tpe", "hyperband")])
def test_three_trials_and_then_more_equal_all_at_once(tmp_path, sampler, pruner):
    chosen = {"sampler": sampler, "pruner": pruner, "lag": 4, "space": "plain"}
    storage = InMemoryStorage()
    for total in (3, 5, 5, 4, 24, 25, 26):
        arm = make_arm(storage, **chosen)
        search(tmp_path, [arm], FakePool(4, total), total)
        wanted = (max(5, total) if total != 3 else 3) * arm.decisions.unit
        over = arm.decisions.spent - wanted
        assert 0 <= over < arm.decisions.unit
    assert rows(arm.study) == searched(tmp_path, FakePool(), 26, **chosen)


def test_gp_gives_the_same_trials_again(tmp_path):
    chosen = {"sampler": "gp", "pruner": "none", "space": "plain", "lag": 2}
    storage = InMemoryStorage()
    for total in (12, 13):
        arm = make_arm(storage, **chosen)
        search(tmp_path, [arm], FakePool(2, total), total)
    assert rows(arm.study) == searched(tmp_path, FakePool(1), 13, **chosen)


def assert_nothing_is_left(arm: Arm) -> None:
    assert arm.decisions.running == []
    assert all(trial.state.is_finished() for trial in arm.study.get_trials())


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("", ""), ("tpe", "median"), ("tpe", "halving"), ("tpe", "hyperband")],
)
def test_a_study_killed_before_any_write_ends_as_an_uninterrupted_one(tmp_path, sampler, pruner):
    """It is killed once before each of some writes, and then again and again."""
    chosen = {"sampler": sampler, "pruner": pruner, "lag": 4, "space": "plain"}
    alone = searched(tmp_path, FakePool(), 13, **chosen)
    for first in range(0, 120, 11):
        storage, kills, draw = DyingStorage(), 0, random.Random(first)
        while True:
            storage.fuse = None
            arm = make_arm(storage, **chosen)
            storage.fuse = draw.randrange(60, 200) if kills else first
            try:
                search(tmp_path, [arm], FakePool(4, first + kills), 13)
                break
            except Killed:
                kills += 1
        assert kills
        assert_nothing_is_left(arm)
        assert rows(arm.study) == alone


@pytest.mark.parametrize("lag", [1, 4])
@pytest.mark.parametrize("sampler", ["", "tpe"])
def test_a_study_killed_at_any_event_ends_as_an_uninterrupted_one(tmp_path, sampler, lag):
    chosen = {"sampler": sampler, "lag": lag, "space": "scheduled"}
    alone = searched(tmp_path, FakePool(), 8, **chosen)
    for fuse in range(0, 24, 3):
        storage = InMemoryStorage()
        pool = FakePool(4, fuse)
        pool.fuse = fuse
        with pytest.raises(Killed):
            search(tmp_path, [make_arm(storage, **chosen)], pool, 8)
        arm = make_arm(storage, **chosen)
        search(tmp_path, [arm], FakePool(3, fuse), 8)
        assert_nothing_is_left(arm)
        assert rows(arm.study) == alone


@pytest.mark.parametrize(("sampler", "pruner"), [("", ""), ("tpe", "halving")])
def test_a_study_killed_on_sqlite_ends_as_an_uninterrupted_one(tmp_path, sampler, pruner):
    chosen = {"sampler": sampler, "pruner": pruner, "lag": 4}
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for fuse in (9, 30, None):
        storage = open_storage(url)
        arm = make_arm(storage, **chosen)
        pool = FakePool(4, 7)
        pool.fuse = fuse
        try:
            search(tmp_path, [arm], pool, 12)
        except Killed:
            continue
        finally:
            found = rows(arm.study)
            close_storage(storage)
    assert found == searched(tmp_path, FakePool(), 12, **chosen)


@pytest.mark.parametrize("space", SPACES.names)
def test_enqueued_recipes_are_the_first_trials_and_come_once(tmp_path, space):
    storage, enqueued = DyingStorage(), list(load_space(space).enqueued.values())
    for fuse in (0, 1, 2, 4, 30, None):
        storage.fuse = None
        arm = make_arm(storage, space, lag=4)
        storage.fuse = fuse
        try:
            search(tmp_path, [arm], FakePool(2), 6)
        except Killed:
            continue
    parameters = [trial.params for trial in arm.study.get_trials()]
    assert parameters[: len(enqueued)] == enqueued
    assert not any(later in enqueued for later in parameters[len(enqueued) :])


@pytest.mark.parametrize("sampler", ["", "random"])
def test_a_trial_has_no_parameter_without_effect(tmp_path, sampler):
    for row in searched(tmp_path, FakePool(), 30, sampler=sampler, pruner="none"):
        given = row[3]
        for name in ("temperature", "alpha"):
            shape = given[f"{name}_shape"]
            assert (f"{name}_final" in given) == (shape != "constant")
            assert (f"{name}_sharpness" in given) == (shape in SHARP_SHAPES)
        for name in ("feature_weight", "feature_taps"):
            assert (name in given) == (given["feature_kind"] != "none")


def worse_and_worse(arm: Arm, count: int) -> list[bool]:
    """Tell trials, each worse than all before it, and return which were to be pruned."""
    pruned = []
    for _ in range(count):
        number = arm.ask(99)
        answers = [
            arm.report(number, epoch, 0.9 - 0.01 * number) for epoch in range(1, HORIZON + 1)
        ]
        pruned.append(any(answers))
        state = TrialState.PRUNED if any(answers) else TrialState.COMPLETE
        arm.tell(number, state, 0.9 - 0.01 * number, {})
    return pruned


def test_auditors_are_never_pruned_and_all_others_may_be():
    arm = make_arm(InMemoryStorage(), "plain", sampler="random")
    pruned = worse_and_worse(arm, 25)
    startup = 5  # trials before the median pruner begins
    assert pruned == [number >= startup and number % AUDIT_EVERY != 0 for number in range(25)]
    audited = [trial.user_attrs["auditor"] for trial in arm.study.get_trials()]
    assert audited == [number % 6 == 0 for number in range(25)]
    cuts = {trial.number: trial.user_attrs.get("cut_epoch") for trial in arm.study.get_trials()}
    warmup = HORIZON // 4  # epochs before the median pruner begins
    assert {number for number, cut in cuts.items() if cut == warmup} == {6, 12, 18, 24}
    assert {number for number, cut in cuts.items() if cut} == {6, 12, 18, 24}


def test_no_trial_is_pruned_after_its_last_epoch():
    arm = make_arm(InMemoryStorage(), "plain", sampler="random")
    worse_and_worse(arm, 8)
    number = arm.ask(99)
    assert number % AUDIT_EVERY
    assert not arm.report(number, HORIZON, 0.0)


def test_reporting_an_epoch_again_changes_nothing():
    storage = DyingStorage()
    arm = make_arm(storage, "plain", sampler="random")
    worse_and_worse(arm, 7)
    number = arm.ask(99)
    first = arm.report(number, 3, 0.1)
    before = rows(arm.study), [trial.intermediate_values for trial in arm.decisions.trials]
    storage.fuse = 0  # a write would raise
    assert arm.report(number, 3, 0.95) == first
    assert (
        rows(arm.study),
        [trial.intermediate_values for trial in arm.decisions.trials],
    ) == before


def test_asking_writes_the_whole_trial_at_once():
    storage = DyingStorage()
    arm = make_arm(storage, "scheduled")
    storage.fuse = 1
    arm.ask(99)
    assert arm.study.get_trials()[0].params == load_space("scheduled").enqueued["classic"]


def test_a_space_that_fails_in_the_search_is_named_with_its_line_and_the_trial(tmp_path):
    """A candidate of the search by promotion has no trial yet."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from search_spaces import plain\n\n\ndef suggest(trial, study):\n"
        "    lr = 1 / 0 if trial.number == 200 else 0.1\n    return plain.suggest(trial, study)\n"
    )
    storage = InMemoryStorage()
    arm = make_arm(storage, load_space(str(path)), sampler="random", lag=999)
    for number in range(200):
        assert arm.ask(999) == number
    match = (
        r"^mine\.py, line 5, in suggest: suggest of trial 200 raises ZeroDivisionError: division "
        r"by zero; the trials so far are kept; run the corrected space under another --name$"
    )
    with pytest.raises(ProtocolError, match=match):
        arm.ask(999)
    assert len(arm.study.get_trials()) == 200
    arm = make_arm(InMemoryStorage(), load_space(str(path)), lag=999)
    with pytest.raises(ProtocolError, match=match.replace("trial 200", "a candidate")):
        arm.ask(999)
    assert arm.study.get_trials() == []


def test_recipe_of_an_earlier_session_is_what_was_asked(tmp_path):
    storage = InMemoryStorage()
    arm = make_arm(storage, lag=4)
    asked = [arm.decisions.recipe(arm.ask(99)) for _ in range(4)]
    again = make_arm(storage, lag=4)
    assert [again.decisions.recipe(number) for number in range(4)] == asked


def test_the_next_trial_waits_for_the_one_that_the_lag_states():
    arm = make_arm(InMemoryStorage(), "plain", lag=3)
    for _ in range(3):
        assert arm.decisions.may_ask(99)
        arm.ask(99)
    assert not arm.decisions.may_ask(99)
    arm.tell(2, TrialState.PRUNED, 0.5, told(arm, 2, 0.5))
    assert not arm.decisions.may_ask(99)
    arm.tell(0, TrialState.COMPLETE, 0.5, told(arm, 0, 0.5))
    assert arm.decisions.may_ask(99)


@pytest.mark.parametrize(
    ("sampler", "spent", "running"),
    [("random", 2, 1), ("", HORIZON + 1, 1)],  # trials; epochs, where the first rung is 1
)
def test_trials_that_failed_do_not_count_towards_the_total(sampler, spent, running):
    arm = make_arm(InMemoryStorage(), "plain", sampler=sampler, lag=4)
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        value = None if state == TrialState.FAIL else 0.5
        number = arm.ask(99)
        arm.tell(number, state, value, told(arm, number, value))
    arm.ask(99)
    assert (arm.decisions.spent, arm.decisions.running) == (spent, [3])
    assert arm.decisions.committed == spent + running
    assert arm.decisions.may_ask(spent + running + 1)
    assert not arm.decisions.may_ask(spent + running)


def test_best_ranks_complete_trials_that_did_not_diverge_the_first_first():
    arm = make_arm(InMemoryStorage(), "plain", sampler="random", lag=9)
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    for state, value, gone in (
        (complete, 0.5, False),
        (pruned, 0.9, False),
        (complete, 0.0, True),
        (complete, 0.7, False),
        (complete, 0.5, False),
        (TrialState.FAIL, None, False),
    ):
        arm.tell(arm.ask(99), state, value, {"diverged": gone})
    assert [trial.number for trial in arm.decisions.ranked()[:9]] == [3, 0, 4]
    assert [trial.number for trial in arm.decisions.ranked()[:1]] == [3]


def test_by_promotion_each_recipe_is_ranked_by_a_trial_that_has_ended():
    arm = make_arm(InMemoryStorage(), "plain", lag=1)
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    for state, value in ((complete, 0.5), (pruned, 0.9), (pruned, 0.4)):
        number = arm.ask(99)
        arm.tell(number, state, value, told(arm, number, value))
    running = arm.decisions.trial(arm.ask(99))
    assert running.user_attrs["continues"] == 1
    assert {trial.number for trial in arm.decisions.ranked()} == {0, 1, 2}


def test_a_study_that_lost_a_trial_is_refused():
    storage = InMemoryStorage()
    arm = make_arm(storage, "plain", lag=4)
    for _ in range(3):
        arm.ask(99)
    del storage._studies[arm.study._study_id].trials[1]
    with pytest.raises(StudyError, match=r"study\.plain lacks trial 1"):
        make_arm(storage, "plain", lag=4)


def test_attributes_are_written_before_a_trial_ends():
    """A kill in between leaves a trial that is running, and is ended again."""
    storage = DyingStorage()
    arm = make_arm(storage, "plain")
    number = arm.ask(99)
    storage.fuse = 2
    with pytest.raises(Killed):
        arm.tell(number, TrialState.COMPLETE, 0.5, {"epochs": 8, "nll": random.random()})
    stored = arm.study.get_trials()[0]
    assert stored.state == TrialState.RUNNING
    assert {"epochs", "nll"} <= set(stored.user_attrs)


def test_a_trial_that_was_changed_afterwards_is_refused():
    storage = InMemoryStorage()
    arm = make_arm(storage, "plain")
    number = arm.ask(99)
    arm.report(number, 1, 0.5)
    arm.tell(number, TrialState.COMPLETE, 0.5, {})
    make_arm(storage, "plain")
    storage._studies[arm.study._study_id].trials[0].intermediate_values[1] = 0.6
    with pytest.raises(StudyError, match=r"trial 0 of study\.plain differs from its digest"):
        make_arm(storage, "plain")


@pytest.mark.parametrize("key", ["run", "until", "continues", "repeats", "auditor"])
def test_the_job_of_a_running_trial_cannot_be_changed(key):
    """Decisions follow from it, and at its end the trial is sealed as it is."""
    storage = InMemoryStorage()
    arm = make_arm(storage, "plain", lag=4)
    number = arm.ask(99)
    make_arm(storage, "plain", lag=4)
    storage._studies[arm.study._study_id].trials[number].user_attrs[key] = 1
    with pytest.raises(StudyError, match=r"trial 0 of study\.plain differs from its digest"):
        make_arm(storage, "plain", lag=4)


def test_a_new_session_takes_over_what_was_running(tmp_path):
    storage = InMemoryStorage()
    first = make_arm(storage, "plain", lag=4)
    numbers = [first.ask(99) for _ in range(3)]
    first.tell(1, TrialState.PRUNED, 0.5, told(first, 1, 0.5))
    second, pool = make_arm(storage, "plain", lag=4), FakePool()
    assert second.decisions.running == [number for number in numbers if number != 1]
    search(tmp_path, [second], pool, 1)
    assert [Path(job.folder).name for job in pool.jobs] == ["00000", "00002"]


def test_deciding_writes_nothing_and_what_is_written_was_decided_before():
    """So a kill, or a storage that refuses, leaves the study as it was."""
    storage = DyingStorage()
    arm = make_arm(storage, "plain", lag=9)
    storage.fuse = 0  # a write would raise
    trial = arm.decisions.ask()
    assert arm.study.get_trials() == []
    storage.fuse = None
    arm.ledger.begin(trial)
    assert arm.study.get_trials()[0].params == trial.params


def test_recipes_are_counted_once_however_many_jobs_and_seeds_they_have(tmp_path):
    arm = make_arm(InMemoryStorage(), lag=4)
    search(tmp_path, [arm], FakePool(2), 12)
    trials = arm.study.get_trials()
    told = [trial.user_attrs for trial in trials]
    assert any("continues" in one for one in told)
    assert any("repeats" in one for one in told)
    whole = [t for t in trials if t.state == TrialState.COMPLETE and not t.user_attrs["diverged"]]
    begun = {json.dumps(trial.params, sort_keys=True) for trial in trials}
    ended = {json.dumps(trial.params, sort_keys=True) for trial in whole}
    assert arm.decisions.recipes_begun == (len(begun), len(ended))
    assert len(ended) < len(begun) < len(trials)
