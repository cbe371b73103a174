"""What tuning added is said in one sentence for each arm, on the page, in JSON and in Markdown."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.compute.findings import find
from reports.compute.tuning import Tuning, compare_tuning
from reports.read.collect import collect
from reports.read.data import FinalistData, StudyData
from reports.write.markdown import escaped, markdown
from reports.write.report import write_report
from search_spaces.space import load_space
from storage.files.layout import Layout
from storage.files.records import Finalists
from tests.support.study_fixture import Fabricated, Plan, fabricate, read_report

PLAN = Plan(name="small", trials=12, epochs=4, images=80)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    study = fabricate(tmp_path_factory.mktemp("study"), PLAN)
    write_report(study.layout, study.name, study.url)
    return study


@pytest.fixture(scope="module")
def data(made: Fabricated) -> StudyData:
    return collect(made.layout, made.name, made.url)


def ahead(data: StudyData, right: int) -> StudyData:
    """The study, whose first recipes are right on `right` images more than the tuned ones.

    Where those have fewer than so many wrong, they become right on all.
    """
    tables = {arm.name: [run.correct for run in data.tuned(arm.name).runs] for arm in data.arms}

    def moved(one: FinalistData) -> FinalistData:
        if one.finalist.trial != 0:
            return one
        runs = []
        for run, table in zip(one.runs, tables[one.finalist.arm], strict=True):
            places = np.flatnonzero(table == (right < 0))[: abs(right)]
            correct = table.copy()
            correct[places] = right > 0
            runs.append(replace(run, scores=correct.astype(float)))
        return replace(one, runs=tuple(runs))

    return replace(data, finalists=tuple(map(moved, data.finalists)))


def cut(data: StudyData, runs: int) -> StudyData:
    """The study with fewer runs of each finalist."""
    return replace(
        data, finalists=tuple(replace(one, runs=one.runs[:runs]) for one in data.finalists)
    )


def said(data: StudyData) -> Tuning:
    return compare_tuning(data)[0]


def test_each_arm_is_compared_with_the_recipe_of_its_trial_0(data: StudyData) -> None:
    for one, arm, title in zip(
        compare_tuning(data), ("scheduled", "plain"), ("classic", "defaults"), strict=True
    ):
        assert one.tuned is data.tuned(arm)
        assert (one.first.finalist.title, one.first.finalist.trial) == (title, 0)
        expected = np.array(one.tuned.values) - np.array(one.first.values)
        assert one.difference is not None
        assert one.difference.per_seed == pytest.approx(expected.tolist())


def test_the_sentence_says_difference_interval_seeds_and_images(data: StudyData) -> None:
    one = said(ahead(data, -4))
    assert one.difference is not None
    assert one.difference.mean == pytest.approx(0.05)
    low, high = 100 * one.difference.low, 100 * one.difference.high
    assert one.text == (
        "Tuning scheduled added 5.00 points of test accuracy to “classic”, its first recipe "
        f"(95 % interval +{low:.2f} to +{high:.2f}, 6 seeds, 80 test images)."
    )


def test_a_loss_and_what_may_be_chance_are_called_so(data: StudyData) -> None:
    worse = said(ahead(data, 4)).text
    assert re.match(r"Tuning scheduled took \d\.\d\d points of test accuracy from “classic”", worse)
    chance = said(ahead(data, -1)).text
    denied = "Tuning scheduled made no detectable difference to “classic”, its first recipe: "
    assert chance.startswith(f"{denied}+1.25 points of test accuracy (95 %")
    same = said(ahead(data, 0)).text
    assert same.startswith(f"{denied}0.00 points of test accuracy (95 %")


def test_few_seeds_allow_no_conclusion_and_one_no_figure(data: StudyData) -> None:
    few = said(cut(ahead(data, -4), 5)).text
    assert few.startswith("Too few seeds to judge the gain from tuning scheduled over “classic”")
    assert ": +5.00 points of test accuracy (95 %" in few
    assert few.endswith(", 5 seeds, 80 test images).")
    single = said(cut(data, 1))
    assert single.difference is None
    assert single.text.endswith("its first recipe, is known once both ran on two seeds.")


def test_an_arm_whose_first_recipe_won_says_so(data: StudyData) -> None:
    [first] = [one for one in data.finalists if one.finalist.title == "classic"]
    winner = replace(first, finalist=replace(first.finalist, role="tuned", title="tuned"))
    others = [one for one in data.finalists if one is not data.tuned("scheduled")]
    one = said(replace(data, finalists=(winner, *others)))
    assert one.difference is None
    assert one.text == (
        "Tuning scheduled gained nothing: the search found nothing better than “classic”, its "
        "first recipe."
    )


def test_before_confirmation_and_without_a_first_recipe_nothing_is_said(data: StudyData) -> None:
    assert compare_tuning(replace(data, finalists=())) == ()
    assert compare_tuning(replace(data, finalists=data.of_role("tuned"))) == ()


def test_page_json_and_markdown_say_it(made: Fabricated, data: StudyData) -> None:
    findings = find(data)
    texts = [one.text for one in findings.tuning]
    assert len(texts) == 2
    page = made.study.report_html.read_text(encoding="utf-8").replace("\u00a0", " ")
    header = page[page.index('<header id="result">') : page.index("</header>")]
    assert " ".join(texts) in header
    assert escaped(" ".join(texts)) in markdown(findings)
    summary = read_report(made)["tuning"]
    assert [one["text"] for one in summary] == texts
    for one, found in zip(summary, findings.tuning, strict=True):
        assert (one["arm"], one["first"]) == (found.first.finalist.arm, found.first.key)
        assert one["difference"]["mean"] == pytest.approx(100 * found.difference.mean)


def test_a_title_from_outside_is_escaped(data: StudyData) -> None:
    [first] = [one for one in data.finalists if one.finalist.title == "classic"]
    hostile = replace(first, finalist=replace(first.finalist, title="<b>*mine*"))
    others = [one for one in data.finalists if one is not first]
    text = markdown(find(replace(data, finalists=(hostile, *others))))
    assert "“\\<b\\>\\*mine\\*”, its first recipe" in text


def test_trial_0_of_a_real_study_is_the_classic_recipe_and_is_confirmed(tiny_study: Path) -> None:
    study = Layout(tiny_study).study("digits")
    found = {one.title: one for one in Finalists.read(study.finalists).finalists}
    first = found["classic"]
    assert (first.arm, first.trial, first.role) == ("scheduled", 0, "default")
    recipe, wanted = first.recipe, load_space("scheduled").enqueued["classic"]
    assert (recipe.temperature.initial, recipe.temperature.final) == (5.0, 1.0)
    assert (recipe.alpha.initial, recipe.alpha.final) == (0.9, 0.3)
    assert recipe.feature_kind == wanted["feature_kind"]
    layout = Layout(tiny_study)
    told = compare_tuning(collect(layout, "digits", layout.studies_url))
    assert [one.first.key for one in told] == ["scheduled-00000", "plain-00000"]
