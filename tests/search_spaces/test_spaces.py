"""Search spaces: the built-in ones hold to the method, and a user's own fails in one line."""

import math
from pathlib import Path

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import FixedTrial

import kd.losses.features
import kd.losses.logits
import search_spaces
from kd.errors import ProtocolError
from kd.names import FEATURE_LOSSES
from kd.optimizers import Range, sgd
from kd.recipe import SHAPES, Recipe, Schedule
from search_spaces import SPACES
from search_spaces.context import StudyContext
from search_spaces.digest import seeded_trials, space_digest
from search_spaces.space import Space, for_study, load_space, with_feasible
from tests.support.processes import python

TEMPERATURE = FloatDistribution(1, 10, log=True)
SHARE = FloatDistribution(0, 1)
COMMON = {
    "lr": FloatDistribution(0.01, 0.5, log=True),
    "weight_decay": FloatDistribution(1e-5, 5e-3, log=True),
    "label_smoothing": FloatDistribution(0, 0.1),
}
FEATURE = {
    "feature_kind": CategoricalDistribution(("none", "hint", "cosine", "attention", "similarity")),
    "feature_weight": FloatDistribution(1e-3, 10, log=True),
    "feature_taps": CategoricalDistribution(("last1", "last1+last2", "last1+last2+last3")),
}
SCHEDULES = {
    f"{name}_{part}": distribution
    for name, ends in (("temperature", TEMPERATURE), ("alpha", SHARE))
    for part, distribution in (
        ("shape", CategoricalDistribution(SHAPES)),
        ("initial", ends),
        ("final", ends),
        ("sharpness", SHARE),
    )
}
SOFT = {"soft_kind": CategoricalDistribution(("kl", "zscore", "dkd", "dist"))}
METHOD: dict[str, dict[str, BaseDistribution]] = {
    "plain": COMMON,
    "constant": {"temperature": TEMPERATURE, "alpha": SHARE, **SOFT, **FEATURE, **COMMON},
    "scheduled": {**SCHEDULES, **SOFT, **FEATURE, **COMMON},
}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def drawn(space: Space, count: int, seed: int = 0) -> list[tuple[optuna.Trial, Recipe]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [(trial, space.suggest(trial)) for trial in (study.ask() for _ in range(count))]


def asked(name: str, count: int) -> list[tuple[optuna.Trial, Recipe]]:
    return drawn(load_space(name), count)


def test_a_file_with_suggest_is_an_arm_and_no_list_is_edited(tmp_path, monkeypatch):
    assert SPACES.names == ("constant", "plain", "scheduled")
    text = '"""Plain with a fixed rate."""\n\n'
    text += "from kd.recipe import Recipe\n\n\ndef suggest(trial):\n    return Recipe(lr=0.05)\n"
    (tmp_path / "one_rate.py").write_text(text)
    (tmp_path / "helpers.py").write_text("RATE = 0.05\n")
    monkeypatch.setattr(search_spaces, "__path__", [*search_spaces.__path__, str(tmp_path)])
    assert SPACES.names == ("constant", "one-rate", "plain", "scheduled")
    assert SPACES.describe("one-rate") == "Plain with a fixed rate"
    with pytest.raises(ProtocolError, match=r"did you mean one-rate\?"):
        SPACES.check("one-rat")
    space = load_space("one-rate")
    assert (space.name, space.suggest(FixedTrial({})).lr) == ("one-rate", 0.05)


@pytest.mark.parametrize("name", SPACES.names)
def test_parameters_and_ranges_are_those_of_the_method(name):
    found: dict[str, BaseDistribution] = {}
    for trial, _ in asked(name, 200):
        for parameter, distribution in trial.distributions.items():
            assert found.setdefault(parameter, distribution) == distribution
    assert found == METHOD[name]


@pytest.mark.parametrize("name", SPACES.names)
def test_every_recipe_is_valid_and_survives_json(name):
    for _, recipe in asked(name, 200):
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert recipe.distils == (name != "plain")
        assert (recipe.soft_kind == "none") == (name == "plain")


@pytest.mark.parametrize("name", ["scheduled", "constant"])
@pytest.mark.parametrize(
    ("study", "choices"),
    [
        (StudyContext(binary=True), {"kl", "dist"}),
        (StudyContext(mixing=True), {"kl", "zscore", "dist"}),
        (StudyContext(binary=True, mixing=True), {"kl", "dist"}),
    ],
)
def test_soft_losses_that_do_not_fit_the_labels_are_left_out(name, study, choices):
    trials = drawn(load_space(name, study), 40)
    assert {recipe.soft_kind for _, recipe in trials} == choices


OWN_LOSS = "mine.py:squared@0123456789ab"


@pytest.mark.parametrize("loss", ["dist", OWN_LOSS])
def test_the_loss_of_a_study_takes_the_place_of_the_choice(loss):
    study = StudyContext(loss=loss)
    for name in ("scheduled", "constant"):
        space = load_space(name, study)
        assert all("soft_kind" not in parameters for parameters in space.enqueued.values())
        for trial, recipe in drawn(space, 20):
            assert recipe.soft_kind == loss
            assert "soft_kind" not in trial.params
        assert space.digest != load_space(name).digest
    assert load_space("plain", study).digest == load_space("plain").digest


OF_LOSS = """
from kd.recipe import Recipe

def suggest(trial, study):
    return Recipe(soft_kind={kind})
"""


def test_a_space_of_the_user_takes_the_loss_of_the_study_and_no_other(tmp_path):
    path = write(tmp_path, OF_LOSS.format(kind='study.loss or "kl"'))
    for loss in ("", "dkd", OWN_LOSS):
        [(_, recipe)] = drawn(load_space(path, StudyContext(loss=loss)), 1)
        assert recipe.soft_kind == (loss or "kl")
    path = write(tmp_path, OF_LOSS.format(kind='"kl"'))
    with pytest.raises(ProtocolError, match=r"soft_kind 'kl', and the study the loss dkd: write "):
        load_space(path, StudyContext(loss="dkd"))
    with pytest.raises(ProtocolError, match=r"'zscore', which has no gradient with two classes"):
        load_space("constant", StudyContext(loss="zscore", binary=True))
    path = write(tmp_path, OF_LOSS.format(kind=repr(OWN_LOSS)))
    with pytest.raises(ProtocolError, match=r"soft_kind 'mine.py:.*, which the study lacks: add -"):
        load_space(path)


def test_a_final_value_and_a_sharpness_are_sampled_only_where_they_have_an_effect():
    for trial, _ in asked("scheduled", 200):
        for name in ("temperature", "alpha"):
            shape = trial.params[f"{name}_shape"]
            assert (f"{name}_final" in trial.params) == (shape != "constant")
            sharp = shape in ("polynomial", "step", "sigmoid")
            assert (f"{name}_sharpness" in trial.params) == sharp


@pytest.mark.parametrize("name", ["scheduled", "constant"])
def test_a_feature_weight_and_taps_are_sampled_only_with_a_kind(name):
    for trial, recipe in asked(name, 100):
        kind = trial.params["feature_kind"] != "none"
        assert ("feature_weight" in trial.params) == ("feature_taps" in trial.params) == kind
        assert bool(recipe.feature_weight) == bool(recipe.feature_taps) == kind


@pytest.mark.parametrize("name", ["scheduled", "constant"])
def test_distilling_arms_may_do_all_that_the_plain_arm_may(name):
    assert METHOD["plain"].items() <= METHOD[name].items()


def enqueued_recipe(name: str, title: str) -> Recipe:
    space = load_space(name)
    return space.suggest(FixedTrial(dict(space.enqueued[title])))


def test_the_recipes_tried_first_are_those_of_the_method():
    titles = {name: list(load_space(name).enqueued) for name in SPACES.names}
    assert titles == {
        "scheduled": ["classic", "vanilla KD"],
        "constant": ["vanilla KD"],
        "plain": ["defaults"],
    }
    plain = Recipe(lr=0.1, weight_decay=5e-4)
    assert enqueued_recipe("plain", "defaults") == plain
    vanilla = Recipe(soft_kind="kl", temperature=Schedule.constant(4), alpha=Schedule.constant(0.9))
    assert enqueued_recipe("scheduled", "vanilla KD") == vanilla
    assert enqueued_recipe("constant", "vanilla KD") == vanilla
    assert enqueued_recipe("scheduled", "classic") == Recipe(
        soft_kind="kl",
        temperature=Schedule(shape="linear", initial=5, final=1),
        alpha=Schedule(shape="linear", initial=0.9, final=0.3),
        feature_kind="hint",
        feature_weight=1,
        feature_taps=("last1", "last2"),
    )


@pytest.mark.parametrize("name", SPACES.names)
def test_the_recipes_tried_first_lie_in_their_space(name):
    """Optuna warns of a fixed parameter that does not, and a warning fails here."""
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for parameters in space.enqueued.values():
        study.enqueue_trial(dict(parameters))
        trial = study.ask()
        space.suggest(trial)
        assert trial.params == parameters


GOOD = """
from kd.recipe import Recipe

def suggest(trial):
    return Recipe(lr=trial.suggest_float("lr", 0.01, 0.2))
"""
ENQUEUED = 'ENQUEUED = {"gentle": {"lr": 0.05}}\n'


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_of_the_user_is_a_space_named_by_the_file(tmp_path):
    space = load_space(write(tmp_path, GOOD + ENQUEUED))
    assert space.name == "mine"
    assert dict(space.enqueued) == {"gentle": {"lr": 0.05}}
    assert space.suggest(FixedTrial({"lr": 0.02})) == Recipe(lr=0.02)


def test_enqueued_recipes_may_be_left_out(tmp_path):
    assert load_space(write(tmp_path, GOOD)).enqueued == {}


def test_a_file_may_build_on_a_built_in_space(tmp_path):
    text = "from search_spaces.plain import enqueued, suggest\n"
    space, plain = load_space(write(tmp_path, text)), load_space("plain")
    assert (space.enqueued, space.digest) == (plain.enqueued, plain.digest)


OF_STUDY = """
from kd.recipe import Recipe

def suggest(trial, study):
    trial.set_user_attr("seen", [study.taps, study.students, study.optimizer])
    return Recipe(lr=trial.suggest_float("lr", study.lr.low, study.lr.high))

ENQUEUED = {"small": {"lr": 0.01}}

def enqueued(study):
    return {"default": {"lr": study.lr.default}}
"""


@pytest.mark.parametrize("arguments", ["trial, study", "trial, *, study"])
def test_a_file_of_the_user_may_depend_on_taps_students_and_optimizer(tmp_path, arguments):
    study = StudyContext(taps=("last1",), students=("resnet18",), optimizer="adamw")
    space = load_space(write(tmp_path, OF_STUDY.replace("trial, study", arguments)), study)
    assert space.enqueued == {"small": {"lr": 0.01}, "default": {"lr": 1e-3}}
    trial = FixedTrial({"lr": 0.01})
    assert space.suggest(trial) == Recipe(lr=0.01)
    assert trial.user_attrs["seen"] == [("last1",), ("resnet18",), "adamw"]
    assert trial.distributions == {"lr": FloatDistribution(1e-4, 1e-2)}


@pytest.mark.parametrize("name", SPACES.names)
def test_the_ranges_of_rate_and_decay_are_the_optimizers(name):
    space = load_space(name, StudyContext(optimizer="adamw"))
    for parameters in space.enqueued.values():
        assert (parameters["lr"], parameters["weight_decay"]) == (1e-3, 0.05)
    [(trial, _)] = drawn(space, 1)
    assert trial.distributions["lr"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert trial.distributions["weight_decay"] == FloatDistribution(1e-3, 0.5, log=True)


def test_ranges_hold_for_every_student_and_are_lower_for_pretrained_ones():
    of_small, of_mobile = (StudyContext(students=(name,)) for name in ("resnet8", "mobilenet_v2"))
    both = StudyContext(students=("resnet8", "mobilenet_v2"))
    for name in ("lr", "weight_decay"):
        one, other, joined = (getattr(study, name) for study in (of_small, of_mobile, both))
        assert (joined.low, joined.high) == (other.low, one.high)
        assert joined.default == one.default != other.default
    tuned = load_space("plain", StudyContext(students=("resnet18",), pretrained=True))
    assert tuned.enqueued["defaults"]["lr"] == 0.01
    [(trial, _)] = drawn(tuned, 1)
    assert trial.distributions["lr"] == FloatDistribution(0.001, 0.05, log=True)


# The digest.

COMMENTED = GOOD.replace("    return", "    # a comment\n    return")
RENAMED = """
from kd.recipe import Recipe as What

def suggest(t):
    rate = t.suggest_float("lr", 0.01, 0.2)
    return What(lr=rate)
"""


@pytest.mark.parametrize("text", [GOOD, COMMENTED, RENAMED])
def test_the_digest_stays_when_the_file_does_the_same(tmp_path, text):
    assert load_space(write(tmp_path, text)).digest == load_space(write(tmp_path, GOOD)).digest


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("0.2", "0.2000000001"),
        GOOD.replace("0.2)", "0.2, log=True)"),
        GOOD.replace('"lr"', '"rate"'),
        GOOD.replace("Recipe(l", "Recipe(weight_decay=1e-4, l"),
        GOOD.replace("Recipe(l", "Recipe(weight_decay=1e-4 if trial.number == 199 else 5e-4, l"),
        GOOD + ENQUEUED,
        GOOD + ENQUEUED.replace("gentle", "kind"),
        GOOD + ENQUEUED.replace("0.05", "0.06"),
    ],
)
def test_the_digest_changes_with_what_the_file_does(tmp_path, text):
    before = [GOOD, GOOD + ENQUEUED]
    digests = {load_space(write(tmp_path, each)).digest for each in before if each != text}
    assert load_space(write(tmp_path, text)).digest not in digests


