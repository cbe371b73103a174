"""Search spaces: the built-in ones hold to the method, and a user's own fails in one line."""

import hashlib
from pathlib import Path

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import FixedTrial

import search_spaces.plain
from kd.errors import ProtocolError
from kd.recipe import FEATURE_KINDS, SHAPES, Recipe, Schedule
from search_spaces import BUILT_IN_ARMS
from search_spaces.space import BUILT_IN, load_space, with_students, with_taps

TEMPERATURE = FloatDistribution(1, 10, log=True)
SHARE = FloatDistribution(0, 1)
COMMON = {
    "lr": FloatDistribution(0.01, 0.3, log=True),
    "weight_decay": FloatDistribution(1e-4, 2e-3, log=True),
    "label_smoothing": FloatDistribution(0, 0.1),
}
FEATURE = {
    "feature_kind": CategoricalDistribution(FEATURE_KINDS),
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
METHOD: dict[str, dict[str, BaseDistribution]] = {
    "plain": COMMON,
    "constant": {"temperature": TEMPERATURE, "alpha": SHARE, **FEATURE, **COMMON},
    "scheduled": {**SCHEDULES, **FEATURE, **COMMON},
}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def asked(name: str, count: int) -> list[tuple[optuna.Trial, Recipe]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggest = load_space(name).suggest
    return [(trial, suggest(trial)) for trial in (study.ask() for _ in range(count))]


def test_the_built_in_arms_are_the_ones_that_the_command_line_offers():
    assert tuple(BUILT_IN) == BUILT_IN_ARMS


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_parameters_and_ranges_are_those_of_the_method(name):
    found: dict[str, BaseDistribution] = {}
    for trial, _ in asked(name, 200):
        for parameter, distribution in trial.distributions.items():
            assert found.setdefault(parameter, distribution) == distribution
    assert found == METHOD[name]


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_every_recipe_is_valid_and_survives_json(name):
    for _, recipe in asked(name, 200):
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert recipe.distils == (name != "plain")
        assert recipe.soft_kind == ("none" if name == "plain" else "kl")


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
    titles = {name: list(load_space(name).enqueued) for name in BUILT_IN_ARMS}
    assert titles == {
        "scheduled": ["seed recipe", "vanilla KD"],
        "constant": ["vanilla KD"],
        "plain": ["defaults"],
    }
    plain = Recipe(lr=0.1, weight_decay=5e-4)
    assert enqueued_recipe("plain", "defaults") == plain
    vanilla = Recipe(soft_kind="kl", temperature=Schedule.constant(4), alpha=Schedule.constant(0.9))
    assert enqueued_recipe("scheduled", "vanilla KD") == vanilla
    assert enqueued_recipe("constant", "vanilla KD") == vanilla
    assert enqueued_recipe("scheduled", "seed recipe") == Recipe(
        soft_kind="kl",
        temperature=Schedule(shape="linear", initial=5, final=1),
        alpha=Schedule(shape="linear", initial=0.9, final=0.3),
        feature_kind="hint",
        feature_weight=1,
        feature_taps=("last1", "last2"),
    )


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_the_recipes_tried_first_lie_in_their_space(name):
    """Optuna warns of a fixed parameter that does not, and a warning fails here."""
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for parameters in space.enqueued.values():
        study.enqueue_trial(dict(parameters))
        trial = study.ask()
        space.suggest(trial)
        assert trial.params == parameters


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_the_digest_is_that_of_the_source(name):
    path = Path(BUILT_IN[name].__file__)
    assert load_space(name).digest == hashlib.sha256(path.read_bytes()).hexdigest()


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


def test_a_file_of_ones_own_is_a_space_named_by_the_file(tmp_path):
    space = load_space(write(tmp_path, GOOD + ENQUEUED))
    assert space.name == "mine"
    assert dict(space.enqueued) == {"gentle": {"lr": 0.05}}
    assert space.suggest(FixedTrial({"lr": 0.02})) == Recipe(lr=0.02)


def test_enqueued_recipes_may_be_left_out(tmp_path):
    assert load_space(write(tmp_path, GOOD)).enqueued == {}


def test_a_file_may_build_on_a_built_in_space(tmp_path):
    text = "from search_spaces.plain import ENQUEUED, suggest\n"
    space = load_space(write(tmp_path, text))
    assert space.enqueued == search_spaces.plain.ENQUEUED


def test_the_digest_changes_with_the_file(tmp_path):
    first = load_space(write(tmp_path, GOOD)).digest
    assert load_space(write(tmp_path, GOOD)).digest == first
    assert load_space(write(tmp_path, GOOD + ENQUEUED)).digest != first


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
        (
            BAD_RECIPE,
            r"line 4, in suggest: suggest of a random trial: lr must lie in \(0, 10\], got -1",
        ),
        (BAD_ENQUEUED, r"ENQUEUED\['forgets'\] lacks lr$"),
        (OUT_OF_RANGE, r"suggest of ENQUEUED\['bold'\] raises .*lr"),
        (STRAY, r"suggest of ENQUEUED\['stray'\] does not ask for momentum"),
        (NO_DICT, "ENQUEUED must be a dict from titles to dicts of parameters"),
        (GOOD + "ENQUEUED = [1]\n", "ENQUEUED must be a dict from titles to dicts of parameters"),
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


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_a_file_with_the_name_of_a_built_in_arm_is_refused(tmp_path, name):
    with pytest.raises(ProtocolError, match=rf"cannot be called {name}\.py: {name} is the name"):
        load_space(write(tmp_path, GOOD, f"{name}.py"))


@pytest.mark.parametrize("name", ["my space", "ünïcode", "2nd", "a-b", "a" * 40])
def test_a_file_whose_name_cannot_name_an_arm_is_refused(tmp_path, name):
    with pytest.raises(ProtocolError, match="file name becomes its arm's name"):
        load_space(write(tmp_path, GOOD, f"{name}.py"))


STUDENTS = ("resnet20", "resnet8", "resnet14")
CHOOSES = """
from kd.recipe import Recipe

def suggest(trial):
    student = trial.suggest_categorical("depth", ["resnet8", "resnet14"])
    return Recipe(student=student, lr=trial.suggest_float("lr", 0.01, 0.2))

ENQUEUED = {"deep": {"depth": "resnet14", "lr": 0.1}}
"""


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_of_several_students_every_trial_chooses_one(name):
    space = with_students(load_space(name), STUDENTS, STUDENTS)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = set()
    for _ in range(30):
        trial = study.ask()
        recipe = space.suggest(trial)
        assert recipe.student == trial.params["student"]
        assert trial.distributions["student"] == CategoricalDistribution(STUDENTS)
        chosen.add(recipe.student)
    assert chosen == set(STUDENTS)


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_recipes_to_try_first_have_the_first_feasible_student(name):
    alone = load_space(name)
    space = with_students(alone, STUDENTS, STUDENTS[1:])
    assert list(space.enqueued) == list(alone.enqueued)
    for title, parameters in space.enqueued.items():
        assert parameters == {**alone.enqueued[title], "student": "resnet8"}


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_one_student_is_no_parameter(name):
    alone = load_space(name)
    space = with_students(alone, ("resnet8",), ("resnet8",))
    assert space.enqueued == alone.enqueued
    for seed in range(5):
        found = []
        for one in (alone, space):
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
            trial = study.ask()
            found.append((one.suggest(trial), trial.params))
        assert found[0] == found[1]
        assert found[0][0].student == ""


def test_a_space_of_ones_own_may_choose_the_student(tmp_path):
    alone = load_space(write(tmp_path, CHOOSES))
    space = with_students(alone, STUDENTS, STUDENTS)
    assert space.enqueued == alone.enqueued
    trial = FixedTrial({"depth": "resnet8", "lr": 0.1})
    assert space.suggest(trial).student == "resnet8"
    assert "student" not in trial.params


def test_a_student_that_is_none_of_the_protocols_is_refused(tmp_path):
    alone = load_space(write(tmp_path, CHOOSES.partition("ENQUEUED")[0]))
    trial = FixedTrial({"depth": "resnet14", "lr": 0.1})
    assert with_students(alone, STUDENTS, STUDENTS).suggest(trial).student == "resnet14"
    match = r"of a random trial: it names the student 'resnet14', not resnet20, resnet8$"
    with pytest.raises(ProtocolError, match=f"^mine.py, line 4, in suggest: suggest {match}"):
        with_students(alone, STUDENTS[:2], STUDENTS[:2])


def test_a_recipe_to_try_first_over_the_budget_is_refused(tmp_path):
    alone = load_space(write(tmp_path, CHOOSES))
    match = r"^mine: ENQUEUED\['deep'\] names the student 'resnet14', not resnet20, resnet8$"
    with pytest.raises(ProtocolError, match=match):
        with_students(alone, STUDENTS, STUDENTS[:2])


def test_a_parameter_of_ones_own_with_the_name_of_the_students_is_refused(tmp_path):
    text = GOOD.replace("return", 'trial.suggest_int("student", 1, 3)\n    return')
    with pytest.raises(
        ProtocolError, match=r"^mine\.py, line \d+, in suggest: suggest of a random t"
    ):
        with_students(load_space(write(tmp_path, text)), STUDENTS, STUDENTS)


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
            ", line 7, in suggest: .*: Recipe has no 'rate'; its fields: student, lr, w",
        ),
    ],
)
def test_a_branch_that_few_trials_take_is_tried_out_too(tmp_path, branch, message):
    with pytest.raises(ProtocolError, match=f"mine.py{message}"):
        load_space(write(tmp_path, RARE.replace("RARELY", branch)))


