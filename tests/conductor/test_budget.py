"""Students of several sizes: a student over the budget is infeasible, at no cost, repeatably."""

import json
import random
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from conductor.command_line.cli import main
from conductor.search.arm import Arm
from conductor.search.budget import Budget, measure_budget
from conductor.search.methods import STARTUP_TRIALS, make_sampler
from conductor.search.sampling import AUDIT_EVERY
from kd.errors import ArtifactError, StudyError
from kd.protocol import Protocol
from search_spaces.context import StudyContext
from search_spaces.space import with_feasible
from storage.files.artifacts import read_json, write_json
from storage.files.layout import Layout
from storage.files.records import Costs, Finalists, RunRecord, StudentSize, StudentSizes
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import load_study
from tests.support.fakes import (
    DyingStorage,
    FakePool,
    Killed,
    built_in,
    make_arm,
    protocol,
    quiet,
    rows,
    search,
)
from tests.support.tiny import (
    FLAGS,
    changed,
    hasten,
    refuse,
    succeed,
    timeless,
    trials_of,
    without_openings,
)
from workers.events import Result
from workers.jobs import JobContext, StudentsJob

LARGE, SMALL, MIDDLE = "resnet20", "resnet8-w0.25", "resnet8"
SIZES = {LARGE: 4000, SMALL: 500, MIDDLE: 1000}
LATENCIES = {LARGE: 2.0, SMALL: 0.5, MIDDLE: 1.5}
TRIALS = 24


def several(**limits: Any) -> Protocol:
    return protocol(students=tuple(SIZES), **limits)


def sizes(given: Protocol, dataset: str = "d" * 16) -> StudentSizes:
    """What the students are measured to be."""
    timed = given.max_latency_ms > 0
    models = {
        name: StudentSize(parameters=size, latency_ms=LATENCIES[name] if timed else None)
        for name, size in SIZES.items()
        if name in given.students
    }
    return StudentSizes(
        protocol=given.hash, dataset=dataset, device="cpu", threads=1, models=models
    )


def budget(**limits: Any) -> Budget:
    given = several(**limits)
    return Budget(given, sizes(given))


WAYS = ["", "tpe"]  # by promotion, and by a sampler


def limited_arm(storage: BaseStorage, name: str = "plain", **chosen: Any) -> Arm:
    """An arm of which a student is over the budget, opened as a session does."""
    found = budget(max_params=1000)
    context = StudyContext(students=tuple(SIZES))
    space = with_feasible(built_in(name, context), found.feasible)
    return make_arm(storage, space, budget=found, **{"sampler": "tpe", "lag": 4, **chosen})


def searched(root: Path, total: int = TRIALS, pool: FakePool | None = None) -> list[FrozenTrial]:
    arm = limited_arm(InMemoryStorage())
    search(root, [arm], pool or FakePool(), total)
    return arm.study.get_trials()


def is_large(trial: FrozenTrial) -> bool:
    return trial.params["student"] == LARGE


def test_a_constraint_is_the_share_that_a_student_is_over_its_limit():
    found = budget(max_params=1000, max_latency_ms=1.0)
    assert found.constraints(LARGE) == {"parameters": 3.0, "latency": 1.0}
    assert found.constraints(MIDDLE) == {"parameters": 0.0, "latency": 0.5}
    assert found.constraints(SMALL) == {"parameters": -0.5, "latency": -0.5}
    assert found.feasible == (SMALL,)
    assert budget(max_params=1000).feasible == (SMALL, MIDDLE)
    assert budget(max_latency_ms=1.5).constraints(MIDDLE) == {"latency": 0.0}


def test_an_unnamed_student_is_the_first():
    found = budget(max_params=1000)
    assert found.constraints("") == found.constraints(LARGE)
    assert found.excess("") == "4,000 parameters, over the budget of 1,000"
    assert found.excess(SMALL) == ""


def test_without_a_budget_every_student_is_feasible_and_nothing_is_constrained():
    found = Budget(several())
    assert found.feasible == tuple(SIZES)
    assert found.constraints(LARGE) == {}
    assert found.digest == ""