def test_what_a_space_builds_on_is_part_of_its_digest(monkeypatch):
    first = load_space("scheduled").digest
    assert load_space("scheduled").digest == first
    monkeypatch.setattr(sgd, "WEIGHT_DECAY", Range(1e-4, 3e-3, 5e-4))
    assert load_space("scheduled").digest != first


@pytest.mark.parametrize(
    "study",
    [
        StudyContext(taps=("last1",)),
        StudyContext(optimizer="adamw"),
        StudyContext(students=("resnet8", "resnet14")),
    ],
)
def test_the_digest_covers_what_the_study_makes_of_a_space(study):
    assert load_space("constant", study).digest != load_space("constant").digest


def test_the_digest_does_not_depend_on_the_process():
    code = "from search_spaces.space import load_space; print(load_space('scheduled').digest)"
    for seed in ("1", "2"):
        assert python(code, hash_seed=seed).strip() == load_space("scheduled").digest


def test_a_digest_ignores_what_only_another_processor_rounds_otherwise():
    near = [["lr", {}, 0.1], {"lr": 0.1}]
    other = [["lr", {}, math.nextafter(0.1, 1)], {"lr": math.nextafter(0.1, 0)}]
    assert space_digest([near], {}) == space_digest([other], {})
    assert space_digest([near], {}) != space_digest([[["lr", {}, 0.1], {"lr": 0.1001}]], {})


