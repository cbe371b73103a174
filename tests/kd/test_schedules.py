import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd import schedules
from kd.errors import ProtocolError
from kd.recipe import SHARP_SHAPES
from kd.schedules import SHAPES, fraction, value, warmup_cosine

MOVING = [shape for shape in SHAPES if shape != "constant"]
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNIT = st.floats(0, 1)
ENDS = st.floats(-1000, 1000)


def logistic(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


ROOT2 = math.sqrt(2)
# By hand, at progress 0, 1/4, 1/2, 3/4 and 1, with a sharpness of 0.5.
TABLE = {
    "constant": (0, 0, 0, 0, 0),
    "linear": (0, 0.25, 0.5, 0.75, 1),
    "cosine": (0, (2 - ROOT2) / 4, 0.5, (2 + ROOT2) / 4, 1),
    "exponential": (
        0,
        (1 - math.e**-1.25) / (1 - math.e**-5),
        (1 - math.e**-2.5) / (1 - math.e**-5),
        (1 - math.e**-3.75) / (1 - math.e**-5),
        1,
    ),
    "polynomial": (0, 0.25**ROOT2, 0.5**ROOT2, 0.75**ROOT2, 1),
    "step": (0, 0, 0, 1, 1),
    "sigmoid": (
        0,
        0.5 + (logistic(-12.5 / 4) - 0.5) / (2 * logistic(12.5 / 2) - 1),
        0.5,
        0.5 + (logistic(12.5 / 4) - 0.5) / (2 * logistic(12.5 / 2) - 1),
        1,
    ),
}


def test_the_table_has_every_shape() -> None:
    assert set(TABLE) == set(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_follows_its_formula(shape: str) -> None:
    found = [fraction(shape, progress, 0.5) for progress in PROGRESS]
    assert found == pytest.approx(TABLE[shape], abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@given(first=UNIT, second=UNIT, sharpness=UNIT)
def test_every_shape_is_monotonic(
    shape: str, first: float, second: float, sharpness: float
) -> None:
    early, late = sorted((first, second))
    before, after = fraction(shape, early, sharpness), fraction(shape, late, sharpness)
    assert 0 <= before <= after + 1e-12
    assert after <= 1


@pytest.mark.parametrize("shape", MOVING)
@given(initial=ENDS, final=ENDS, sharpness=UNIT)
def test_both_ends_are_met_exactly(
    shape: str, initial: float, final: float, sharpness: float
) -> None:
    assert value(shape, initial, final, 0.0, sharpness) == initial
    assert value(shape, initial, final, 1.0, sharpness) == final


def test_the_end_is_met_where_the_naive_formula_misses_it() -> None:
    """0.9 + (0.3 - 0.9) is 0.29999999999999993."""
    assert value("linear", 0.9, 0.3, 1.0) == 0.3


@given(initial=ENDS, final=ENDS, progress=UNIT, sharpness=UNIT)
def test_a_constant_schedule_stays_at_its_start(
    initial: float, final: float, progress: float, sharpness: float
) -> None:
    assert value("constant", initial, final, progress, sharpness) == initial


@pytest.mark.parametrize("shape", SHAPES)
@given(initial=ENDS, final=ENDS, progress=UNIT, sharpness=UNIT)
def test_a_value_lies_between_the_ends(
    shape: str, initial: float, final: float, progress: float, sharpness: float
) -> None:
    found = value(shape, initial, final, progress, sharpness)
    assert min(initial, final) <= found <= max(initial, final)


@pytest.mark.parametrize("shape", MOVING)
@given(initial=ENDS, final=ENDS, progress=UNIT)
def test_a_schedule_may_go_either_way(
    shape: str, initial: float, final: float, progress: float
) -> None:
    """Upwards and downwards it has gone the same share of the way."""
    up = value(shape, initial, final, progress)
    down = value(shape, final, initial, progress)
    assert up + down == pytest.approx(initial + final, abs=1e-9)


@pytest.mark.parametrize(("sharpness", "power"), [(0, 0.5), (1 / 3, 1), (2 / 3, 2), (1, 4)])
def test_sharpness_of_polynomial_is_a_power_of_a_half_to_four(
    sharpness: float, power: float
) -> None:
    for progress in PROGRESS:
        assert fraction("polynomial", progress, sharpness) == pytest.approx(progress**power)


@pytest.mark.parametrize(("sharpness", "where"), [(0, 0.3), (0.4, 0.5), (1, 0.8)])
def test_sharpness_of_step_is_where_it_jumps(sharpness: float, where: float) -> None:
    assert fraction("step", where - 1e-9, sharpness) == 0
    assert fraction("step", where + 1e-9, sharpness) == 1


@pytest.mark.parametrize(("sharpness", "steepness"), [(0, 5), (0.5, 12.5), (1, 20)])
def test_sharpness_of_sigmoid_is_a_steepness_of_5_to_20(sharpness: float, steepness: float) -> None:
    """The slope of a logistic curve at its middle is a quarter of its steepness."""
    rise = fraction("sigmoid", 0.5 + 1e-6, sharpness) - fraction("sigmoid", 0.5 - 1e-6, sharpness)
    span = logistic(steepness / 2) - logistic(-steepness / 2)
    assert rise / 2e-6 == pytest.approx(steepness / 4 / span, rel=1e-6)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "exponential"])
@given(progress=UNIT, sharpness=UNIT)
def test_other_shapes_have_no_sharpness(shape: str, progress: float, sharpness: float) -> None:
    assert fraction(shape, progress, sharpness) == fraction(shape, progress)


def test_shapes_that_sharpness_changes_are_those_that_the_recipe_names() -> None:
    changed = [s for s in SHAPES if fraction(s, 0.4, 0.0) != fraction(s, 0.4, 1.0)]
    assert changed == list(SHARP_SHAPES)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ProtocolError, match="unknown schedule shape 'quadratic'; known: constant"):
        value("quadratic", 1, 2, 0.5)


