"""`--fix`, `--range` and `--warm-start` change any search space, and its digest follows."""

from dataclasses import replace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FixedTrial

from kd.errors import ProtocolError
from search_spaces.changes import Changes, WarmRecipe, check_known, read_changes, written
from search_spaces.context import StudyContext
from search_spaces.digest import seeded_trials
from search_spaces.space import Space, load_space, with_feasible

OWN = """
from kd.recipe import Recipe


def suggest(trial):
    size = trial.suggest_int("size", 2, 20, step=3)
    share = trial.suggest_categorical("share", [0.5, 1, None])
    smooth = trial.suggest_categorical("smooth", [False, True])
    rate = trial.suggest_uniform("rate", 0.01, 0.1)
    return Recipe(lr=rate, label_smoothing=0.01 * size if smooth else 0.0)


ENQUEUED = {"first": {"size": 20, "share": 1, "smooth": True, "rate": 0.02}}
"""


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def changed(name: str, fix: str = "", ranges: str = "") -> Space:
    return load_space(name, changes=read_changes(fix.split(), ranges.split()))


def distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    found = {}
    for trial in seeded_trials(60):
        space.suggest(trial)
        found |= trial.distributions
    return found


def test_a_fixed_parameter_is_no_dimension_and_a_range_keeps_its_scale():
    before = load_space("scheduled")
    space = changed("scheduled", "lr=5e-1 feature_kind=none temperature=4", "alpha=0.2:0.5")
    assert space.digest != before.digest
    found = distributions(space)
    assert not {"lr", "feature_kind", "feature_weight", "temperature_shape"} & {*found}
    assert not [name for name in found if name.startswith("temperature")]
    assert found["alpha_final"] == FloatDistribution(0.2, 0.5)
    for trial in seeded_trials(20):
        recipe = space.suggest(trial)
        assert (recipe.lr, recipe.feature_kind) == (0.5, "none")  # 0.5 is outside of the range
        assert (recipe.temperature.shape, recipe.temperature.initial) == ("constant", 4)
        assert space.suggest(FixedTrial(trial.params)) == recipe  # as reproduce makes it again
    wide = changed("plain", ranges="lr=0.2:3")
    assert distributions(wide)["lr"] == FloatDistribution(0.2, 3, log=True)


def test_recipes_to_try_first_follow_and_lines_say_how():
    space = changed("scheduled", "feature_kind=attention", "temperature=2:4.5")
    classic, vanilla = space.enqueued.values()
    assert (classic["temperature_initial"], classic["temperature_final"]) == (4.5, 2)
    assert vanilla["feature_weight"] == classic["feature_weight"] == 1
    assert "feature_kind" not in classic
    assert space.notes[0] == (
        "scheduled: “classic” is tried with temperature_initial 4.5, not 5, "
        "temperature_final 2, not 1"
    )
    assert "feature_weight 1, which it lacks" in space.notes[1]
    assert load_space("scheduled").notes == ()
    shaped = changed("scheduled", "temperature=4 temperature_shape=step")
    assert "temperature_sharpness" in shaped.enqueued["classic"]


def test_kinds_of_parameters_of_a_space_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    path = str(tmp_path / "mine.py")
    space = changed(path, "smooth=true share=None", "size=3:10 rate=0.03:0.05")
    assert space.enqueued == {"first": {"size": 9, "rate": 0.03}}
    assert distributions(space)["size"].high == 9
    assert space.suggest(FixedTrial({"size": 3, "rate": 0.03})).label_smoothing == 0.03
    for fix, ranges, message in (
        ("size=2.5", "", "--fix size=2.5 takes whole numbers"),
        ("rate=x", "", "--fix rate=x takes finite numbers, got 'x'"),
        ("share=0.7", "", "unknown choice of --fix share '0.7'; "),
        ("", "share=0:1", "--range share: share has choices .* and no range"),
        ("", "size=2.5:9", "--range size=2.5:.* takes whole numbers"),
    ):
        with pytest.raises(ProtocolError, match=message):
            changed(path, fix, ranges)
    with pytest.raises(ProtocolError, match="log scale, so its ends must be above 0, got 0"):
        changed("plain", "", "lr=0:1")


@pytest.mark.parametrize(
    ("fix", "ranges", "message"),
    [
        ("lr", "", "--fix takes a parameter and its value, as in lr=0.05, got 'lr'"),
        ("", "lr=3", "--range takes two ends, as in temperature=2:6, got 'lr=3'"),
        ("", "lr=3:2", "--range takes the lower end first, got 'lr=3:2'"),
        ("", "lr=a:2", "--range lr=a:2 takes finite numbers, got 'a'"),
        ("lr=1 lr=2", "", "--fix lr is given twice, got '1' and '2'; give it once"),
        ("", "lr=1:2 lr=2:3", "--range lr is given twice"),
        ("lr=1", "lr=1:2", "--fix and --range both name lr; give one of them"),
    ],
)
def test_a_flag_that_breaks_a_rule_is_refused_in_one_line(fix, ranges, message):
    with pytest.raises(ProtocolError, match=message):
        read_changes(fix.split(), ranges.split())


def test_names_and_spellings():
    known = load_space("scheduled").parameters
    check_known(read_changes(["temperature=3"], ["alpha_final=0:1"]), known, StudyContext())
    changes = read_changes(["b=5e-2", "a=x"], ["c=2.0:6"])
    assert written(changes) == (("a=x", "b=0.05"), ("c=2:6",))
    exact = read_changes(["temperature_final=1"], ["temperature=2:6"])
    assert exact.matches(known)["--range temperature=2:6"] == ["temperature_initial"]
    assert exact.fixed("temperature_final") == "1"
    assert exact.fixed("temperature_initial") is None


