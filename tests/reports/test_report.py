"""The report of a fabricated study: what it says, and what it does with one that is unfinished."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from safetensors.numpy import load_file
from scipy.stats import binomtest

from kd import schedules
from kd.errors import ArtifactError, StudyError
from kd.recipe import Recipe, Schedule
from kd.training.history import EpochMetrics
from reports.compute.caveats import edge_parameters
from reports.compute.findings import Findings, find
from reports.compute.verdict import less_teacher
from reports.draw.drawing import Figure
from reports.draw.figures.loss import loss_shares
from reports.draw.tables import comparison_note, comparison_table
from reports.read.collect import collect
from reports.read.data import StudyData
from reports.write import report as report_module
from reports.write.page import key_figures, render_page
from reports.write.report import write_report
from reports.write.summary import summarise, trials_frame
from storage.files.arrays import write_arrays
from storage.files.records import Finalists, RunRecord, SpaceSource, StudySettings
from tests.support.study_fixture import (
    CLASSES,
    TRAIN,
    Fabricated,
    Plan,
    drawn_figures,
    fabricate,
    read_report,
)

ROOT = Path(__file__).parents[2]
SMALL = Plan(name="small", trials=12, epochs=4, images=80)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """A study with ablations, as a user would have it, with its report written."""
    study = fabricate(tmp_path_factory.mktemp("study"), Plan(ablated=True))
    write_report(study.layout, study.name, study.url)
    return study


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """Few trials, and fewer of plain; five seeds."""
    plan = replace(SMALL, name="tiny", trials=4, fewer={"plain": 1}, seeds=5)
    return fabricate(tmp_path_factory.mktemp("tiny"), plan)


@pytest.fixture
def copied(small: Fabricated, tmp_path: Path) -> Fabricated:
    """A copy of the small study, to be spoilt."""
    shutil.copytree(small.layout.root, tmp_path / "runs")
    return replace(small, layout=replace(small.layout, root=tmp_path / "runs"))


@pytest.fixture(scope="module")
def findings(made: Fabricated) -> Findings:
    return find(collect(made.layout, made.name, made.url))


def read(study: Fabricated) -> StudyData:
    return collect(study.layout, study.name, study.url)


@pytest.fixture(scope="module")
def data(small: Fabricated) -> StudyData:
    return read(small)


def test_reports_never_import_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, reports\n"
        "for one in pkgutil.iter_modules(reports.__path__):\n"
        "    importlib.import_module(f'reports.{one.name}')\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_headline_is_the_verdict_and_the_title_of_the_page(made: Fabricated) -> None:
    paths = write_report(made.layout, made.name, made.url)
    report = read_report(made)
    assert paths.headline == report["verdict"]["text"]
    page = paths.html.read_text(encoding="utf-8").replace("\u00a0", " ")
    assert f"<h1>{paths.headline}</h1>" in page
    assert (paths.html, paths.json, paths.csv) == (
        made.study.report_html,
        made.study.report_json,
        made.study.trials_csv,
    )


def test_headline_gives_difference_interval_and_smallest_detectable(made: Fabricated) -> None:
    verdict = read_report(made)["verdict"]
    found = verdict["difference"]
    assert verdict["kind"] == "better"
    assert verdict["text"].startswith("Distillation helped: tuned scheduled scored ")
    assert "points of test accuracy higher than tuned plain (" in verdict["text"]
    for key in ("mean", "low", "high", "detectable"):
        assert f"{abs(found[key]):.2f}" in verdict["text"]
    assert "6 seeds, 449 test images" in verdict["text"]


def test_difference_is_that_of_the_finalists_test_accuracies(made: Fabricated) -> None:
    report = read_report(made)
    by_name = {one["name"]: one for one in report["finalists"]}
    a, b = by_name[report["verdict"]["a"]], by_name[report["verdict"]["b"]]
    assert (a["arm"], a["role"], b["arm"], b["role"]) == ("scheduled", "tuned", "plain", "tuned")
    expected = 100 * (np.array(a["test_values"]) - np.array(b["test_values"]))
    assert report["verdict"]["difference"]["per_seed"] == pytest.approx(expected.tolist())
    assert report["verdict"]["difference"]["mean"] == pytest.approx(100 * (a["mean"] - b["mean"]))


def test_secondary_comparisons_are_corrected_and_never_of_a_recipe_with_itself(
    made: Fabricated,
) -> None:
    comparisons = read_report(made)["comparisons"]
    assert len(comparisons) == 5
    assert all(one["p_holm"] >= one["difference"]["p"] for one in comparisons)
    assert max(one["p_holm"] / one["difference"]["p"] for one in comparisons) > 2
    assert all(one["a"] != one["b"] for one in comparisons)


def test_arms_that_distil_are_compared_with_each_other(tmp_path: Path) -> None:
    arms = ("scheduled", "constant", "plain")
    study = fabricate(tmp_path, replace(SMALL, arms=arms))
    data = collect(study.layout, study.name, study.url)
    found = [one for one in find(data).comparisons if "tuned arms that distil" in one.question]
    assert [(one.a.label, one.b.label) for one in found] == [
        ("scheduled: tuned", "constant: tuned")
    ]
    quiet = with_recipe(data, soft_kind="kl", alpha=Schedule.constant(0.0), **NO_FEATURES)
    assert not any("tuned arms that distil" in one.question for one in find(quiet).comparisons)
    unequal = fabricate(tmp_path / "b", replace(SMALL, arms=arms, fewer={"constant": 1}))
    comparisons = find(collect(unequal.layout, unequal.name, unequal.url)).comparisons
    assert not any("tuned arms that distil" in one.question for one in comparisons)


def test_the_comparison_has_no_ablation_and_every_role_once_an_arm(findings: Findings) -> None:
    standings = findings.standings
    assert len(standings) == len(findings.data.finalists) - 2 == 5
    assert {one.one.finalist.role for one in standings} == {"tuned", "default"}
    assert len(findings.comparisons) == 5


def test_gap_recovered_is_the_way_from_tuned_plain_to_the_teacher(findings: Findings) -> None:
    teacher = findings.data.teacher_test["accuracy"]
    plain = findings.standing(findings.data.tuned("plain"))
    tuned = findings.standing(findings.data.tuned("scheduled"))
    assert plain is not None
    assert tuned is not None
    assert plain.value is not None
    assert tuned.value is not None
    assert tuned.recovered == pytest.approx((tuned.value - plain.value) / (teacher - plain.value))
    assert 0 < tuned.recovered < 1
    assert plain.recovered is None
    poor = replace(findings.data, teacher_scores=np.arange(449) < 224)
    assert all(one.recovered is None for one in find(poor).standings)


def test_of_a_gap_that_may_be_chance_or_is_below_the_margin_no_share_is_given(
    findings: Findings,
) -> None:
    data = findings.data
    plain = data.tuned("plain")
    assert plain is not None
    ahead = plain.runs[0].correct.copy()
    ahead[np.flatnonzero(~ahead)[:6]] = True
    chance = replace(data, teacher_scores=ahead)
    lead = less_teacher(chance, plain)
    assert lead is not None
    assert 100 * lead.mean < -data.protocol.margin < 0 < lead.high
    for close in (
        chance,
        replace(data, protocol=replace(data.protocol, margin=20.0)),
        replace(data, teacher_scores=None),
    ):
        found = find(close)
        assert all(one.recovered is None for one in found.standings)
        assert comparison_table(found).rows[1][5] == "–"
    assert "– where that gap may be chance or is below the margin" in comparison_note(data)


def test_the_comparison_table_has_interval_and_number_of_seeds(findings: Findings) -> None:
    table = comparison_table(findings)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["seeds"] for row in rows] == ["1", "6", "6", "6", "6", "6"]
    tuned = findings.standing(findings.data.tuned("scheduled"))
    assert tuned is not None
    assert tuned.interval is not None
    low, high = (f"{100 * end:.2f}" for end in tuned.interval)
    assert rows[1]["95 % interval"] == f"{low} to {high}"
    assert rows[1]["gap recovered"].endswith(" %")
    assert rows[0]["gap recovered"] == rows[4]["gap recovered"] == "–"


def test_the_teachers_interval_is_over_images_alone(findings: Findings) -> None:
    right = round(findings.data.teacher_test["accuracy"] * 449)
    found = binomtest(right, 449).proportion_ci(0.95, "wilson")
    assert findings.teacher_interval == pytest.approx((found.low, found.high))


def test_fidelity_is_computed_from_the_logits_of_student_and_teacher(made: Fabricated) -> None:
    finalist = read_report(made)["finalists"][0]
    teacher = load_file(made.study.teacher_test.predictions)["logits"]
    runs = [made.study.confirmation(finalist["name"], one) for one in range(6)]
    students = [load_file(run.predictions)["logits"] for run in runs]
    agreement = np.mean([student.argmax(1) == teacher.argmax(1) for student in students])
    assert finalist["agreement"] == pytest.approx(float(agreement))
    p = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    q = [np.exp(student) / np.exp(student).sum(1, keepdims=True) for student in students]
    kl = np.mean([(p * np.log(p / each)).sum(1).mean() for each in q])
    assert finalist["teacher_kl"] == pytest.approx(float(kl), rel=1e-4)


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def test_every_key_of_report_json_is_documented(made: Fabricated) -> None:
    report = read_report(made)
    documented = (ROOT / "docs" / "report-schema.md").read_text(encoding="utf-8")
    report["protocol"] = {"hash": ""}
    report["ledger"]["seconds"] = {}
    for arm in report["arms"].values():
        arm["best"] = dict.fromkeys(arm["best"])
        arm["importances"] = arm["importance_intervals"] = {}
    for one in report["ablations"]:
        one["recipe"] = None
    for finalist in report["finalists"]:
        finalist["recipe"] = None
        finalist["latency"] = finalist["latency"]["256"]
    assert report["ablations"]
    assert report["classes"]["confusions"]
    names = set(keys_of(report)) - {"scheduled", "plain"}
    assert [name for name in sorted(names) if f"`{name}`" not in documented] == []
    assert report["schema"] == 1


def test_report_json_counts_trials_as_the_study_does(made: Fabricated) -> None:
    arm = read_report(made)["arms"]["scheduled"]
    assert arm["trials"] == arm["complete"] + arm["pruned"] == 20
    assert (arm["failed"], arm["diverged"]) == (1, 1)
    recipe = Recipe.from_json(arm["best"]["recipe"])
    record = RunRecord.read(made.study.trial("scheduled", arm["best"]["trial"]).result)
    assert recipe == record.recipe
    assert arm["best"]["validation_value"] == record.objective(0.0)


def test_ledger_accounts_for_every_epoch(findings: Findings) -> None:
    for arm in findings.ledger.arms:
        assert arm.planned == 20 * 12 == arm.trained + arm.saved + arm.cut
    scheduled, plain = findings.ledger.arms
    assert (scheduled.cut, scheduled.lost, scheduled.failed) == (11, 3, 1)
    assert (plain.cut, plain.lost) == (0, 0)
    assert scheduled.saved > 0


def test_cache_saves_one_pass_an_image_of_every_distilled_epoch_less_its_filling(
    findings: Findings,
) -> None:
    ledger, data = findings.ledger, findings.data
    searched = ledger.arms[0].trained + ledger.arms[0].lost
    confirmed = sum(len(one.runs) * 12 for one in data.finalists if one.distils)
    assert len(data.finalists) == len(data.contenders) + 2
    distilled = searched + confirmed + 3 * 12
    assert ledger.distilled_epochs == distilled
    assert ledger.teacher_asked == 12 * TRAIN
    assert ledger.teacher_saved == distilled * TRAIN - 12 * TRAIN


def test_a_cache_of_logits_serves_no_feature_loss(data: StudyData) -> None:
    logits = replace(data, settings=replace(data.settings, cache="logits"))
    nothing = replace(data, settings=replace(data.settings, cache="none"), cached=None)
    whole = find(data).ledger.distilled_epochs
    assert 0 < find(logits).ledger.distilled_epochs < whole
    assert find(nothing).ledger.distilled_epochs == 0
    assert find(nothing).ledger.teacher_saved == 0


def test_trials_csv_has_a_row_a_trial_and_its_columns_in_order(made: Fabricated) -> None:
    frame = pd.read_csv(made.study.trials_csv)
    columns = list(frame.columns)
    assert columns[:4] == ["arm", "number", "state", "value"]
    assert columns[-5:] == ["epochs", "diverged", "auditor", "started", "seconds"]
    assert columns[4:-5] == sorted(columns[4:-5])
    assert {"lr", "temperature_initial", "feature_kind"} < set(columns[4:-5])
    assert len(frame) == 41
    plain = frame[frame["arm"] == "plain"]
    assert plain["temperature_initial"].isna().all()
    assert list(plain["number"]) == list(range(20))


def test_trials_csv_is_the_same_in_two_runs_but_for_the_clock(
    small: Fabricated, tmp_path: Path
) -> None:
    again = fabricate(tmp_path / "elsewhere", SMALL)
    texts = []
    for study in (small, again):
        frame = trials_frame(read(study)).drop(columns=["started", "seconds"])
        texts.append(frame.to_csv(index=False))
        assert str(study.layout.root) not in texts[-1]
    assert texts[0] == texts[1]


def test_a_parameter_named_like_a_column_keeps_its_own(data: StudyData) -> None:
    trial = replace(data.arms[0].trials[0], parameters={"epochs": 99})
    frame = trials_frame(replace(data, arms=(replace(data.arms[0], trials=(trial,)),)))
    assert frame["parameter epochs"][0] == 99
    assert frame["epochs"][0] == 4


def by_key(findings: Findings, key: str) -> Figure:
    return next(item for item in drawn_figures(findings) if item.key == key)


def test_loss_shares_weigh_the_terms_as_the_loss_does() -> None:
    schedule = Schedule(shape="linear", initial=0.8, final=0.2)
    recipe = Recipe(
        soft_kind="kl",
        temperature=Schedule.constant(4.0),
        alpha=schedule,
        feature_kind="hint",
        feature_weight=0.5,
        feature_taps=("last1",),
    )
    epoch = EpochMetrics(
        objective=0.5,
        epoch=2,
        accuracy=0.9,
        nll=0.1,
        ece=0.1,
        agreement=None,
        teacher_kl=None,
        loss=0.0,
        hard_loss=1.0,
        soft_loss=2.0,
        feature_loss=3.0,
        temperature=4.0,
        alpha=0.0,
        lr=0.1,
        seconds=1.0,
    )
    alpha = schedules.value("linear", 0.8, 0.2, 1.5 / 4)
    parts = np.array([1 - alpha, 2 * alpha, 0.5 * 3])
    assert loss_shares(recipe, epoch, horizon=4) == pytest.approx(tuple(parts / parts.sum()))


def test_optimism_is_the_search_less_the_confirmation(findings: Findings) -> None:
    for one in findings.optimism:
        accuracies = [run.record.history[-1].accuracy for run in one.one.runs]
        assert one.confirmed == pytest.approx(np.mean(accuracies))
        assert one.selected == pytest.approx(np.mean(one.one.finalist.selection))
        assert one.excess == pytest.approx(one.searched - np.mean(accuracies))


def test_optimism_is_unknown_when_confirmed_at_another_horizon(data: StudyData) -> None:
    longer = find(replace(data, protocol=replace(data.protocol, confirm_epochs=9)))
    assert all(one.excess is None for one in longer.optimism)
    assert "another horizon" in by_key(longer, "optimism").note
    assert any("confirmed at 9" in caveat for caveat in longer.caveats)


def test_optimum_at_an_edge_is_named_unless_it_is_a_limit_of_the_quantity(
    data: StudyData,
) -> None:
    trial = replace(
        data.arms[0].trials[0],
        parameters={"lr": 0.299, "alpha": 1.0, "smoothing": 0.0, "decay": 1e-4, "kind": "a"},
        distributions={
            "lr": FloatDistribution(0.01, 0.3, log=True),
            "alpha": FloatDistribution(0, 1),
            "smoothing": FloatDistribution(0, 0.1),
            "decay": FloatDistribution(1e-4, 2e-3, log=True),
            "kind": CategoricalDistribution(["a", "b"]),
        },
    )
    assert edge_parameters(trial) == {"lr": (0.01, 0.3), "decay": (1e-4, 2e-3)}
    inside = replace(trial, parameters={**trial.parameters, "lr": 0.02, "decay": 5e-4})
    assert edge_parameters(inside) == {}


def test_caveats_name_what_is_known_to_be_weak(findings: Findings, data: StudyData) -> None:
    text = " ".join(findings.caveats)
    assert "The test split has 449 images" in text
    assert "With 6 seeds" in text
    assert "135 validation images" in text
    assert "1 trial of scheduled failed" in text
    assert "no better on the test split" not in text
    assert data.teacher_scores is not None
    poor = replace(data, teacher_scores=np.zeros_like(data.teacher_scores))
    assert "no better on the test split" in " ".join(find(poor).caveats)


def test_seal_opened_more_often_than_runs_explain_is_a_caveat(data: StudyData) -> None:
    assert not any("opened" in caveat for caveat in find(data).caveats)
    twice = replace(data, seal=data.seal * 2)
    assert any("was opened" in caveat for caveat in find(twice).caveats)


def test_seal_that_lacks_openings_is_a_caveat(data: StudyData) -> None:
    assert not any("is incomplete" in caveat for caveat in find(data).caveats)
    lacking = replace(data, seal=data.seal[1:])
    assert any("is incomplete" in caveat for caveat in find(lacking).caveats)


def reasons(data: StudyData) -> str:
    verdict = find(data).verdict
    assert verdict.kind == "none"
    assert verdict.text.startswith("No verdict: ")
    return "; ".join(verdict.reasons)


def test_no_verdict_without_a_tuned_plain_arm(data: StudyData) -> None:
    alone = replace(
        data,
        arms=data.arms[:1],
        finalists=tuple(one for one in data.finalists if one.distils),
    )
    assert "no plain arm" in reasons(alone)
    untuned = replace(
        data,
        finalists=tuple(
            one for one in data.finalists if one.distils or one.finalist.role == "default"
        ),
    )
    assert "no tuned plain recipe was confirmed" in reasons(untuned)
    plain = replace(
        data,
        arms=data.arms[1:],
        finalists=tuple(one for one in data.finalists if not one.distils),
    )
    assert "no arm of this study distils" in reasons(plain)


NO_FEATURES = {"feature_kind": "none", "feature_weight": 0.0, "feature_taps": ()}


def with_recipe(data: StudyData, **changes: Any) -> StudyData:
    """The study, whose tuned recipe of the arm that distils differs."""
    tuned = data.tuned("scheduled")
    assert tuned is not None
    recipe = replace(tuned.finalist.recipe, **changes)
    other = replace(tuned, finalist=replace(tuned.finalist, recipe=recipe))
    finalists = tuple(other if one is tuned else one for one in data.finalists)
    return replace(data, finalists=finalists)


def test_no_verdict_on_a_tuned_recipe_that_does_not_distil(data: StudyData) -> None:
    off = Schedule.constant(0.0)
    assert find(data).verdict.kind != "none"
    quiet = with_recipe(data, soft_kind="kl", alpha=off, **NO_FEATURES)
    assert "the tuned recipe of scheduled does not distil (alpha is 0" in reasons(quiet)
    assert "Run:" not in find(quiet).verdict.text
    untaught = with_recipe(data, soft_kind="none", alpha=off, **NO_FEATURES)
    assert "does not distil (it has no soft loss" in reasons(untaught)
    card = key_figures(find(quiet))[1]
    assert card.name == "Student of scheduled"
    assert find(quiet).standings[0].recovered is None
    hint = {"feature_kind": "hint", "feature_weight": 1.0, "feature_taps": ("last1",)}
    rising = Schedule(shape="linear", initial=0.0, final=0.5)
    for taught in ({"alpha": off, **hint}, {"soft_kind": "kl", "alpha": rising, **NO_FEATURES}):
        assert find(with_recipe(data, **taught)).verdict.kind != "none"


def test_schedules_do_not_say_of_a_recipe_at_alpha_0_that_it_distils(data: StudyData) -> None:
    arms = []
    for arm in data.arms:
        trial = data.chosen_trial(arm)
        assert trial is not None
        assert trial.record is not None
        recipe = replace(trial.record.recipe, alpha=Schedule.constant(0.0), **NO_FEATURES)
        other = replace(trial, record=replace(trial.record, recipe=recipe))
        arms.append(
            replace(arm, trials=tuple(other if one is trial else one for one in arm.trials))
        )
    found = find(replace(data, arms=tuple(arms)))
    assert by_key(found, "schedules").title.startswith("No soft targets: tuned recipe of scheduled")
    assert by_key(found, "loss").panels == ()


def test_no_verdict_on_unequal_budgets(tiny: Fabricated) -> None:
    assert "the budgets differ: 4 trials of scheduled, 3 of plain" in reasons(read(tiny))


def test_no_verdict_on_fewer_than_six_pairs(tiny: Fabricated) -> None:
    data = read(tiny)
    assert "at least 6 pairs of runs on the same seeds, and there are 5" in reasons(data)
    verdict = find(data).verdict
    assert verdict.difference is not None
    assert "In the runs so far, tuned scheduled scored " in verdict.text
    assert find(data).comparisons == ()


def test_the_headline_ends_with_the_command_that_brings_the_missing_runs(
    data: StudyData, tiny: Fabricated
) -> None:
    two = tuple(replace(one, runs=one.runs[:2]) for one in data.finalists)
    few = replace(data, finalists=two, seeds=2, root="my runs")
    expected = " Run: python study.py confirm --root 'my runs' --name small --seeds 6"
    assert find(few).verdict.text.endswith(expected)
    here = find(replace(few, root="runs", seeds=9)).verdict.text
    assert here.endswith(" Run: python study.py confirm --name small --seeds 9")
    assert "Run:" not in find(read(tiny)).verdict.text  # more seeds do not make budgets equal


def test_no_verdict_while_confirmation_is_unfinished_or_a_run_diverged(
    copied: Fabricated,
) -> None:
    finalists = Finalists.read(copied.study.finalists)
    finalists = replace(finalists, seeds=7)
    finalists.write(copied.study.finalists)
    assert "6 of 7 runs of the tuned scheduled recipe have ended" in reasons(read(copied))
    replace(finalists, seeds=6).write(copied.study.finalists)
    tuned = next(one for one in finalists.finalists if one.role == "tuned")
    run = copied.study.confirmation(tuned.name, 2)
    record = RunRecord.read(run.result)
    replace(record, outcome="diverged", test=None).write(run.result)
    assert "did not finish" in reasons(read(copied))


def test_runs_on_other_test_images_are_refused(copied: Fabricated) -> None:
    run = next(copied.study.folder.glob("confirm/plain-*/03/test.safetensors"))
    tensors = load_file(run)
    write_arrays(run, {**tensors, "labels": (tensors["labels"] + 1) % CLASSES})
    with pytest.raises(ArtifactError, match="other test images"):
        read(copied)


def test_an_interrupted_study_is_reported_as_far_as_it_came(tmp_path: Path) -> None:
    study = fabricate(tmp_path, replace(SMALL, trials=3, confirmed=False))
    shutil.rmtree(study.layout.cache)
    shutil.rmtree(study.study.folder / "trials")
    shutil.rmtree(study.study.folder / "confirm")
    paths = write_report(study.layout, study.name, study.url)
    assert "not been confirmed" in paths.headline
    report = read_report(study)
    assert report["finalists"] == []
    assert report["teacher"]["test"] is None
    assert report["arms"]["scheduled"]["trials"] == 3
    missing = " ".join(report["study"]["missing"])
    for what in ("confirmation", "costs", "the data set", "the teacher", "the teacher cache"):
        assert what in missing
    page = paths.html.read_text(encoding="utf-8")
    assert "Not available yet" in page
    assert "still sealed" in page


def test_an_arm_that_never_began_is_missing_and_nothing_else(copied: Fabricated) -> None:
    settings = StudySettings.read(copied.study.settings)
    spaces = {**settings.spaces, "constant": SpaceSource(source="constant", digest="0" * 64)}
    arms = ["constant", *settings.arms]
    replace(settings, arms=arms, spaces=spaces).write(copied.study.settings)
    data = read(copied)
    assert data.arms[0].trials == ()
    assert "every trial of the arm constant" in data.missing
    assert render_page(find(data))


def test_a_study_before_its_first_trial_has_a_report(data: StudyData) -> None:
    empty = replace(
        data,
        arms=tuple(replace(arm, trials=(), importances={}) for arm in data.arms),
        finalists=(),
        selection=(),
        seal=(),
        costs=None,
        teacher_test={},
        seeds=0,
    )
    page = render_page(find(empty))
    assert "No trial has ended yet" in page
    json.dumps(summarise(find(empty)), allow_nan=False)


def test_missing_protocol_and_missing_storage_are_named(copied: Fabricated) -> None:
    elsewhere = copied.layout.root / "other.db"
    with pytest.raises(StudyError, match=r"other\.db is missing"):
        collect(copied.layout, copied.name, f"sqlite:///{elsewhere}")
    assert not elsewhere.exists()
    copied.study.protocol.unlink()
    with pytest.raises(ArtifactError, match=r"protocol\.json is missing"):
        read(copied)


def test_a_report_that_fails_leaves_the_old_one(
    copied: Fabricated, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(copied.layout, copied.name, copied.url)
    files = (copied.study.report_html, copied.study.report_json, copied.study.trials_csv)
    before = [file.read_bytes() for file in files]
    copied.study.seal.unlink()

    def fail(findings: Findings) -> str:
        raise RuntimeError("half-way")

    monkeypatch.setattr(report_module, "render_page", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        write_report(copied.layout, copied.name, copied.url)
    assert [file.read_bytes() for file in files] == before
    assert not list(copied.study.folder.glob(".*.tmp"))
