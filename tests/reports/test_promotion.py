"""A study that was searched by promotion: what it spent, its runs and recipes, and the page."""

import base64
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conductor.search.arm import Arm
from conductor.search.methods import SearchMethod
from conductor.search.promotion import rungs
from kd.training.history import early_signal
from reports.caveats.search import REPEAT_AFTER
from reports.draw.drawing import Figure
from reports.draw.side_by_side import compare_studies
from reports.draw.tables import provenance_table
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.statistics import MINIMUM_PAIRS
from reports.write.page import key_figures
from reports.write.summary import summarise
from search_spaces.space import load_space
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import open_study, study_name
from tests.support.study_fixture import Fabricated, completed, drawn_figures, read_report

HORIZON = 12


@pytest.fixture(scope="module")
def data(promotion: Findings) -> StudyData:
    return promotion.data


@pytest.fixture(scope="module")
def drawn(promotion: Findings) -> dict[str, Figure]:
    return drawn_figures(promotion)


def job(number: int, value: float | None = None, **fields: object) -> TrialData:
    """A job that begins run `number`, unless `fields` say otherwise."""
    made = {"run": number, "until": HORIZON, "values": {}, **fields}
    return completed(number, value, **made)


def made_of(*trials: TrialData) -> ArmData:
    return ArmData(name="scheduled", trials=trials, importances={}, importances_note="")


def cut(data: StudyData, name: str, epochs: int) -> StudyData:
    """The study with the first trials of an arm alone, up to so many epochs."""
    arm = data.arm(name)
    assert arm is not None
    kept: list[TrialData] = []
    for trial in arm.trials:
        if sum(one.epochs for one in kept) < epochs:
            kept.append(trial)
    arms = [replace(one, trials=tuple(kept)) if one.name == name else one for one in data.arms]
    return replace(data, arms=tuple(arms))


def test_a_trial_has_its_own_epochs_and_seconds_and_its_run_is_told(data: StudyData) -> None:
    for arm in data.arms:
        continued = [trial for trial in arm.counted if trial.continues is not None]
        assert len(continued) > 5
        for trial in continued:
            before = arm.trials[trial.continues or 0]
            assert (trial.run, trial.begun) == (before.run, before.until)
            assert trial.parameters == before.parameters
            assert trial.history[: trial.begun] == before.history
            assert trial.values.items() > before.values.items()
            further = {} if trial.diverged else {trial.until: early_signal(trial.history)}
            assert trial.early == {**before.early, **further}
            own = [epoch.seconds for epoch in trial.history[trial.begun :]]
            assert (trial.epochs, trial.trained_seconds) == (len(own), pytest.approx(sum(own)))


def test_no_epoch_and_no_second_is_counted_twice(promoted: Fabricated, promotion: Findings) -> None:
    data, frame = promotion.data, pd.read_csv(promoted.study.trials_csv)
    distilled = 0
    for arm, ledger in zip(data.arms, promotion.ledger.arms, strict=True):
        runs = {trial.run: trial for trial in arm.counted}.values()  # the last trial of each
        trained, lost = sum(len(run.history) for run in runs), ledger.lost
        rows = frame[frame["arm"] == arm.name]
        assert trained + lost == rows["epochs"].sum()
        assert rows["seconds"].sum() == pytest.approx(1.1 * (trained + lost))
        assert (ledger.trained, ledger.runs) == (trained, len(runs))
        assert ledger.planned == HORIZON * len(runs) == trained + ledger.saved + ledger.cut
        assert (ledger.failed, lost) == (2, 0 + 2)  # of one epoch none, and two of three
        assert read_report(promoted)["arms"][arm.name]["epochs"] == trained
        distilled += (trained + lost) * (arm.name != "plain")
    confirmed = sum(len(one.runs) * HORIZON for one in data.finalists if one.distils)
    selected = 3 * HORIZON  # of the tuned recipe of scheduled
    assert promotion.ledger.distilled_epochs == distilled + selected + confirmed