def test_seeded_draws_lie_in_their_ranges_and_reach_their_ends():
    drawn = {name: [] for name in ("linear", "log", "step", "whole", "log whole", "choice")}
    for trial in seeded_trials(200):
        drawn["linear"].append(trial.suggest_float("linear", -1, 3))
        drawn["log"].append(trial.suggest_float("log", 1e-6, 1, log=True))
        drawn["step"].append(trial.suggest_float("step", 0, 1, step=0.25))
        drawn["whole"].append(trial.suggest_int("whole", 1, 9, step=2))
        drawn["log whole"].append(trial.suggest_int("log whole", 1, 100, log=True))
        drawn["choice"].append(trial.suggest_categorical("choice", ["a", "b"]))
    assert {*drawn["choice"]} == {"a", "b"}
    assert {*drawn["step"]} == {0, 0.25, 0.5, 0.75, 1}
    assert {*drawn["whole"]} == {1, 3, 5, 7, 9}
    assert -1 <= min(drawn["linear"]) < -0.9 < 2.9 < max(drawn["linear"]) <= 3
    assert 1e-6 <= min(drawn["log"]) < 2e-6 < 0.5 < max(drawn["log"]) <= 1
    assert 1 <= min(drawn["log whole"]) <= 2 < 80 < max(drawn["log whole"]) <= 100
    assert sum(value < 1e-3 for value in drawn["log"]) == pytest.approx(100, abs=30)


