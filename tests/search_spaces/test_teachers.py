"""Where a study has several teachers, a recipe that distils has shares of them."""

import math
from pathlib import Path

import pytest
from optuna.trial import FixedTrial

from kd.errors import ProtocolError
from search_spaces.changes import read_changes
from search_spaces.context import StudyContext
from search_spaces.digest import seeded_trials
from search_spaces.space import load_space, with_feasible

TWO = StudyContext(teachers=("resnet20", "resnet56"))
THREE = StudyContext(
    teachers=("a.py:f", "resnet20", "resnet20#2"), students=("resnet8", "resnet14")
)
KEEPS = """
from kd.recipe import Recipe
def suggest(trial):
    share = trial.suggest_float("share", 0.2, 0.8)
    return Recipe(soft_kind="kl", teacher_shares=(share, 1 - share))
"""


@pytest.mark.parametrize("name", ["scheduled", "constant"])
@pytest.mark.parametrize("study", [TWO, THREE])
def test_a_trial_chooses_one_teacher_or_an_average(name: str, study: StudyContext) -> None:
    space, found = load_space(name, study), set()
    for trial in seeded_trials(60):
        shares, chosen = space.suggest(trial).teacher_shares, trial.params["teacher"]
        found.add(chosen)
        assert math.isclose(sum(shares), 1)
        if chosen == "average":
            first = trial.params["teacher_share"]
            rest = (1 - first) / (len(study.teachers) - 1)
            assert shares == (first, *[rest] * (len(study.teachers) - 1))
        else:
            assert "teacher_share" not in trial.params
            assert shares == tuple(float(one == chosen) for one in study.teachers)
    assert found == {"average", *study.teachers}


def test_recipes_to_try_first_learn_from_all_teachers_alike() -> None:
    space = with_feasible(load_space("scheduled", THREE), ["resnet14"])
    assert len(space.enqueued) == 2
    for parameters in space.enqueued.values():
        recipe = space.suggest(FixedTrial(dict(parameters)))
        assert recipe.teacher_shares == pytest.approx((1 / 3,) * 3)
        assert recipe.student == "resnet14"


def test_without_distillation_or_with_one_teacher_there_is_nothing_to_choose() -> None:
    plain, alone = load_space("plain", TWO), load_space("scheduled", StudyContext(teachers=("a",)))
    for space in (plain, alone):
        [trial] = seeded_trials(1)
        assert space.suggest(trial).teacher_shares == ()
        assert "teacher" not in trial.params
    assert alone.digest == load_space("scheduled").digest


def test_the_choice_and_the_share_are_parameters_like_others() -> None:
    changes = read_changes(["teacher=average"], ["teacher_share=0.4:0.6"])
    for trial in seeded_trials(20):
        shares = load_space("scheduled", TWO, changes).suggest(trial).teacher_shares
        assert 0.4 <= shares[0] <= 0.6
    only = load_space("scheduled", TWO, read_changes(["teacher=resnet56"], []))
    for parameters in only.enqueued.values():
        assert only.suggest(FixedTrial(dict(parameters))).teacher_shares == (0.0, 1.0)
    with pytest.raises(ProtocolError, match="unknown choice of --fix teacher 'resnet50'"):
        load_space("scheduled", TWO, read_changes(["teacher=resnet50"], []))


def test_a_space_of_the_user_s_own_may_have_its_own_shares(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(KEEPS)
    space = load_space(str(path), TWO)
    assert space.suggest(FixedTrial({"share": 0.3})).teacher_shares == (0.3, 0.7)
    with pytest.raises(ProtocolError, match="teacher_shares must be 3, got"):
        load_space(str(path), THREE)
    with pytest.raises(ProtocolError, match="teacher_shares must be 1, got"):
        load_space(str(path))