class Measuring:
    """Workers that answer what students were measured to be, and remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[StudentsJob] = []

    def run(self, job: StudentsJob) -> dict[str, Any]:
        self.asked.append(job)
        return Result.of(sizes=sizes(job.protocol, job.dataset).to_json())


def measured(root: Path, workers: Any, given: Protocol, dataset: str = "d" * 16) -> Budget:
    layout = Layout(root)
    context = JobContext(protocol=given, root=str(layout.root), dataset=dataset)
    return measure_budget(context, layout.study("study"), workers, quiet())


def test_students_are_measured_once_for_a_study(tmp_path):
    workers, given = Measuring(), several(max_params=1000)
    first = measured(tmp_path, workers, given)
    assert first.feasible == (SMALL, MIDDLE)
    assert measured(tmp_path, workers, given) == first
    assert [job.dataset for job in workers.asked] == ["d" * 16]
    assert StudentSizes.read(Layout(tmp_path).study("study").students) == sizes(given)


def test_students_are_not_measured_without_a_budget(tmp_path):
    workers = Measuring()
    assert measured(tmp_path, workers, several()).sizes is None
    assert workers.asked == []
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_for_another_protocol_is_measured_again(tmp_path):
    """Only a study that never began can have left it."""
    workers = Measuring()
    measured(tmp_path, workers, several(max_params=1000))
    timed = measured(tmp_path, workers, several(max_params=1000, max_latency_ms=1.0))
    assert len(workers.asked) == 2
    assert timed.feasible == (SMALL,)


def test_what_was_measured_for_other_data_is_measured_again(tmp_path):
    """Their number of classes is that of a student's outputs."""
    workers = Measuring()
    for dataset in ("d" * 16, "e" * 16, "e" * 16):
        measured(tmp_path, workers, several(max_params=1000), dataset)
    assert [job.dataset for job in workers.asked] == ["d" * 16, "e" * 16]


def test_no_student_within_the_budget_is_one_line_that_names_each(tmp_path):
    with pytest.raises(StudyError) as raised:
        measured(tmp_path, Measuring(), several(max_params=499, max_latency_ms=0.5))
    assert str(raised.value) == (
        "no student is within the budget: "
        "resnet20: 4,000 parameters, over the budget of 499, "
        "2 ms for an image, over the budget of 0.5; "
        "resnet8-w0.25: 500 parameters, over the budget of 499; "
        "resnet8: 1,000 parameters, over the budget of 499, "
        "1.5 ms for an image, over the budget of 0.5; "
        "raise --max-params or --max-latency-ms, or name a smaller --student"
    )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("spoiled", ["missing", "untimed", "renamed", "all over"])
def test_a_record_that_lacks_a_figure_is_refused(tmp_path, spoiled):
    given = several(max_params=1000, max_latency_ms=1.0)
    record = sizes(given).to_json()
    if spoiled == "missing":
        del record["models"][MIDDLE]
    elif spoiled == "untimed":
        record["models"][MIDDLE]["latency_ms"] = None
    elif spoiled == "renamed":
        record["models"]["resnet14"] = record["models"].pop(MIDDLE)
    else:
        record["models"] = {
            name: {"parameters": 9999, "latency_ms": 0.1} for name in record["models"]
        }
    paths = Layout(tmp_path).study("study")
    write_json(paths.students, record)
    with pytest.raises((ArtifactError, StudyError), match=r"a student lacks a figure|no student"):
        measured(tmp_path, Measuring(), given)