RETURNS_A_DICT = "def suggest(trial):\n    return {'lr': trial.suggest_float('lr', 0.1, 0.2)}\n"
RAISES = "def suggest(trial):\n    raise ValueError('two\\nlines')\n"
BAD_RECIPE = "from kd.recipe import Recipe\n\ndef suggest(trial):\n    return Recipe(lr=-1)\n"
BAD_ENQUEUED = GOOD + 'ENQUEUED = {"forgets": {}}\n'
OUT_OF_RANGE = GOOD + 'ENQUEUED = {"bold": {"lr": 5.0}}\n'
NO_DICT = GOOD + 'ENQUEUED = {"odd": 3}\n'
STRAY = GOOD + 'ENQUEUED = {"stray": {"lr": 0.1, "momentum": 0.9}}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def suggest(trial:\n", "mine.py does not import: SyntaxError"),
        ("import nowhere_to_be_found\n", "mine.py does not import: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "mine.py does not import: SystemExit"),
        ("suggest = 3\n", r"lacks the function suggest\(trial\) -> Recipe"),
        ("", r"lacks the function suggest\(trial\) -> Recipe"),
        (RETURNS_A_DICT, "suggest of a random trial returns {'lr': .*}, not a Recipe"),
        (
            RAISES,
            "mine.py, line 2, in suggest: suggest of a random trial raises ValueError: two lines$",
        ),
        ("def suggest(trial):\n    raise OSError\n", "suggest of a random trial raises OSError$"),
        (
            BAD_RECIPE,
            r"line 4, in suggest: suggest of a random trial: lr must lie in \(0, 10\], got -1",
        ),
        (BAD_ENQUEUED, r"ENQUEUED\['forgets'\] lacks lr$"),
        (OUT_OF_RANGE, r"suggest of ENQUEUED\['bold'\] raises .*lr"),
        (STRAY, r"suggest of ENQUEUED\['stray'\] does not use momentum"),
        (NO_DICT, "ENQUEUED must be a dict from titles to dicts of parameters"),
        (GOOD + "def enqueued(study):\n    1 / 0\n", r"enqueued\(study\): ZeroDivisionError"),
        (GOOD + "def enqueued(study):\n    return [1]\n", r"enqueued\(study\) must be a dict fr"),
        (GOOD + "ENQUEUED = [1]\n", "ENQUEUED must be a dict from titles to dicts of parameters"),
        (GOOD + "ENQUEUED = {1: {'lr': 0.1}}\n", "ENQUEUED must be .*, with texts as keys$"),
        (GOOD + "ENQUEUED = {'a': {2: 3}}\n", "ENQUEUED must be .*, with texts as keys$"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, text, message):
    with pytest.raises(ProtocolError, match=message) as caught:
        load_space(write(tmp_path, text))
    assert str(tmp_path / "mine.py") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_recipe_tried_first_out_of_its_range_is_refused_and_not_only_warned_of(tmp_path):
    with pytest.raises(ProtocolError, match="bold"):
        load_space(write(tmp_path, OUT_OF_RANGE))


@pytest.mark.parametrize("name", ["space.py", "recipe.py", "errors.py"])
def test_the_line_is_that_of_the_users_file_whatever_its_name(tmp_path, name):
    path = write(tmp_path, RAISES.replace("raise ", "raise SystemExit(3)\n    raise "), name)
    with pytest.raises(ProtocolError, match=rf"{name}, line 2, in suggest: .* SystemExit: 3$"):
        load_space(path)
    path = write(tmp_path, BAD_RECIPE, name)
    with pytest.raises(ProtocolError, match=rf"{name}, line 4, in suggest: suggest of a random tr"):
        load_space(path)
    path = write(tmp_path, "import json\n\njson.loads('{')\n", name)
    with pytest.raises(ProtocolError, match=rf"Error: .* \({name}, line 3, in <module>\)$"):
        load_space(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ProtocolError, match=r"gone\.py, which is not a file"):
        load_space(str(tmp_path / "gone.py"))
    with pytest.raises(ProtocolError, match="which is not a file"):
        load_space(str(tmp_path))


@pytest.mark.parametrize("name", SPACES.names)
def test_a_file_with_the_name_of_a_built_in_arm_is_refused(tmp_path, name):
    with pytest.raises(ProtocolError, match=rf"like a built-in arm, got {name}\.py; rename"):
        load_space(write(tmp_path, GOOD, f"{name}.py"))


@pytest.mark.parametrize("name", ["my space", "ünïcode", "2nd", "a-b", "a" * 40])
def test_a_file_whose_name_cannot_name_an_arm_is_refused(tmp_path, name):
    with pytest.raises(ProtocolError, match="file must be named with letters"):
        load_space(write(tmp_path, GOOD, f"{name}.py"))


STUDENTS = ("resnet20", "resnet8", "resnet14")
CHOOSES = """
from kd.recipe import Recipe

def suggest(trial):
    student = trial.suggest_categorical("depth", ["resnet8", "resnet14"])
    return Recipe(student=student, lr=trial.suggest_float("lr", 0.01, 0.2))

ENQUEUED = {"deep": {"depth": "resnet14", "lr": 0.1}}
"""


@pytest.mark.parametrize("name", SPACES.names)
def test_of_several_students_every_trial_chooses_one(name):
    space = load_space(name, StudyContext(students=STUDENTS))
    chosen = set()
    for trial, recipe in drawn(space, 30):
        assert recipe.student == trial.params["student"]
        assert trial.distributions["student"] == CategoricalDistribution(STUDENTS)
        chosen.add(recipe.student)
    assert chosen == set(STUDENTS)


@pytest.mark.parametrize("name", SPACES.names)
def test_recipes_to_try_first_have_the_first_feasible_student(name):
    alone = load_space(name)
    space = with_feasible(load_space(name, StudyContext(students=STUDENTS)), STUDENTS[1:])
    assert list(space.enqueued) == list(alone.enqueued)
    for title, parameters in space.enqueued.items():
        assert parameters == {**alone.enqueued[title], "student": "resnet8"}


@pytest.mark.parametrize("name", SPACES.names)
def test_one_student_is_no_parameter(name):
    alone = load_space(name)
    space = with_feasible(load_space(name, StudyContext(students=("resnet18",))), ("resnet18",))
    assert space.enqueued == alone.enqueued
    for seed in range(5):
        [(one, recipe)], [(other, same)] = (drawn(each, 1, seed) for each in (alone, space))
        assert (recipe, one.params) == (same, other.params)
        assert recipe.student == ""


def test_a_space_of_the_user_may_choose_the_student(tmp_path):
    alone = load_space(write(tmp_path, CHOOSES), StudyContext(students=STUDENTS))
    space = with_feasible(alone, STUDENTS)
    assert space.enqueued == alone.enqueued
    trial = FixedTrial({"depth": "resnet8", "lr": 0.1})
    assert space.suggest(trial).student == "resnet8"
    assert "student" not in trial.params


def test_a_student_that_is_none_of_the_protocols_is_refused(tmp_path):
    path = write(tmp_path, CHOOSES.partition("ENQUEUED")[0])
    trial = FixedTrial({"depth": "resnet14", "lr": 0.1})
    assert load_space(path, StudyContext(students=STUDENTS)).suggest(trial).student == "resnet14"
    match = r"of a random trial: it names the student 'resnet14', not resnet20, resnet8$"
    with pytest.raises(ProtocolError, match=f"mine.py, line 4, in suggest: suggest {match}"):
        load_space(path, StudyContext(students=STUDENTS[:2]))


def test_a_recipe_to_try_first_over_the_budget_is_refused(tmp_path):
    alone = load_space(write(tmp_path, CHOOSES), StudyContext(students=STUDENTS))
    match = r"^mine: ENQUEUED\['deep'\] names the student 'resnet14', not resnet20, resnet8$"
    with pytest.raises(ProtocolError, match=match):
        with_feasible(alone, STUDENTS[:2])


def test_a_parameter_of_the_user_with_the_name_of_the_students_is_refused(tmp_path):
    text = GOOD.replace("return", 'trial.suggest_int("student", 1, 3)\n    return')
    with pytest.raises(
        ProtocolError, match=r"mine\.py, line \d+, in suggest: suggest of a random t"
    ):
        load_space(write(tmp_path, text), StudyContext(students=STUDENTS))


RARE = """
from kd.recipe import Recipe

def suggest(trial):
    lr = trial.suggest_float("lr", 0.01, 0.2)
    if lr > 0.19:
        RARELY
    return Recipe(lr=lr)
"""


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        (
            "1 / 0",
            ", line 7, in suggest: suggest of a random trial raises ZeroDivisionError: division",
        ),
        (
            "return Recipe(lr=-lr)",
            r", line 7, in suggest: suggest of a random trial: lr must lie in \(0, 10\]",
        ),
        (
            "return lr",
            r", line 4, in suggest: suggest of a random trial returns 0\.19\d*, not a Recipe",
        ),
        (
            "return Recipe(rate=lr)",
            ", line 7, in suggest: .*: Recipe has no 'rate'; its fields: student, teacher_shares, ",
        ),
    ],
)
def test_a_branch_that_few_trials_take_is_tried_out_too(tmp_path, branch, message):
    with pytest.raises(ProtocolError, match=f"mine.py{message}"):
        load_space(write(tmp_path, RARE.replace("RARELY", branch)))