def test_a_job_that_failed_at_once_has_trained_nothing(data: StudyData) -> None:
    trial = next(one for one in data.arms[0].counted if one.begun == 4)
    record = replace(trial.record, history=[], seconds=0.0, outcome="failed")
    values = {epoch: trial.values[epoch] for epoch in range(1, 5)}
    failed = replace(trial, state="FAIL", value=None, record=record, values=values)
    assert (failed.epochs, failed.trained_seconds) == (0, 0)


def test_a_budget_is_what_the_supervisor_took_of_it(promoted: Fabricated, data: StudyData) -> None:
    storage = open_storage(promoted.url)
    method = SearchMethod(sampler="", pruner="", lag=4, seed=7, horizon=HORIZON)
    for arm in data.arms:
        study = open_study(storage, study_name(promoted.name, arm.name), {})
        assert data.spent(arm) == Arm(load_space(arm.name), study, method).decisions.spent
        assert 0 <= data.spent(arm) - 20 * HORIZON < HORIZON
        assert any(trial.diverged for trial in arm.trials)  # which takes an epoch more
    close_storage(storage)


def test_arms_of_equal_epochs_have_equal_budgets_whatever_their_trials(data: StudyData) -> None:
    halves = job(0, 0.4, values={1: 0.4}), job(1, 0.5, run=0, begun=1, values={1: 0.4, 2: 0.5})
    whole = job(0, 0.5, values={1: 0.4, 2: 0.5})
    assert data.spent(made_of(*halves)) == data.spent(made_of(whole)) == 2
    assert not [reason for reason in find(data).verdict.reasons if "budgets" in reason]
    short = cut(data, "plain", 15 * HORIZON)
    [reason] = [reason for reason in find(short).verdict.reasons if "budgets" in reason]
    assert re.fullmatch(
        r"the budgets differ: 20[.\d]* trainings' worth of epochs of scheduled, 1[456][.\d]* of "
        "plain",
        reason,
    )


def test_budgets_differ_from_a_horizon_on(data: StudyData) -> None:
    def arm(epochs: int) -> ArmData:
        return made_of(job(0, 0.5, values=dict.fromkeys(range(1, epochs + 1), 0.5)))

    assert data.same_budget(arm(0), arm(HORIZON - 1))
    assert not data.same_budget(arm(HORIZON), arm(0))
    sampled = replace(data, settings=replace(data.settings, sampler="tpe"))
    one, two = made_of(job(0, 0.5)), made_of(job(0, 0.5), job(1, 0.5))
    assert not sampled.same_budget(one, two)


def test_a_search_that_ended_early_is_named_by_its_trainings(data: StudyData) -> None:
    assert not [one for one in find(data).caveats if "is not finished" in one]
    short = cut(data, "plain", 15 * HORIZON)
    [text] = [one for one in find(short).caveats if "is not finished" in one]
    assert re.search(r": 1[456][.\d]* of 20 trainings' worth of epochs of plain\.", text)


def test_the_page_tells_the_budget_in_trainings(promoted: Fabricated, data: StudyData) -> None:
    page = promoted.study.report_html.read_text(encoding="utf-8")
    page = page.replace("\u00a0", " ").replace("&#39;", "'")
    for arm in data.arms:
        recipes = {str(trial.record and trial.record.recipe) for trial in arm.runs}
        whole = {str(trial.record and trial.record.recipe) for trial in arm.completed}
        spent = f"{data.spent(arm) / HORIZON:.4g} trainings' worth of epochs"
        words = f"{arm.name}: {spent}: {len(recipes)} recipes begun, {len(whole)} to the end"
        assert page.count(words) >= 1, words
        assert len(whole) < len(arm.completed) < len(arm.runs) < len(arm.counted)
    assert "No verdict: the budgets" not in page
    assert "pruning audit" not in page.lower().partition("<script")[0]


