import contextlib
import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.errors import ProtocolError
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES
from kd.recipe import SHAPES, Recipe, Schedule
from tests.support.json_values import any_json

CLASSIC = Recipe(
    soft_kind="kl",
    temperature=Schedule(shape="linear", initial=5, final=1),
    alpha=Schedule(shape="linear", initial=0.9, final=0.3),
    feature_kind="hint",
    feature_weight=1,
    feature_taps=("last1", "last2"),
)


def scheduled(low: float, high: float) -> st.SearchStrategy[Schedule]:
    ends = st.floats(low, high)
    moving = st.builds(
        Schedule, shape=st.sampled_from(SHAPES[1:]), initial=ends, final=ends,
        sharpness=st.floats(0, 1),
    )  # fmt: skip
    return moving | st.builds(Schedule.constant, ends)


PLAIN = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-6, 10),
        "weight_decay": st.floats(0, 1),
        "label_smoothing": st.floats(0, 0.99),
        "student": st.sampled_from(["", "resnet8", "resnet14-w0.5"]),
    }
)
SOFT = st.just({}) | st.fixed_dictionaries(
    {
        "soft_kind": st.sampled_from(LOGIT_LOSSES.names),
        "temperature": scheduled(0.01, 1000),
        "alpha": scheduled(0, 1),
    }
)
TAPS = st.lists(st.sampled_from(["last1", "last2", "last3", "last12"]), min_size=1, unique=True)
FEATURE = st.just({}) | st.fixed_dictionaries(
    {
        "feature_kind": st.sampled_from(FEATURE_LOSSES.names),
        "feature_weight": st.floats(1e-6, 1000),
        "feature_taps": TAPS.map(tuple),
    }
)
RECIPES = st.tuples(PLAIN, SOFT, FEATURE).map(
    lambda parts: Recipe(**parts[0], **parts[1], **parts[2])
)

JSON = any_json("last1", "kl", "hint", "linear", 10**400, -(10**400))


def altered(**changes: Any) -> dict[str, Any]:
    return {**CLASSIC.to_json(), **changes}


@given(RECIPES)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json(), allow_nan=False))) == recipe


def test_json_of_a_recipe_has_every_field() -> None:
    assert set(CLASSIC.to_json()) == {field.name for field in dataclasses.fields(Recipe)}
    assert CLASSIC.to_json()["feature_taps"] == ["last1", "last2"]
    assert CLASSIC.to_json()["alpha"] == {
        "shape": "linear", "initial": 0.9, "final": 0.3, "sharpness": 0.5
    }  # fmt: skip


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CLASSIC.lr = 1.0  # type: ignore[misc]


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ProtocolError, match="unknown key 'learning_rate' of Recipe"):
        Recipe.from_json(altered(learning_rate=0.1))


def test_missing_keys_take_the_defaults() -> None:
    assert Recipe.from_json({}) == Recipe()
    assert Recipe.from_json({"lr": 0.2}) == Recipe(lr=0.2)


@pytest.mark.parametrize("name", ["initial", "final"])
def test_a_missing_key_of_a_schedule_is_named(name: str) -> None:
    schedule = CLASSIC.to_json()["alpha"]
    del schedule[name]
    with pytest.raises(ProtocolError, match=f"alpha: Schedule lacks '{name}'"):
        Recipe.from_json(altered(alpha=schedule))


ABSURD = [math.nan, math.inf, -math.inf, -1, 10**400, True, False, None, "0.1", [0.1], {}, [[]]]


@pytest.mark.parametrize("absurd", ABSURD, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "label_smoothing", "feature_weight"])
def test_an_absurd_number_is_refused(name: str, absurd: Any) -> None:
    with pytest.raises(ProtocolError, match=rf"{name} must .*, got "):
        Recipe.from_json(altered(**{name: absurd}))