@pytest.mark.parametrize("progress", [-1e-9, 1.1, math.nan, math.inf])
def test_progress_outside_0_to_1_is_refused(progress: float) -> None:
    with pytest.raises(ProtocolError, match=f"progress must lie in 0-1, got {progress}"):
        fraction("linear", progress)
    with pytest.raises(ProtocolError, match=f"progress must lie in 0-1, got {progress}"):
        warmup_cosine(progress, 0.1)


@pytest.mark.parametrize("sharpness", [-0.1, 1.1, math.nan])
def test_sharpness_outside_0_to_1_is_refused(sharpness: float) -> None:
    with pytest.raises(ProtocolError, match=f"sharpness must lie in 0-1, got {sharpness}"):
        fraction("linear", 0.5, sharpness)


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.9])
def test_learning_rate_starts_at_0_peaks_after_the_warm_up_and_ends_at_0(warmup: float) -> None:
    assert warmup_cosine(0, warmup) == 0
    assert warmup_cosine(warmup / 2, warmup) == pytest.approx(0.5)
    assert warmup_cosine(warmup, warmup) == 1
    assert warmup_cosine((1 + warmup) / 2, warmup) == pytest.approx(0.5)
    assert warmup_cosine(1, warmup) == 0


@given(progress=UNIT, warmup=st.floats(0, 0.9))
def test_learning_rate_factor_lies_in_0_to_1(progress: float, warmup: float) -> None:
    assert 0 <= warmup_cosine(progress, warmup) <= 1


@given(first=UNIT, second=UNIT, warmup=st.floats(0, 0.9))
def test_learning_rate_rises_during_the_warm_up_and_falls_after_it(
    first: float, second: float, warmup: float
) -> None:
    early, late = sorted((first, second))
    before, after = warmup_cosine(early, warmup), warmup_cosine(late, warmup)
    if late <= warmup:
        assert before <= after
    if early >= warmup:
        assert before >= after


def test_learning_rate_without_warm_up_starts_at_the_peak() -> None:
    assert warmup_cosine(0, 0) == 1


@pytest.mark.parametrize("warmup", [-0.1, 1.0, math.nan])
def test_a_warm_up_without_an_end_is_refused(warmup: float) -> None:
    with pytest.raises(ProtocolError, match=f"warmup must lie in 0-1 .* got {warmup}"):
        warmup_cosine(0.5, warmup)


def test_schedules_need_neither_torch_nor_numpy() -> None:
    """They are computed from Python floats, so that a step never waits for a device."""
    assert not {"torch", "numpy", "np"} & set(vars(schedules))