HINT = 'return Recipe(feature_kind="hint", feature_weight=1.0, feature_taps=("last1", "last2"))'


def test_a_space_of_ones_own_that_reads_a_tap_which_the_protocol_lacks_is_refused(tmp_path):
    space = load_space(write(tmp_path, RARE.replace("RARELY", HINT)))
    assert with_taps(space, ("last1", "last2")).enqueued == {}
    match = r"^mine\.py, line 4, in suggest: suggest of a random trial: it reads last2, and the "
    with pytest.raises(ProtocolError, match=match):
        with_taps(space, ("last1",))


ALL_TAPS = ("last1", "last2", "last3")


@pytest.mark.parametrize("name", BUILT_IN_ARMS)
def test_a_built_in_space_is_as_it_was_where_the_protocol_has_its_taps(name):
    space = load_space(name)
    found = with_taps(space, (*ALL_TAPS, "last4"))
    assert found.enqueued == space.enqueued
    for seed in range(20):
        both = []
        for one in (space, found):
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
            trial = study.ask()
            both.append((one.suggest(trial), trial.params, trial.distributions))
        assert both[0] == both[1]


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
    space = with_taps(load_space(name), taps)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = set()
    for _ in range(40):
        trial = study.ask()
        chosen |= {*space.suggest(trial).feature_taps}
        if "feature_taps" in trial.params:
            assert trial.distributions["feature_taps"] == CategoricalDistribution(choices)
    assert chosen == {*"+".join(choices).split("+")}


def test_what_is_tried_first_reads_the_widest_taps_that_the_protocol_has():
    space = load_space("scheduled")
    assert with_taps(space, ("last1", "last2")).enqueued == space.enqueued
    found = with_taps(space, ("last1",)).enqueued
    assert found["seed recipe"] == {**space.enqueued["seed recipe"], "feature_taps": "last1"}
    assert found["vanilla KD"] == space.enqueued["vanilla KD"]


def test_without_any_tap_of_a_built_in_space_only_those_that_read_none_are_left():
    assert with_taps(load_space("plain"), ("last2",)).name == "plain"
    match = (
        r"^the search space scheduled: suggest of ENQUEUED\['seed recipe'\]: it reads last1, whi"
    )
    with pytest.raises(ProtocolError, match=match):
        with_taps(load_space("scheduled"), ("last2",))
