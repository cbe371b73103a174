"""What the report of a study with several students says of them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from conductor.search.publish import describe
from kd.recipe import Recipe
from reports.draw.figures import history
from reports.draw.side_by_side import compare_studies
from reports.draw.tables import comparison_table, recipe_rows
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.write.summary import summarise

FIRST, SECOND = "resnet8-w0.25", "resnet14"


def with_students(data: StudyData, tuned: Mapping[str, str]) -> StudyData:
    """A study of two students; `tuned` has that of each arm's tuned recipe, the rest the first."""
    plain = data.costs.models["plain"]
    larger = replace(plain, model=SECOND, parameters=5 * plain.parameters)
    finalists = []
    for one in data.finalists:
        role, arm = one.finalist.role, one.finalist.arm
        student = tuned.get(arm, FIRST) if role == "tuned" else FIRST
        recipe = replace(one.finalist.recipe, student=student)
        finalists.append(replace(one, finalist=replace(one.finalist, recipe=recipe)))
    return replace(
        data,
        protocol=replace(data.protocol, students=(FIRST, SECOND)),
        costs=replace(data.costs, models={**data.costs.models, SECOND: larger}),
        finalists=tuple(finalists),
    )


@pytest.fixture(scope="module")
def several(data: StudyData) -> Findings:
    return find(with_students(data, {"scheduled": SECOND}))


def test_a_finalist_costs_what_its_own_student_costs(data: StudyData, several: Findings) -> None:
    models = data.costs.models
    for standing in several.standings:
        if standing.finalist.recipe.student == SECOND:
            assert standing.cost.model == SECOND
        else:
            assert standing.cost == models["distilled" if standing.finalist.distils else "plain"]
    assert [one.finalist.recipe.student for one in several.standings].count(SECOND) == 1


def test_the_comparison_names_students_where_there_are_several(
    data: StudyData, several: Findings
) -> None:
    names = [row[0] for row in comparison_table(several).rows[1:]]
    assert f"tuned scheduled, {SECOND}" in names
    assert f"tuned plain, {FIRST}" in names
    assert not any(FIRST in row[0] for row in comparison_table(find(data)).rows)


def test_report_json_names_the_student_of_every_finalist(
    data: StudyData, several: Findings
) -> None:
    found = {one["role"] + one["arm"]: one for one in summarise(several)["finalists"]}
    assert found["tunedscheduled"]["student"] == SECOND
    assert found["tunedplain"]["student"] == FIRST
    assert {one["student"] for one in summarise(find(data))["finalists"]} == {FIRST}


def test_between_different_students_there_is_no_verdict(data: StudyData, several: Findings) -> None:
    assert several.verdict.kind == "none"
    assert f"train different students, {SECOND} and {FIRST}" in several.verdict.text
    for one in (data, with_students(data, {"scheduled": SECOND, "plain": SECOND})):
        assert find(one).verdict.kind != "none"


def test_studies_side_by_side_have_the_parameters_of_their_own_students(
    data: StudyData, several: Findings
) -> None:
    rows = compare_studies([find(data), several]).results.rows
    assert rows[0][-1] != rows[1][-1]


def test_a_trial_over_the_budget_is_listed_and_in_no_figure_of_accuracy(data: StudyData) -> None:
    arm = data.arms[0]
    reason = "4,000 parameters, over the budget of 1,000"
    over = replace(
        arm.trials[-1], number=len(arm.trials), state="INFEASIBLE", value=None, values={},
        record=None, diverged=False, auditor=False, reason=reason,
    )  # fmt: skip
    more = replace(data, arms=(replace(arm, trials=(*arm.trials, over)), *data.arms[1:]))
    assert more.arms[0].counted == arm.counted
    was, now = (history.draw(find(one)) for one in (data, more))
    assert [len(trace["x"]) for trace in now.panels[0].plot["data"][:3]] == [
        len(trace["x"]) for trace in was.panels[0].plot["data"][:3]
    ]
    assert any(f"infeasible ({reason})" in row for row in now.tables[0].rows)
    assert find(more).ledger.arms == find(data).ledger.arms


def test_a_recipe_is_described_with_the_student_that_it_names() -> None:
    assert describe(Recipe(student=SECOND))[0] == f"student `{SECOND}`"
    assert recipe_rows(Recipe(student=SECOND))[0] == ["student", SECOND]
    assert not any("student" in line for line in describe(Recipe()))


def test_the_recipe_table_has_the_parameters_of_its_losses() -> None:
    recipe = Recipe(soft_kind="dkd", soft_parameters={"non_target_weight": 3.5})
    rows = recipe_rows(recipe)
    assert ["soft loss: target_weight", "1"] in rows
    assert ["soft loss: non_target_weight", "3.5"] in rows
    assert recipe_rows(Recipe())[0][0] == "learning rate"