HINT = 'return Recipe(feature_kind="hint", feature_weight=1.0, feature_taps=("last1", "last2"))'


def test_a_space_of_the_user_that_reads_a_tap_which_the_protocol_lacks_is_refused(tmp_path):
    path = write(tmp_path, RARE.replace("RARELY", HINT))
    assert load_space(path, StudyContext(taps=("last1", "last2"))).enqueued == {}
    match = r"mine\.py, line 4, in suggest: suggest of a random trial: it reads last2, and the "
    with pytest.raises(ProtocolError, match=match):
        load_space(path, StudyContext(taps=("last1",)))


@pytest.mark.parametrize("name", SPACES.names)
def test_a_built_in_space_is_the_same_where_the_protocol_has_more_taps(name):
    more = StudyContext(taps=("last1", "last2", "last3", "last4"))
    assert load_space(name, more).digest == load_space(name).digest


@pytest.mark.parametrize("name", ["scheduled", "constant"])
@pytest.mark.parametrize(
    ("taps", "choices"),
    [
        (("last1", "last2"), ("last1", "last1+last2")),
        (("last1",), ("last1",)),
        (("last3", "last1"), ("last1",)),
    ],
)
def test_a_built_in_space_offers_the_taps_that_the_protocol_has(name, taps, choices):
    space = load_space(name, StudyContext(taps=taps))
    chosen = set()
    for trial, recipe in drawn(space, 40):
        chosen |= {*recipe.feature_taps}
        if "feature_taps" in trial.params:
            assert trial.distributions["feature_taps"] == CategoricalDistribution(choices)
    assert chosen == {*"+".join(choices).split("+")}


