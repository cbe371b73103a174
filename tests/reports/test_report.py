"""The report of a fabricated study: what it says, and what it does with one that is unfinished."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy.stats import binomtest

from kd.errors import ArtifactError, StudyError
from kd.recipe import Recipe
from reports.draw.tables import comparison_table
from reports.findings import Findings, find
from reports.read.collect import collect
from reports.read.data import StudyData
from reports.read.teachers import TeacherData
from reports.write import report as report_module
from reports.write.page import render_page
from reports.write.report import write_report
from reports.write.summary import summarise
from reports.write.trials import trials_frame
from storage.files.arrays import write_arrays
from storage.files.records import RunRecord, SpaceSource, StudySettings
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


def test_headline_is_the_verdict_and_the_title_of_the_page(made: Fabricated, page: str) -> None:
    paths = write_report(made.layout, made.name, made.url)
    assert paths.headline == read_report(made)["verdict"]["text"]
    assert f"<h1>{paths.headline}</h1>" in page
    assert (paths.html, paths.json, paths.csv) == (
        made.study.report_html,
        made.study.report_json,
        made.study.trials_csv,
    )


def test_the_comparison_table_has_interval_and_number_of_seeds(findings: Findings) -> None:
    table = comparison_table(findings)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["seeds"] for row in rows] == ["1", "6", "6", "6", "6", "6"]
    tuned = findings.standing(findings.data.tuned("scheduled"))
    low, high = (f"{100 * end:.2f}" for end in tuned.interval)
    assert rows[1]["95 % interval"] == f"{low} to {high}"
    assert rows[1]["gap recovered"].endswith(" %")
    assert rows[0]["gap recovered"] == rows[4]["gap recovered"] == "–"


def test_the_teachers_interval_is_over_images_alone(findings: Findings) -> None:
    right = round(findings.data.teacher.test["accuracy"] * 449)
    found = binomtest(right, 449).proportion_ci(0.95, "wilson")
    assert findings.data.teacher_interval(findings.data.teacher) == pytest.approx(
        (found.low, found.high)
    )


def test_fidelity_is_computed_from_the_logits_of_student_and_teacher(made: Fabricated) -> None:
    finalist = read_report(made)["finalists"][0]
    teacher = load_file(made.study.teacher_test().predictions)["logits"]
    runs = [made.study.confirmation(finalist["name"], one) for one in range(6)]
    students = [load_file(run.predictions)["logits"] for run in runs]
    agreement = np.mean([student.argmax(1) == teacher.argmax(1) for student in students])
    assert finalist["agreement"] == pytest.approx(float(agreement))
    p = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    q = [np.exp(student) / np.exp(student).sum(1, keepdims=True) for student in students]
    kl = np.mean([(p * np.log(p / each)).sum(1).mean() for each in q])
    assert finalist["teacher_kl"] == pytest.approx(float(kl), rel=1e-4)


def documented(section: str) -> dict[str, set[str]]:
    """The keys of a section's table in the page on report.json: what each row's text names."""
    text = (ROOT / "docs" / "report-schema.md").read_text(encoding="utf-8")
    table = text.partition(f"# {section}\n")[2].partition("\n#")[0]
    rows = [row.split("|", 2) for row in table.splitlines() if row.startswith("| `")]
    return {
        key: set(re.findall(r"`(\w+)`", meaning))
        for _, keys, meaning in rows
        for key in re.findall(r"`(\w+)`", keys)
    }


def test_the_keys_of_report_json_are_those_documented(made: Fabricated) -> None:
    report = read_report(made)
    assert report["schema"] == 1
    top = documented("report.json")
    assert set(report) == set(top)
    difference = report["verdict"]["difference"]
    for section, written in {
        "verdict": report["verdict"],
        "difference": difference,
        "arms": report["arms"]["scheduled"],
        "finalists": report["finalists"][0],
        "audit": report["audit"][0],
        "classes": report["classes"],
        "ledger": report["ledger"],
    }.items():
        assert set(written) == set(documented(section)), section
    for name in ("comparisons", "tuning", "optimism", "ablations", "seal"):
        assert set(report[name][0]) == top[name], name
        different = report[name][0].get("difference", difference)
        assert set(different) == set(difference), name
    assert set(report["study"]) == top["study"]
    [teacher] = report["teachers"]
    assert set(teacher) | set(teacher["test"]) == top["teachers"]
    arm, classes = report["arms"]["scheduled"], report["classes"]
    assert set(arm["best"]) == documented("arms")["best"]
    assert set(report["finalists"][0]["latency"]["256"]) == documented("finalists")["latency"]
    assert set(classes["by_class"][0]) == documented("classes")["by_class"]
    assert set(classes["confusions"][0]) == documented("classes")["confusions"]
    arms = documented("ledger")["arms"]
    assert set(report["ledger"]["arms"][0]) == arms
    assert set(report["protocol"]) == {"hash", *made.protocol.to_json()}


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
    data: StudyData, small: Fabricated, tmp_path: Path
) -> None:
    again = fabricate(tmp_path / "elsewhere", small.plan).read()
    texts = []
    for study in (data, again):
        frame = trials_frame(study).drop(columns=["started", "seconds"])
        texts.append(frame.to_csv(index=False))
        assert study.root not in texts[-1]
    assert texts[0] == texts[1]


def test_a_parameter_named_like_a_column_keeps_its_own(data: StudyData) -> None:
    trial = replace(data.arms[0].trials[0], parameters={"epochs": 99})
    frame = trials_frame(replace(data, arms=(replace(data.arms[0], trials=(trial,)),)))
    assert frame["parameter epochs"][0] == 99
    assert frame["epochs"][0] == 4


def test_optimism_is_the_search_minus_the_confirmation_at_one_horizon(findings: Findings) -> None:
    for one in findings.optimism:
        accuracies = [run.record.history[-1].accuracy for run in one.finalist.runs]
        assert one.confirmed == pytest.approx(np.mean(accuracies))
        assert one.selected == pytest.approx(np.mean(one.finalist.finalist.selection))
        assert one.excess == pytest.approx(one.searched - np.mean(accuracies))
    protocol = replace(findings.data.protocol, confirm_epochs=9)
    longer = find(replace(findings.data, protocol=protocol))
    assert all(one.excess is None for one in longer.optimism)
    assert "another horizon" in drawn_figures(longer)["optimism"].note
    assert any("confirmed at 9" in caveat for caveat in longer.caveats)


def test_runs_on_other_test_images_are_refused(copied: Fabricated) -> None:
    run = next(copied.study.folder.glob("confirm/plain-*/03/test.safetensors"))
    tensors = load_file(run)
    write_arrays(run, {**tensors, "labels": (tensors["labels"] + 1) % CLASSES})
    with pytest.raises(ArtifactError, match="other test images"):
        copied.read()


def test_an_interrupted_study_is_reported_as_far_as_it_came(tmp_path: Path) -> None:
    study = fabricate(tmp_path, Plan(trials=3, epochs=4, images=80, confirmed=False))
    shutil.rmtree(study.layout.cache)
    shutil.rmtree(study.study.folder / "trials")
    shutil.rmtree(study.study.folder / "confirm")
    paths = write_report(study.layout, study.name, study.url)
    assert "not been confirmed" in paths.headline
    report = read_report(study)
    assert report["finalists"] == []
    assert report["teachers"][0]["test"] is None
    assert report["arms"]["scheduled"]["trials"] == 3
    missing = " ".join(report["study"]["missing"])
    for what in ("confirmation", "costs", "the data set", "the teacher", "the teacher cache"):
        assert what in missing
    page = paths.html.read_text(encoding="utf-8")
    assert "Not available yet" in page
    assert "still sealed" in page
    assert "No stage has read the test split" in page


def test_an_arm_that_never_began_is_missing_and_nothing_else(copied: Fabricated) -> None:
    settings = StudySettings.read(copied.study.settings)
    spaces = {**settings.spaces, "constant": SpaceSource(source="constant", digest="0" * 64)}
    arms = ["constant", *settings.arms]
    replace(settings, arms=arms, spaces=spaces).write(copied.study.settings)
    data = copied.read()
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
        teachers=(TeacherData(role="teacher", model="resnet14", info={}, test={}),),
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
        copied.read()


@pytest.mark.parametrize("part", ["render_page", "summarise", "trials_frame"])
def test_a_report_that_fails_leaves_the_old_one(
    copied: Fabricated, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    write_report(copied.layout, copied.name, copied.url)
    files = (copied.study.report_html, copied.study.report_json, copied.study.trials_csv)
    before = [file.read_bytes() for file in files]
    copied.study.seal.unlink()
    copied.study.trial("plain", 0).result.unlink()

    def fail(findings: Findings) -> str:
        raise RuntimeError("half-way")

    monkeypatch.setattr(report_module, part, fail)
    with pytest.raises(RuntimeError, match="half-way"):
        write_report(copied.layout, copied.name, copied.url)
    assert [file.read_bytes() for file in files] == before
    assert not list(copied.study.folder.glob(".*.tmp"))