def test_little_tuning_is_a_matter_of_runs_and_of_recipes_at_the_horizon(data: StudyData) -> None:
    assert REPEAT_AFTER == rungs.REPEAT_AFTER
    assert not [one for one in find(data).caveats if "Little tuning" in one]
    short = cut(data, "plain", 2 * HORIZON)
    plain = short.arms[1]
    [text] = [one for one in find(short).caveats if "Little tuning" in one]
    assert f"plain has {len(plain.runs)} runs and {len(plain.ranking)} recipe" in text
    assert "scheduled has" not in text
    assert "sampler" not in text


def test_many_diverged_runs_are_counted_as_runs(data: StudyData) -> None:
    arm = data.arms[0]
    runs = {run.number for run in arm.runs[::3]}
    lost = [replace(trial, diverged=trial.number in runs) for trial in arm.trials]
    worse = replace(data, arms=(replace(arm, trials=tuple(lost)), data.arms[1]))
    [text] = [one for one in find(worse).caveats if "diverged" in one]
    assert f"{len(runs)} of {len(arm.runs)} runs of scheduled diverged" in text


def test_a_run_is_its_last_trial_that_ended() -> None:
    paused = job(0, 0.3, state="PRUNED", until=2)
    again = job(1, 0.5, state="PRUNED", run=0, until=5, continues=0, begun=2)
    failed = job(2, state="FAIL", run=0, continues=1, begun=5)
    running = job(3, state="RUNNING", run=0, continues=1, begun=5)
    arm = made_of(paused, again, failed, running, job(4, state="RUNNING"))
    assert arm.runs == (again,)
    assert [trial.number for trial in arm.courses] == [1, 4]
    assert arm.recipes == 1


def test_a_recipe_is_ranked_by_the_mean_of_its_runs() -> None:
    lucky, good = job(0, 0.90), job(1, 0.92)
    repeats = [job(2, 0.70, repeats=0), job(3, 0.91, repeats=1)]
    lost = job(4, 0.0, repeats=1, diverged=True)
    arm = made_of(job(5, 0.915), lucky, good, *repeats, lost)
    assert [recipe.first.number for recipe in arm.ranking] == [1, 5, 0]
    assert [recipe.value for recipe in arm.ranking] == pytest.approx([0.915, 0.915, 0.8])
    better = made_of(lucky, good, *repeats)
    assert (better.best, better.best_value) == (good, pytest.approx(0.915))
    assert better.completed[0] is good


def test_the_best_recipe_is_told_by_its_mean_wherever_it_is_named(data: StudyData) -> None:
    runs = job(0, 0.9, repeats=None), job(1, 0.91), job(2, 0.94, repeats=0)
    found = find(replace(data, arms=(made_of(*runs),), finalists=()))
    best = summarise(found)["arms"]["scheduled"]["best"]
    assert (best["trial"], best["validation_value"]) == (0, pytest.approx(0.92))
    assert key_figures(found)[1].value == "92.00 %"
    history = drawn_figures(found)["history"]
    assert history.title == "Scheduled reached 92.0 % with trial 0, the mean of 2 runs"
    line = history.panels[0].plot["data"][-1]["y"]
    assert numbers(line) == pytest.approx([90, 91, 92, 92])


def test_equal_recipes_are_one_also_where_no_trial_names_the_other(data: StudyData) -> None:
    arm = data.arms[0]
    one = arm.completed[0]
    twin = replace(one, number=len(arm.trials), run=len(arm.trials), repeats=None)
    both = replace(arm, trials=(*arm.trials, twin))
    assert len(both.ranking) == len(arm.ranking)
    assert both.recipes == arm.recipes


def drawn_points(figure: Figure, key: str, name: str) -> list[float]:
    [panel] = [panel for panel in figure.panels if panel.key == key]
    traces = [trace for trace in panel.plot["data"] if trace.get("name") == name]
    return [x for trace in traces for x in numbers(trace["x"])]