def test_what_is_tried_first_reads_the_widest_taps_that_the_protocol_has():
    whole = load_space("scheduled").enqueued
    assert load_space("scheduled", StudyContext(taps=("last1", "last2"))).enqueued == whole
    found = load_space("scheduled", StudyContext(taps=("last1",))).enqueued
    assert found["classic"] == {**whole["classic"], "feature_taps": "last1"}
    assert found["vanilla KD"] == whole["vanilla KD"]


def test_without_any_tap_of_a_built_in_space_only_those_that_read_none_are_left():
    study = StudyContext(taps=("last2",))
    assert load_space("plain", study).name == "plain"
    for name in ("scheduled", "constant"):
        with pytest.raises(
            ProtocolError, match=rf"^the search space {name}: .*: it reads last1, which the protoco"
        ):
            load_space(name, study)


@pytest.mark.parametrize("name", SPACES.names)
def test_where_models_have_no_taps_in_common_no_feature_loss_is_proposed(name):
    """And no parameter of one, which would have no effect."""
    space = load_space(name, StudyContext(taps=()))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        trial = study.ask()
        recipe = space.suggest(trial)
        assert recipe.feature_kind == "none"
        assert not any(parameter.startswith("feature") for parameter in trial.params)
        assert (recipe.soft_kind != "none") == (name != "plain")
    whole = load_space(name).enqueued
    assert space.enqueued == {
        title: {key: value for key, value in recipe.items() if not key.startswith("feature")}
        for title, recipe in whole.items()
    }