def test_a_trial_over_the_budget_ends_at_once_and_is_never_trained(tmp_path):
    pool = FakePool()
    trials = searched(tmp_path, pool=pool)
    over = [trial for trial in trials if is_large(trial)]
    within = [trial for trial in trials if not is_large(trial)]
    assert over
    for trial in over:
        assert (trial.state, trial.values, trial.intermediate_values) == (
            TrialState.PRUNED,
            None,
            {},
        )
        assert trial.constraints == {"parameters": 3.0} == trial.user_attrs["constraints"]
        reason = "4,000 parameters, over the budget of 1,000"
        assert trial.user_attrs["infeasible"] == reason
        assert trial.datetime_complete is not None
    for trial in within:
        assert trial.constraints == trial.user_attrs["constraints"]
        assert max(trial.constraints.values()) <= 0
        assert "infeasible" not in trial.user_attrs
    numbers = [int(Path(job.folder).name) for job in pool.jobs]
    assert numbers == [trial.number for trial in within]
    assert {job.recipe.student for job in pool.jobs} == {SMALL, MIDDLE}


def test_a_trial_over_the_budget_does_not_count_and_is_no_candidate(tmp_path):
    arm = limited_arm(InMemoryStorage())
    search(tmp_path, [arm], FakePool(), 12)
    trials = arm.study.get_trials()
    assert arm.decisions.spent == 12 == sum(not is_large(trial) for trial in trials) < len(trials)
    assert not any(is_large(trial) for trial in arm.decisions.ranked()[:99])
    assert limited_arm(arm.study._storage).decisions.spent == 12


def test_promotion_proposes_no_student_over_the_budget(tmp_path):
    """Not even among the candidates, so that it costs no trial."""
    arm = limited_arm(InMemoryStorage(), sampler="")
    search(tmp_path, [arm], FakePool(4), TRIALS)
    trials = arm.study.get_trials()
    assert {trial.params["student"] for trial in trials} == {SMALL, MIDDLE}
    for trial in trials:
        assert trial.constraints == trial.user_attrs["constraints"]
        assert max(trial.constraints.values()) <= 0


def test_promotion_without_a_recipe_within_the_budget_ends_in_one_line():
    space = replace(built_in("plain", StudyContext(students=tuple(SIZES))), enqueued={})
    arm = make_arm(InMemoryStorage(), space, budget=budget(max_params=499), lag=4)
    with pytest.raises(StudyError, match=r"plain: none of [\d,]+ recipes has a student within"):
        arm.ask(99)
    assert arm.study.get_trials() == []


def test_a_trial_over_the_budget_is_no_auditor(tmp_path):
    trials = searched(tmp_path)
    assert any(is_large(trial) and trial.number % AUDIT_EVERY == 0 for trial in trials)
    for trial in trials:
        audits = trial.number % AUDIT_EVERY == 0 and not is_large(trial)
        assert trial.user_attrs["auditor"] == audits


def test_recipes_to_try_first_are_tried_with_the_first_student_within_the_budget(tmp_path):
    arm = limited_arm(InMemoryStorage(), "scheduled")
    search(tmp_path, [arm], FakePool(), 2)
    assert [trial.params["student"] for trial in arm.study.get_trials()] == [SMALL, SMALL]
    assert {arm.decisions.recipe(number).student for number in (0, 1)} == {SMALL}


def test_random_trials_before_a_sampler_learns_are_those_that_ran(tmp_path, monkeypatch):
    startups: list[int] = []
    make = make_sampler

    def watched(name: str, seed: int, startup: int, *others: Any) -> Any:
        startups.append(startup)
        return make(name, seed, startup, *others)

    monkeypatch.setattr("conductor.search.sampling.make_sampler", watched)
    arm = limited_arm(InMemoryStorage(), lag=1)
    search(tmp_path, [arm], FakePool(), TRIALS)
    over = [is_large(trial) for trial in arm.study.get_trials()]
    assert startups == [STARTUP_TRIALS + sum(over[:number]) for number in range(len(over))]