def numbers(x: Any) -> list[float]:
    """Decode an array as Plotly's JSON has it."""
    if not isinstance(x, dict):
        return list(map(float, x))
    found: list[float] = np.frombuffer(base64.b64decode(x["bdata"]), x["dtype"]).tolist()
    return found


def test_the_history_draws_each_run_once_at_its_last_trial(
    data: StudyData, drawn: dict[str, Figure]
) -> None:
    figure = drawn["history"]
    for arm in data.arms:
        key = f"history-{arm.name}"
        paused = [run.number for run in arm.runs if run.state == "PRUNED"]
        assert drawn_points(figure, key, "paused") == paused
        whole = drawn_points(figure, key, "completed")
        assert sorted(whole) == sorted(run.number for run in arm.runs if run.is_whole)
        assert len({run.run for run in arm.runs}) == len(arm.runs)
        [panel] = [panel for panel in figure.panels if panel.key == key]
        line = panel.plot["data"][-1]["y"]
        assert line[-1] == pytest.approx(100 * (arm.best_value or 0))
        [table] = [one for one in figure.tables if one.rows[0][0] == arm.name]
        again = [row for row in table.rows if row[3] != "–"]
        assert len(again) == sum(trial.continues is not None for trial in arm.trials)
        assert sum(int(row[table.columns.index("epochs")]) for row in table.rows) == sum(
            trial.epochs for trial in arm.trials
        )


def test_a_run_has_one_learning_curve(data: StudyData, drawn: dict[str, Figure]) -> None:
    figure = drawn["curves"]
    runs = [run for arm in data.arms for run in arm.runs]
    paused = sum(run.state == "PRUNED" for run in runs)
    assert f"{paused} of {len(runs)} runs are paused, half of them by epoch 1 of 12" in figure.title
    assert figure.name == "Learning curves"
    for arm in data.arms:
        [panel] = [panel for panel in figure.panels if panel.key == f"curves-{arm.name}"]
        curves = [
            numbers(trace["x"]).count(0) for trace in panel.plot["data"][:2]
        ]  # each ends with a gap at 0
        assert curves == [
            sum(run.state == "PRUNED" for run in arm.runs),
            sum(run.is_whole for run in arm.runs),
        ]
        rows = [row for row in figure.tables[0].rows if row[:2] == [arm.name, "1"]]
        assert rows[0][2] == str(len(arm.runs))  # the run that failed had no epoch


def test_slices_draw_all_runs_of_a_recipe_and_rank_recipes(
    data: StudyData, drawn: dict[str, Figure]
) -> None:
    figure, arm = drawn["slices"], data.arms[0]
    points = drawn_points(figure, "slices-lr", "scheduled")
    assert len(points) == len(arm.completed) > len(arm.ranking)
    paused = sum(run.state == "PRUNED" for run in arm.runs)
    assert len(drawn_points(figure, "slices-lr", "scheduled, paused")) == paused
    [row] = [row for row in figure.tables[0].rows if row[:2] == ["scheduled", "lr"]]
    assert row[-1] == f"{100 * (arm.best_value or 0):.2f} %"


def test_the_pruner_is_audited_where_there_is_one(
    drawn: dict[str, Figure], promotion: Findings, findings: Findings
) -> None:
    assert "audit" not in drawn
    assert (promotion.audits, findings.rungs) == ((), ())
    assert "rungs" not in drawn_figures(findings)
    assert len(findings.audits) == len(promotion.rungs) == 2


def test_figures_say_how_finalists_were_chosen(
    drawn: dict[str, Figure], findings: Findings
) -> None:
    before = drawn_figures(findings)
    for key in ("schedules", "optimism"):
        assert "highest posterior mean" in drawn[key].caption
        assert "posterior" not in before[key].caption