def test_a_space_of_the_user_that_reads_taps_is_refused_where_there_are_none(tmp_path):
    path = write(tmp_path, RARE.replace("RARELY", HINT))
    match = (
        r"mine\.py, line 4, in suggest: suggest of a random trial: it reads last1, last2, and "
        r"teacher and students have no taps in common: .*--taps layer4=blocks\.5$"
    )
    with pytest.raises(ProtocolError, match=match):
        load_space(path, StudyContext(taps=()))
    with pytest.raises(ProtocolError, match="it reads last1, and teacher and students have no "):
        StudyContext(taps=()).offered(["last1"])


OF_TAPS = """
from kd.recipe import Recipe

def suggest(trial, study):
    hint = {"feature_kind": "hint", "feature_weight": 1.0} if study.taps else {}
    return Recipe(**hint, feature_taps=study.taps)
"""


def test_a_loaded_space_is_prepared_for_other_taps_without_its_file(tmp_path):
    """As when the models turn out to have fewer; the file may have changed meanwhile."""
    path, fewer = write(tmp_path, OF_TAPS), StudyContext(taps=("last1",))
    loaded, expected = load_space(path, StudyContext()), load_space(path, fewer).digest
    (tmp_path / "mine.py").write_text("raise RuntimeError")
    found = for_study(loaded, fewer)
    assert (found.name, found.own, found.source) == (loaded.name, loaded.own, loaded.source)
    assert found.digest == expected != loaded.digest
    assert for_study(loaded, StudyContext(taps=())).suggest(FixedTrial({})) == Recipe()
    scheduled = load_space("scheduled")
    assert for_study(scheduled, fewer).digest == load_space("scheduled", fewer).digest
    assert for_study(scheduled, StudyContext()).digest == scheduled.digest


def test_a_new_loss_in_the_folder_changes_no_study(tmp_path, monkeypatch):
    before = {name: load_space(name).digest for name in SPACES.names}
    (tmp_path / "zebra.py").write_text('"""A loss."""\nADAPTED = False\n')
    for package in (kd.losses.features, kd.losses.logits):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "zebra" in FEATURE_LOSSES.names
    assert {name: load_space(name).digest for name in SPACES.names} == before