@pytest.mark.parametrize(
    ("flag", "study", "message"),
    [
        ("lrr=1", {}, r"unknown parameter of --fix 'lrr'; did you mean lr\?"),
        ("student=a", {"students": ("resnet8",)}, "--fix student=a: resnet8 is the only one; omit"),
        ("teacher=a", {"teachers": ("resnet20",)}, "--fix teacher=a: resnet20 is the only one; om"),
        (
            "soft_kind=kl",
            {"loss": "mine.py:f@0a1b2c3d4e5f"},
            "kl: --loss mine.py:f gives every rec",
        ),
    ],
)
def test_a_flag_for_what_is_no_parameter_is_refused(flag, study, message):
    context = StudyContext(**study)
    with pytest.raises(ProtocolError, match=message):
        check_known(read_changes([flag], []), load_space("scheduled", context).parameters, context)


@pytest.mark.parametrize(
    ("fix", "ranges", "message"),
    [
        ("alpha=2", "", "--fix alpha=2: the search space scheduled: .* alpha must lie in 0-1, got"),
        ("", "lr=1:1000", "--range lr=1:1000: .* a random trial: lr must lie in "),
        (
            "",
            "lr=0.01:10.001",
            "--range lr=0.01:10.001: .* the ends of its ranges: lr must lie in ",
        ),
        ("", "label_smoothing=0:1", "label_smoothing must lie in 0-1 .1 excluded., got 1.0"),
        ("lr=0.1", "alpha=0:1.0001", "--fix lr=0.1, --range alpha=0:1.0001: .*alpha must lie in"),
    ],
)
def test_a_change_outside_of_what_a_recipe_takes_is_refused_with_the_flag(fix, ranges, message):
    """Also where only an end of the range does, which random trials would hardly meet."""
    with pytest.raises(ProtocolError, match=message) as refused:
        changed("scheduled", fix, ranges)
    assert "\n" not in str(refused.value)


def test_the_ends_of_a_space_of_ones_own_are_tried_too(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.replace("0.01, 0.1", "0, 0.1"))
    with pytest.raises(ProtocolError, match=r"ends of its ranges: lr must lie in \(0, 10\], got 0"):
        load_space(str(tmp_path / "mine.py"))


SEVERAL = StudyContext(students=("resnet14", "resnet8"))


def test_changes_leave_the_choice_of_a_feasible_student():
    """The first student may be over a limit, which is known only later."""
    flags = read_changes([], ["lr=0.01:0.05"])
    warm = WarmRecipe(title="tuned x", parameters={"lr": 0.02, "student": "vgg"}, fix={})
    space = load_space("plain", SEVERAL, replace(flags, warm={"plain": warm}))
    found = with_feasible(space, ["resnet8"]).enqueued
    assert [one["student"] for one in found.values()] == ["resnet8", "resnet8"]
    assert space.notes == (
        "plain: “defaults” is tried with lr 0.05, not 0.1",
        "plain: “tuned x” is tried with weight_decay 0.0005, which it lacks, label_smoothing 0, "
        "which it lacks, another student than vgg",
    )


def test_another_studys_recipe_is_tried_with_a_student_within_the_limits():
    there = {**load_space("plain").enqueued["defaults"], "lr": 0.02}
    warm = WarmRecipe(title="tuned x", parameters={**there, "student": "resnet14"}, fix={})
    space = load_space("plain", SEVERAL, Changes(warm={"plain": warm}))
    assert with_feasible(space, SEVERAL.students).enqueued["tuned x"]["student"] == "resnet14"
    limited = with_feasible(space, ["resnet8"])
    assert limited.enqueued["tuned x"] == {**there, "student": "resnet8"}
    assert limited.notes == ("plain: “tuned x” is tried with another student than resnet14",)


def test_a_fixed_student_over_the_limits_is_refused():
    space = load_space("plain", SEVERAL, read_changes(["student=resnet14"], []))
    assert space.suggest(next(seeded_trials(1))).student == "resnet14"
    with pytest.raises(ProtocolError, match="--fix student=resnet14: it exceeds the limits"):
        with_feasible(space, ["resnet8"])


def test_another_studys_recipe_is_tried_after_the_spaces_own():
    there = {"lr": 0.9, "weight_decay": 1e-3, "gone": 3, "feature_kind": "unheard"}
    warm = WarmRecipe(title="tuned x", parameters=there, fix={"label_smoothing": "0.05"})
    space = load_space("plain", changes=Changes(warm={"plain": warm}))
    assert list(space.enqueued) == ["defaults", "tuned x"]
    assert space.enqueued["tuned x"] == {"lr": 0.5, "weight_decay": 1e-3, "label_smoothing": 0.05}
    assert space.notes == (
        "plain: “tuned x” is tried with lr 0.5, not 0.9",
        "plain: “tuned x” is tried without its gone, feature_kind",
    )
    digest = load_space("plain").digest
    assert space.digest != digest
    by_digest = load_space("plain", changes=Changes(warm={digest: warm}))
    assert by_digest.enqueued == space.enqueued
    same = WarmRecipe(title="same", parameters=load_space("plain").enqueued["defaults"], fix={})
    assert list(load_space("plain", changes=Changes(warm={"plain": same})).enqueued) == ["defaults"]
