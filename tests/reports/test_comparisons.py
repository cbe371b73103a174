"""Paired comparisons: the verdict or why there is none, the secondary ones, ablations, tuning."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.recipe import Schedule
from reports.compute.comparisons import compare_ablations, minus_teacher
from reports.compute.tuning import Tuning, compare_tuning
from reports.draw.tables import comparison_table
from reports.findings import Findings, find
from reports.read.data import FinalistData, StudyData
from reports.statistics import holm
from reports.write.markdown import escaped, markdown
from reports.write.page import key_figures
from search_spaces.space import load_space
from storage.files.layout import Layout
from storage.files.records import Finalists, RunRecord
from tests.support.study_fixture import (
    Fabricated,
    Plan,
    drawn_figures,
    fabricate,
    read_report,
    with_teacher,
)

NO_FEATURES = {"feature_kind": "none", "feature_weight": 0.0, "feature_taps": ()}
KL, NO_SOFT = ({"soft_kind": kind, "soft_parameters": {}} for kind in ("kl", "none"))
OFF = Schedule.constant(0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """Few trials, and fewer of plain; five seeds."""
    plan = Plan(name="tiny", trials=4, epochs=4, images=80, fewer={"plain": 1}, seeds=5)
    return fabricate(tmp_path_factory.mktemp("tiny"), plan).read()


def changed(data: StudyData, old: FinalistData | None, **fields: Any) -> StudyData:
    """The study, one of whose finalists has other fields."""
    new = replace(old, finalist=replace(old.finalist, **fields))
    return replace(data, finalists=tuple(new if one is old else one for one in data.finalists))


def with_recipe(data: StudyData, **changes: Any) -> StudyData:
    """The study, whose tuned recipe of the arm that distils differs."""
    tuned = data.tuned("scheduled")
    return changed(data, tuned, recipe=replace(tuned.recipe, **changes))


def first_runs(data: StudyData, count: int) -> StudyData:
    """The study with fewer runs of each finalist."""
    finalists = tuple(replace(one, runs=one.runs[:count]) for one in data.finalists)
    return replace(data, finalists=finalists)


def test_headline_gives_difference_interval_and_detectable_difference(made: Fabricated) -> None:
    verdict = read_report(made)["verdict"]
    assert verdict["kind"] == "better"
    assert verdict["text"].startswith("Distillation helped: tuned scheduled scored ")
    assert "points higher in test accuracy than tuned plain (" in verdict["text"]
    for key in ("mean", "low", "high", "detectable"):
        assert f"{abs(verdict['difference'][key]):.2f}" in verdict["text"]
    assert "6 seeds, 449 test images" in verdict["text"]


def test_difference_is_that_of_the_finalists_test_accuracies(made: Fabricated) -> None:
    report = read_report(made)
    by_name = {one["name"]: one for one in report["finalists"]}
    a, b = by_name[report["verdict"]["a"]], by_name[report["verdict"]["b"]]
    assert (a["arm"], a["role"], b["arm"], b["role"]) == ("scheduled", "tuned", "plain", "tuned")
    expected = 100 * (np.array(a["test_values"]) - np.array(b["test_values"]))
    assert report["verdict"]["difference"]["per_seed"] == pytest.approx(expected.tolist())
    assert report["verdict"]["difference"]["mean"] == pytest.approx(100 * (a["mean"] - b["mean"]))


def alone(data: StudyData, arm: str, role: str = "") -> StudyData:
    """The study with the arms and finalists of one arm, or of all arms but one role of plain."""
    if role:
        kept = [one for one in data.finalists if (one.arm, one.role) != (arm, role)]
        return replace(data, finalists=tuple(kept))
    return replace(
        data,
        arms=tuple(one for one in data.arms if one.name == arm),
        finalists=tuple(one for one in data.finalists if one.arm == arm),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: alone(data, "scheduled"), "no plain arm"),
        (lambda data: alone(data, "plain"), "no arm of this study distils"),
        (lambda data: alone(data, "plain", "tuned"), "no tuned plain recipe was confirmed"),
        (
            lambda data: with_recipe(data, **KL, alpha=OFF, **NO_FEATURES),
            "the tuned recipe of scheduled does not distil (alpha is 0",
        ),
        (
            lambda data: with_recipe(data, **NO_SOFT, alpha=OFF, **NO_FEATURES),
            "does not distil (it has no soft loss",
        ),
        (
            lambda data: with_recipe(data, student="resnet14"),
            "the tuned recipes train different students",
        ),
        (lambda data: replace(data, finalists=()), "not been confirmed"),
    ],
)
def test_no_verdict_and_no_command_where_more_runs_would_not_help(
    data: StudyData, change: Any, reason: str
) -> None:
    assert find(data).verdict.kind != "none"
    verdict = find(change(data)).verdict
    assert verdict.kind == "none"
    assert verdict.text.startswith("No verdict: ")
    assert reason in "; ".join(verdict.reasons)
    assert "Run:" not in verdict.text


def test_a_recipe_that_distils_by_either_term_has_a_verdict(data: StudyData) -> None:
    hint = {"feature_kind": "hint", "feature_weight": 1.0, "feature_taps": ("last1",)}
    rising = Schedule(shape="linear", initial=0.0, final=0.5)
    for taught in ({"alpha": OFF, **hint}, {**KL, "alpha": rising, **NO_FEATURES}):
        assert find(with_recipe(data, **taught)).verdict.kind != "none"
    untaught = find(with_recipe(data, **NO_SOFT, alpha=OFF, **NO_FEATURES))
    assert key_figures(untaught)[1].name == "Student of scheduled"
    assert untaught.standings[0].recovered is None


def test_no_verdict_on_unequal_budgets_or_fewer_than_six_pairs(tiny: StudyData) -> None:
    findings = find(tiny)
    reasons = "; ".join(findings.verdict.reasons)
    assert "the budgets differ: 4 trials of scheduled, 3 of plain" in reasons
    assert "at least 6 pairs of runs on the same seeds, and there are 5" in reasons
    assert findings.verdict.difference is not None
    assert "In the runs so far, tuned scheduled scored " in findings.verdict.text
    assert "Run:" not in findings.verdict.text  # more seeds do not make budgets equal
    assert findings.comparisons == ()


def test_the_headline_ends_with_the_command_that_brings_the_missing_runs(data: StudyData) -> None:
    few = replace(first_runs(data, 2), seeds=2, root="my runs")
    expected = " Run: python study.py confirm --root 'my runs' --name small --seeds 6"
    assert find(few).verdict.text.endswith(expected)
    here = find(replace(few, root="runs", seeds=9)).verdict.text
    assert here.endswith(" Run: python study.py confirm --name small --seeds 9")


def test_no_verdict_while_confirmation_is_unfinished_or_a_run_diverged(copied: Fabricated) -> None:
    finalists = Finalists.read(copied.study.finalists)
    replace(finalists, seeds=7).write(copied.study.finalists)
    reasons = find(copied.read()).verdict.reasons
    assert any("6 of 7 runs of the tuned scheduled recipe have ended" in one for one in reasons)
    finalists.write(copied.study.finalists)
    tuned = next(one for one in finalists.finalists if one.role == "tuned")
    run = copied.study.confirmation(tuned.name, 2)
    replace(RunRecord.read(run.result), outcome="diverged", test=None).write(run.result)
    assert any("did not finish" in one for one in find(copied.read()).verdict.reasons)


def test_secondary_comparisons_are_corrected_and_never_of_a_recipe_with_itself(
    findings: Findings,
) -> None:
    comparisons = findings.comparisons
    assert len(comparisons) == 5
    assert [one.p_holm for one in comparisons] == holm([one.difference.p for one in comparisons])
    assert all(one.a.key != one.b.key for one in comparisons)
    assert {one.finalist.role for one in findings.standings} == {"tuned", "default"}
    assert len(findings.standings) == 5


def test_arms_that_distil_are_compared_with_each_other_on_equal_budgets(tmp_path: Path) -> None:
    arms = ("scheduled", "constant", "plain")
    plan = Plan(name="three", trials=12, epochs=4, images=80, arms=arms)

    def pairs(data: StudyData) -> list[tuple[str, str]]:
        return [
            (one.a.label, one.b.label)
            for one in find(data).comparisons
            if "tuned arms that distil" in one.question
        ]

    data = fabricate(tmp_path, plan).read()
    assert pairs(data) == [("tuned scheduled", "tuned constant")]
    assert pairs(with_recipe(data, **KL, alpha=OFF, **NO_FEATURES)) == []
    scheduled, constant, plain = data.arms
    fewer = replace(constant, trials=constant.trials[:-1])
    assert pairs(replace(data, arms=(scheduled, fewer, plain))) == []


def test_gap_recovered_is_the_way_from_tuned_plain_to_the_teacher(findings: Findings) -> None:
    data = findings.data
    plain, tuned = (findings.standing(data.tuned(arm)) for arm in ("plain", "scheduled"))
    gap = data.teacher.test["accuracy"] - plain.value
    assert tuned.recovered == pytest.approx((tuned.value - plain.value) / gap)
    assert 0 < tuned.recovered < 1
    low, high = tuned.recovered_interval
    assert low < tuned.recovered < high
    cell = comparison_table(findings).rows[1][5]
    shown = [f"{100 * share:.0f}" for share in (tuned.recovered, low, high)]
    assert cell == "{} %, {} to {} %".format(*shown).replace("-", "−")
    unbounded = replace(tuned, recovered_interval=None)
    others = tuple(unbounded if one is tuned else one for one in findings.standings)
    cell = comparison_table(replace(findings, standings=others)).rows[1][5]
    assert cell.endswith(" %, interval unbounded")
    assert plain.recovered is None


def test_of_a_gap_that_may_be_chance_or_is_below_the_margin_no_share_is_given(
    findings: Findings,
) -> None:
    data = findings.data
    plain = data.tuned("plain")
    ahead = plain.runs[0].correct.copy()
    ahead[np.flatnonzero(~ahead)[:5]] = True
    chance = with_teacher(data, scores=ahead)
    lead = minus_teacher(chance, plain)
    assert 100 * lead.mean < -data.protocol.margin < 0 < lead.high
    for close in (
        chance,
        replace(data, protocol=replace(data.protocol, margin=20.0)),
        with_teacher(data, scores=None),
        with_teacher(data, scores=np.arange(449) < 224),  # worse than the student
    ):
        found = find(close)
        assert all(one.recovered is None for one in found.standings)
        assert comparison_table(found).rows[1][5] == "–"


def test_ablations_are_compared_with_their_winner_the_worst_first(data: StudyData) -> None:
    winner = data.tuned("scheduled")
    ablations = compare_ablations(data)
    titles = {"without feature loss", "with default optimizer"}
    assert {one.a.title for one in ablations} == titles
    for one in ablations:
        expected = np.array(one.a.values) - np.array(winner.values)
        assert one.b is winner
        assert one.difference.per_seed == pytest.approx(expected.tolist())
    means = [one.difference.mean for one in ablations]
    assert means == sorted(means)
    assert [one.p_holm for one in ablations] == holm([one.difference.p for one in ablations])


def test_nothing_but_the_ablations_sees_an_ablation(data: StudyData) -> None:
    without = replace(data, finalists=data.contenders)
    assert len(without.finalists) == len(data.finalists) - 2
    ours, theirs = find(data), find(without)
    for name in ("verdict", "comparisons", "optimism", "standings"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_the_figure_of_ablations_states_how_many_matter_or_how_to_run_them(data: StudyData) -> None:
    ablations = compare_ablations(data)
    sure = [one for one in ablations if one.p_holm is not None and one.p_holm < 0.05]
    most = max(sure or ablations, key=lambda one: abs(one.difference.mean))
    title = drawn_figures(find(data))["ablations"].title
    assert title.startswith(f"{len(sure) or 'None'} of 2 ablations make")
    assert title.endswith(f", {most.a.title}")
    assert f"{abs(100 * most.difference.mean):.2f} points" in title
    fewer = find(first_runs(data, 5))
    assert fewer.ablations == ()
    assert "do not have 6 seeds" in drawn_figures(fewer)["ablations"].note
    none = drawn_figures(find(replace(data, finalists=data.contenders)))["ablations"]
    command = f"python study.py confirm --root {data.root} --name small --ablate --seeds 6"
    assert none.note.endswith(command)


def ahead(data: StudyData, right: int) -> StudyData:
    """The study, whose first recipes are right on `right` images more than the tuned ones.

    Where those have fewer than so many wrong, they become right on all.
    """
    tables = {arm.name: [run.correct for run in data.tuned(arm.name).runs] for arm in data.arms}

    def moved(one: FinalistData) -> FinalistData:
        if one.finalist.trial != 0:
            return one
        runs = []
        for run, table in zip(one.runs, tables[one.arm], strict=True):
            places = np.flatnonzero(table == (right < 0))[: abs(right)]
            correct = table.copy()
            correct[places] = right > 0
            runs.append(replace(run, scores=correct.astype(float)))
        return replace(one, runs=tuple(runs))

    return replace(data, finalists=tuple(map(moved, data.finalists)))


def tuning(data: StudyData) -> Tuning:
    return compare_tuning(data)[0]


def test_each_arm_is_compared_with_the_recipe_of_its_trial_0(data: StudyData) -> None:
    for one, arm, title in zip(
        compare_tuning(data), ("scheduled", "plain"), ("classic", "defaults"), strict=True
    ):
        assert one.tuned is data.tuned(arm)
        assert (one.first.title, one.first.finalist.trial) == (title, 0)
        expected = np.array(one.tuned.values) - np.array(one.first.values)
        assert one.difference.per_seed == pytest.approx(expected.tolist())
    assert compare_tuning(replace(data, finalists=())) == ()
    assert compare_tuning(replace(data, finalists=data.of_role("tuned"))) == ()


def test_what_tuning_added_has_its_difference_interval_seeds_and_images(data: StudyData) -> None:
    one = tuning(ahead(data, -4))
    assert one.difference.mean == pytest.approx(0.05)
    low, high = 100 * one.difference.low, 100 * one.difference.high
    assert one.text == (
        "Tuning scheduled improved on its first recipe, “classic”, by 5.00 points in test accuracy "
        f"(95 % interval +{low:.2f} to +{high:.2f}, 6 seeds, 80 test images)."
    )


@pytest.mark.parametrize(
    ("right", "runs", "pattern"),
    [
        (4, 6, r"fell behind its first recipe, “classic”, by \d\.\d\d points in test accuracy \("),
        (-1, 6, r"made no detectable difference to its first recipe, “classic”: \+1.25 points"),
        (0, 6, r"made no detectable difference to its first recipe, “classic”: 0.00 points"),
        (-4, 5, r"added to its first recipe, “classic”: \+5.00 points .* 5 seeds, 80 test images"),
        (0, 1, r"Two seeds are needed to measure what tuning scheduled added"),
    ],
)
def test_a_loss_chance_and_too_few_seeds_are_called_so(
    data: StudyData, right: int, runs: int, pattern: str
) -> None:
    one = tuning(first_runs(ahead(data, right), runs))
    assert re.search(pattern, one.text), one.text
    assert (one.difference is None) == (runs == 1)
    assert ("too few seeds" in one.text) == (runs == 5)


def test_an_arm_whose_first_recipe_won_reports_it_in_the_note_and_the_limitations(
    data: StudyData,
) -> None:
    others = replace(data, finalists=tuple(one for one in data.finalists if one.role != "tuned"))
    [classic] = [one for one in others.finalists if one.title == "classic"]
    won = replace(classic, finalist=replace(classic.finalist, role="tuned", title="tuned"))
    same = replace(others, finalists=(won, *others.finalists))
    assert tuning(same).difference is None
    assert tuning(same).text == (
        "Tuning scheduled gained nothing: the search found nothing better than its first recipe, "
        "“classic”."
    )
    expected = "found nothing better than “classic”, one of the recipes that it began with"
    assert any(expected in caveat for caveat in find(same).caveats)


def test_page_json_and_markdown_say_what_tuning_added(
    made: Fabricated, findings: Findings, page: str
) -> None:
    texts = [one.text for one in findings.tuning]
    assert len(texts) == 2
    header = page[page.index('<header id="result">') : page.index("</header>")]
    assert " ".join(texts) in header
    assert escaped(" ".join(texts)) in markdown(findings)
    for written, one in zip(read_report(made)["tuning"], findings.tuning, strict=True):
        assert (written["text"], written["first"]) == (one.text, one.first.key)
        assert written["difference"]["mean"] == pytest.approx(100 * one.difference.mean)


def test_a_title_from_outside_is_escaped_in_markdown(data: StudyData) -> None:
    [classic] = [one for one in data.finalists if one.title == "classic"]
    text = markdown(find(changed(data, classic, title="<b>*mine*")))
    assert "its first recipe, “\\<b\\>\\*mine\\*”" in text


def test_trial_0_of_a_real_study_is_the_classic_recipe_and_is_confirmed(tiny_study: Path) -> None:
    layout = Layout(tiny_study)
    by_title = {
        one.title: one for one in Finalists.read(layout.study("digits").finalists).finalists
    }
    first = by_title["classic"]
    assert (first.arm, first.trial, first.role) == ("scheduled", 0, "default")
    recipe, wanted = first.recipe, load_space("scheduled").enqueued["classic"]
    assert (recipe.temperature.initial, recipe.temperature.final) == (5.0, 1.0)
    assert (recipe.alpha.initial, recipe.alpha.final) == (0.9, 0.3)
    assert recipe.feature_kind == wanted["feature_kind"]