@pytest.mark.parametrize("absurd", ABSURD, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("key", ["initial", "final", "sharpness"])
@pytest.mark.parametrize("name", ["temperature", "alpha"])
def test_an_absurd_number_in_a_schedule_is_refused(name: str, key: str, absurd: Any) -> None:
    schedule = {**CLASSIC.to_json()[name], key: absurd}
    with pytest.raises(ProtocolError, match=rf"({name}|{key}) ?.*must .*, got "):
        Recipe.from_json(altered(**{name: schedule}))


@pytest.mark.parametrize("absurd", [None, 1, True, "kl ", "KL", [], ["kl"], {"kl": 1}, math.nan])
@pytest.mark.parametrize("name", ["soft_kind", "feature_kind"])
def test_an_absurd_kind_is_refused(name: str, absurd: Any) -> None:
    with pytest.raises(
        ProtocolError,
        match=f"^({name} must be a text, got|unknown {name} .*; (did you mean|known: none, ))",
    ):
        Recipe.from_json(altered(**{name: absurd}))


@pytest.mark.parametrize("absurd", [None, 1, "quadratic", [], ["linear"], {}])
def test_an_absurd_shape_is_refused(absurd: Any) -> None:
    schedule = {**CLASSIC.to_json()["alpha"], "shape": absurd}
    with pytest.raises(
        ProtocolError,
        match=r"alpha: (shape must be a text|a shape must be one of constant, linear)",
    ):
        Recipe.from_json(altered(alpha=schedule))


@pytest.mark.parametrize(
    "taps",
    [
        None, "last1", 1, {}, [], [1], [None], [["last1"]], ["last"], ["last0"], ["last01"],
        ["first1"], ["last1 "], ["last1\n"], ["last-1"], ["last²"], ["last٣"],
        ["last1", "last2", "last1"],
    ],
    ids=repr,
)  # fmt: skip
def test_absurd_taps_are_refused(taps: Any) -> None:
    with pytest.raises(ProtocolError, match=r"feature_taps(\[0\])? must "):
        Recipe.from_json(altered(feature_taps=taps))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"lr": 0}, r"lr must lie in \(0, 10\], got 0"),
        ({"lr": 10.1}, r"lr must lie in \(0, 10\], got 10.1"),
        ({"weight_decay": 1.1}, "weight_decay must lie in 0-1, got 1.1"),
        ({"label_smoothing": 1}, "label_smoothing must lie in 0-1 .*, got 1"),
        (
            {"temperature": Schedule.constant(0)},
            r"temperature must lie in \(0, 1000\], got \(0.0, 0.0\)",
        ),
        ({"temperature": Schedule.constant(1001)}, r"temperature must lie in \(0, 1000\], got"),
        (
            {"alpha": Schedule(shape="step", initial=0, final=1.1)},
            r"alpha must lie in 0-1, got \(0",
        ),
        ({"alpha": 0.5}, "alpha: Schedule must be a JSON object, got 0.5"),
        ({"soft_kind": "none"}, "without a soft loss alpha must be 0"),
        ({"feature_kind": "none"}, "feature_weight and feature_taps need a feature_kind"),
        ({"feature_weight": 0}, r"feature_weight must lie in \(0, 1000\], got 0"),
        ({"feature_taps": ()}, r"feature_taps must name taps such as last1, got \(\)"),
        ({"feature_taps": ["last1"]}, r"feature_taps must be a tuple, got \['last1'\]"),
        (
            {"soft_kind": "dkd", "soft_parameters": {"weight": 1.0}},
            "soft_parameters of dkd: unknown key 'weight' of Parameters",
        ),
        (
            {"soft_kind": "dkd", "soft_parameters": {"target_weight": "1"}},
            "soft_parameters of dkd: target_weight must be a finite number, got '1'",
        ),
        (
            {"soft_kind": "dkd", "soft_parameters": {"target_weight": -1}},
            r"soft_parameters of dkd: the weights of dkd must lie in 0-1000, .*, got \(-1.0, 8.0\)",
        ),
        (
            {"feature_parameters": {"target_weight": 1}},
            "feature_parameters must be empty: feature_kind hint takes none, got {'target_weight'",
        ),
        ({"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
    ],
)
def test_a_broken_rule_is_named_with_the_value_received(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ProtocolError, match=rule) as raised:
        dataclasses.replace(CLASSIC, **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan, "1", True])
def test_a_schedule_without_finite_ends_is_refused(end: Any) -> None:
    with pytest.raises(ProtocolError, match="final must be a finite number, got "):
        Schedule(shape="linear", initial=1, final=end)


def test_a_constant_schedule_with_two_ends_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a constant schedule ends where it starts"):
        Schedule(shape="constant", initial=1, final=2)


@pytest.mark.parametrize("given", [None, 1, "recipe", [], [["lr", 0.1]], math.nan])
def test_what_is_no_recipe_is_refused(given: Any) -> None:
    with pytest.raises(ProtocolError, match="Recipe must be a JSON object"):
        Recipe.from_json(given)


@settings(max_examples=300)
@given(st.data())
def test_from_json_raises_nothing_but_protocol_errors(data: st.DataObject) -> None:
    given = CLASSIC.to_json()
    keys = data.draw(st.lists(st.sampled_from(sorted(given)), min_size=1, max_size=3))
    for key in keys:
        inside = key in ("temperature", "alpha") and data.draw(st.booleans())
        if inside and isinstance(given[key], dict):
            inner = data.draw(st.sampled_from(["shape", "initial", "final", "sharpness"]))
            given[key][inner] = data.draw(JSON)
        else:
            given[key] = data.draw(JSON)
    with contextlib.suppress(ProtocolError):
        recipe = Recipe.from_json(given)
        assert Recipe.from_json(recipe.to_json()) == recipe


@given(JSON.filter(lambda value: value != {}))  # of which all keys take their defaults
def test_from_json_of_anything_else_raises_a_protocol_error(given: Any) -> None:
    with pytest.raises(ProtocolError):
        Recipe.from_json(given)


def test_parameters_of_a_loss_that_are_left_out_take_its_defaults() -> None:
    recipe = Recipe(soft_kind="dkd", soft_parameters={"non_target_weight": 3})
    assert recipe.soft_parameters == {"target_weight": 1.0, "non_target_weight": 3.0}
    assert len({recipe, Recipe.from_json(recipe.to_json()), Recipe(soft_kind="dkd")}) == 2


def test_a_recipe_distils_when_any_loss_needs_the_teacher() -> None:
    assert not Recipe().distils
    assert CLASSIC.distils
    assert Recipe(soft_kind="kl", alpha=Schedule.constant(0.9)).distils
    assert Recipe(feature_kind="attention", feature_weight=1, feature_taps=("last1",)).distils