def test_a_sampler_learns_which_student_is_over_the_budget(tmp_path):
    trials = searched(tmp_path, 60)
    late = trials[len(trials) // 2 :]
    asked = sum(map(is_large, late)) / len(late)
    assert asked < 0.2 < sum(map(is_large, trials[: len(trials) // 2])) / (len(trials) // 2)


@pytest.mark.parametrize("sampler", WAYS)
@pytest.mark.parametrize("space", ["plain", "scheduled"])
def test_a_limited_study_is_the_same_whatever_the_workers_and_totals(tmp_path, space, sampler):
    def found(pools: list[FakePool], totals: list[int]) -> list[Any]:
        storage = InMemoryStorage()
        for pool, total in zip(pools, totals, strict=True):
            arm = limited_arm(storage, space, sampler=sampler)
            search(tmp_path, [arm], pool, total)
        return rows(arm.study)

    alone = found([FakePool()], [TRIALS])
    assert found([FakePool(4, 1)], [TRIALS]) == alone
    assert found([FakePool(8, 2)], [TRIALS]) == alone
    assert found([FakePool(4, n) for n in range(4)], [3, 11, 17, TRIALS]) == alone


@pytest.mark.parametrize("sampler", WAYS)
def test_a_limited_study_killed_again_and_again_ends_as_an_uninterrupted_one(tmp_path, sampler):
    alone = limited_arm(InMemoryStorage(), sampler=sampler)
    search(tmp_path, [alone], FakePool(), TRIALS)
    storage, draw = DyingStorage(), random.Random(3)
    for kills in count():
        storage.fuse = None
        arm = limited_arm(storage, sampler=sampler)
        storage.fuse = draw.randrange(80)
        try:
            search(tmp_path, [arm], FakePool(4, kills), TRIALS)
            break
        except Killed:
            continue
    assert kills > 3
    assert rows(arm.study) == rows(alone.study)


def test_a_resumed_arm_shows_its_sampler_the_constraints_of_all_trials(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for total in (3, 4):
        storage = open_storage(url)
        arm = limited_arm(storage)
        told = {trial.number: trial.constraints for trial in arm.study.get_trials()}
        assert {trial.number: trial.constraints for trial in arm.decisions.trials} == told
        search(tmp_path, [arm], FakePool(), total)
        close_storage(storage)
    assert any(values["parameters"] > 0 for values in told.values())


@pytest.mark.parametrize("ended", [True, False])
def test_digests_cover_the_constraints_of_a_trial(tmp_path, ended):
    storage = InMemoryStorage()
    arm = limited_arm(storage)
    search(tmp_path, [arm], FakePool(), 8)
    if not ended:
        while arm.decisions.excess(arm.ask(99)):
            continue
    trial = arm.study.get_trials()[-1]
    assert trial.state.is_finished() == ended
    changed = replace_trial(storage, trial, {"parameters": -0.1})
    assert changed.user_attrs["constraints"] != trial.user_attrs["constraints"]
    with pytest.raises(StudyError, match=f"trial {trial.number} of .* differs from its digest"):
        limited_arm(storage)


def replace_trial(
    storage: InMemoryStorage, trial: FrozenTrial, constraints: dict[str, float]
) -> FrozenTrial:
    """Change a trial as somebody does who edits the database by hand."""
    kept = storage._get_trial(trial._trial_id)
    kept.user_attrs = {**kept.user_attrs, "constraints": constraints}
    return storage.get_trial(trial._trial_id)


# Whole studies.

HELD, OVER = "resnet8-w0.125", "resnet8-w0.25"
LIMITED = ["--student", f"{OVER},{HELD}", "--max-params", "2000", "--trials", "4"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a study of which one student is over the budget."""
    return limited_study(tmp_path_factory.mktemp("limited"))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of one whose sampler suggests that student too."""
    return limited_study(tmp_path_factory.mktemp("sampled"), "--sampler", "tpe")


def limited_study(root: Path, *flags: str) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        hasten(patched)
        assert main([*changed(FLAGS.split(), LIMITED), *flags, "--root", str(root)]) == 0
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch) -> Path:
    hasten(monkeypatch)
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def test_a_study_with_a_budget_trains_no_student_over_it(finished):
    paths = Layout(finished).study("digits")
    assert StudentSizes.read(paths.students).models == {
        OVER: StudentSize(parameters=5142, latency_ms=None),
        HELD: StudentSize(parameters=1384, latency_ms=None),
    }
    results = [path for path in paths.folder.rglob("result.json") if path.parent.name != "teacher"]
    assert {RunRecord.read(path).recipe.student for path in results} == {HELD}
    finalists = Finalists.read(paths.finalists).finalists
    assert {finalist.recipe.student for finalist in finalists} == {HELD}
    assert list(Costs.read(paths.costs).models) == ["teacher", "distilled", "plain", HELD]


def test_trials_over_the_budget_are_reported_and_leave_no_folder(sampled):
    storage, numbers = open_storage(Layout(sampled).studies_url), []
    for arm in ("scheduled", "plain"):
        trials = load_study(storage, f"digits.{arm}").get_trials()
        over = {trial.number for trial in trials if trial.params["student"] == OVER}
        for trial in trials:
            assert (trial.constraints["parameters"] > 0) == (trial.number in over)
        folder = Layout(sampled).study("digits").trial(arm, 0).folder.parent
        assert {int(path.name) for path in folder.iterdir()} == set(range(len(trials))) - over
        numbers += over
    close_storage(storage)
    assert numbers


def test_a_report_lists_trials_over_the_budget_and_the_student_of_each_finalist(sampled):
    report = json.loads(Layout(sampled).study("digits").report_json.read_text())
    for arm in report["arms"].values():
        assert arm["trials"] == arm["complete"] + arm["pruned"] == 4
    assert sum(arm["infeasible"] for arm in report["arms"].values()) > 0
    for finalist in report["finalists"]:
        assert (finalist["student"], finalist["parameters"]) == (HELD, 1384)
    assert report["protocol"]["students"] == [OVER, HELD]
    table = Layout(sampled).study("digits").trials_csv.read_text()
    assert table.count("INFEASIBLE") == sum(arm["infeasible"] for arm in report["arms"].values())


def test_a_finished_study_with_a_budget_does_nothing_more(copied, capsys, monkeypatch):
    monkeypatch.setattr("conductor.search.budget.StudentsJob", None)  # nothing is measured again
    before, trials = runs(copied), trials_of(copied)
    succeed(copied, capsys, *LIMITED)
    assert (runs(copied), trials_of(copied)) == (before, trials)


def runs(root: Path) -> dict[Path, int]:
    """Return when each run, and what the students were measured to be, was written."""
    paths = [*root.rglob("result.json"), *root.rglob("students.json")]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_another_record_of_the_students_is_refused(copied, capsys):
    path = Layout(copied).study("digits").students
    kept = read_json(path)
    kept["models"][OVER]["parameters"] = 4000
    write_json(path, kept)
    assert "was begun with students" in refuse(copied, capsys, *LIMITED)


def test_a_study_with_a_budget_is_the_same_with_two_workers(finished, tmp_path, capsys):
    succeed(tmp_path, capsys, *LIMITED, "--workers", "2")
    assert without_openings(tmp_path) == without_openings(finished)


def test_a_study_without_a_student_in_its_budget_leaves_nothing(tmp_path, capsys):
    root = tmp_path / "runs"
    said = refuse(root, capsys, "--max-params", "100")
    assert said.startswith("study.py: no student is within the budget: resnet8-w0.25: 5,142 param")
    assert not (root / "digits").exists()
    assert not (root / "cache" / "teachers").exists()


def test_one_student_is_only_checked_against_the_budget(tmp_path, capsys, monkeypatch):
    hasten(monkeypatch)
    found = []
    for name, *limit in (("free",), ("limited", "--max-params", "6000")):
        succeed(tmp_path / name, capsys, "--arms", "plain", "--trials", "1", *limit)
        paths = Layout(tmp_path / name).study("digits")
        assert paths.students.exists() == bool(limit)
        storage = open_storage(Layout(tmp_path / name).studies_url)
        found.append(timeless(rows(load_study(storage, "digits.plain"))))
        close_storage(storage)
    assert found[0] == found[1]