def test_a_winner_that_the_search_paused_is_shown_as_such(data: StudyData) -> None:
    arm = data.arms[0]
    paused = next(run for run in arm.runs if run.state == "PRUNED")
    finalists = tuple(
        replace(one, finalist=replace(one.finalist, trial=paused.number, searched=None))
        if (one.arm, one.finalist.role) == (arm.name, "tuned")
        else one
        for one in data.finalists
    )
    figures = drawn_figures(find(replace(data, finalists=finalists)))
    last = paused.history[-1].epoch
    named = f"tuned recipe of {arm.name} (trial {paused.number}, paused after epoch {last})"
    for key in ("loss", "schedules"):
        assert named in figures[key].title
    assert f"in epoch {last}" in figures["loss"].title
    assert len(drawn_points(figures["optimism"], "optimism", "tuned plain")) > 0
    marks = {trace["name"]: trace for trace in figures["posterior"].panels[0].plot["data"][1:]}
    assert marks["tuned"]["customdata"] == [named]


def test_trials_csv_tells_the_job_of_each_trial(promoted: Fabricated, data: StudyData) -> None:
    frame = pd.read_csv(promoted.study.trials_csv)
    columns = ["epochs", "diverged", "auditor", "started", "seconds"]
    assert list(frame.columns[-11:]) == [
        *("run", "continues", "repeats", "begun", "until", "early_signal"),
        *columns,
    ]
    lines = promoted.study.trials_csv.read_text(encoding="utf-8").splitlines()
    trial = next(one for one in data.arms[0].trials if one.begun == 4)
    nll = trial.early[max(trial.early)]
    job = f",{trial.run},{trial.continues},,4,12,{nll!r},8,"
    assert any(line.startswith(f"scheduled,{trial.number},") and job in line for line in lines)


def test_report_json_has_the_rungs(promoted: Fabricated, promotion: Findings) -> None:
    from tests.reports.test_report import documented

    report = read_report(promoted)
    assert report["audit"] == []
    [one, other] = report["rungs"]
    assert set(one) == set(documented("rungs"))
    assert set(one["rungs"][0]) == documented("rungs")["rungs"]
    assert [one["arm"], other["arm"]] == ["scheduled", "plain"]
    assert [rung["epoch"] for rung in one["rungs"]] == [1, 4, 12]
    arm = promotion.data.arms[0]
    assert one["rungs"][-1]["reached"] == len(arm.completed) == one["runs_at_horizon"]
    best = report["arms"]["scheduled"]["best"]
    assert (best["trial"], best["validation_value"]) == (
        arm.best and arm.best.number,
        pytest.approx(arm.best_value),
    )


def test_a_study_by_promotion_and_one_with_a_sampler_stand_side_by_side(
    promotion: Findings, findings: Findings
) -> None:
    alone = compare_studies([findings, findings]).results
    assert "budget" not in alone.columns
    assert alone.rows[0][alone.columns.index("trials")] == "scheduled 20, plain 20"
    both = compare_studies([promotion, findings])
    place = both.results.columns.index("budget")
    spent = [f"{one.name} {promotion.data.spent(one) / 12:.4g}" for one in promotion.data.arms]
    assert both.results.rows[0][place] == f"{', '.join(spent)} trainings' worth"
    assert both.results.rows[1][place] == "scheduled 20, plain 20 trials"
    assert ["sampler", "none: by promotion", "tpe"] in [list(row) for row in both.protocols.rows]


def test_provenance_names_the_search(data: StudyData, findings: Findings) -> None:
    assert ["search, lag", "by promotion, 4"] in provenance_table(data).rows
    assert ["sampler, pruner, lag", "tpe, median, 4"] in provenance_table(findings.data).rows


def test_the_study_has_a_verdict(promotion: Findings) -> None:
    assert promotion.data.seeds == MINIMUM_PAIRS
    assert promotion.verdict.kind != "none"
