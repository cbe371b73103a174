"""Logits as a cache keeps them: what is exact, what is rounded, and what verifying finds."""

import math

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from torch import Tensor

from kd.errors import ProtocolError
from kd.names import parse_cache_logits
from kd.training.cached_logits import (
    CLASSES,
    HALF_STEP,
    LOGITS,
    REST,
    TEMPERATURES,
    as_cached,
    columns,
    decode,
    distance,
    encode,
    errors,
)
from search_spaces.space import load_space
from tests.support.small import LOGITS_KEPT

COMPRESSED = [one for one in LOGITS_KEPT if one != "float32"]


def logits(count: int = 20, classes: int = 10, *, scale: float = 5.0, seed: int = 0) -> Tensor:
    """Random logits [count, classes] whose mean is not 0."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, classes, generator=generator) + 3


def outside(row: Tensor, classes: Tensor, temperature: float = 1.0) -> float:
    """The probability of all classes but these, in float64."""
    shares = (row.double() / temperature).softmax(0)
    shares[classes.long()] = 0
    return float(shares.sum())


def test_float32_keeps_every_bit() -> None:
    rows = logits()
    assert as_cached(rows, "float32") is rows
    assert list(encode(rows, "float32")) == [LOGITS]


def test_float16_rounds_each_logit() -> None:
    rows = logits()
    assert torch.equal(as_cached(rows, "float16"), rows.half().float())
    assert ((as_cached(rows, "float16") - rows).abs() <= HALF_STEP * rows.abs()).all()


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_largest_logits_are_kept_with_their_classes_and_all_others_are_equal(
    count: int,
) -> None:
    rows = logits()
    read = as_cached(rows, f"top{count}")
    assert read.shape == rows.shape
    assert read.dtype == torch.float32
    for row, kept in zip(rows, read, strict=True):
        largest = row.topk(count)
        assert torch.equal(kept[largest.indices], largest.values.half().float())
        others = torch.ones(10, dtype=torch.bool).index_fill(0, largest.indices, False)
        assert len(kept[others].unique()) == 1


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_at_temperature_1_the_probability_of_the_others_is_exact(count: int, scale: float) -> None:
    """Although the largest logits are rounded, at a scale of 100 by 0.1."""
    rows = logits(scale=scale).clamp(min=-80)
    tensors = encode(rows, f"top{count}")
    for row, read, classes in zip(rows, decode(tensors, 10), tensors[CLASSES], strict=True):
        wanted = outside(row, classes)
        assert outside(read, classes) == pytest.approx(wanted, rel=1e-5 * (1 + scale), abs=1e-30)


def test_above_temperature_1_the_others_have_too_much_and_below_too_little() -> None:
    rows = logits()
    tensors = encode(rows, "top3")
    for row, read, classes in zip(rows, decode(tensors, 10), tensors[CLASSES], strict=True):
        assert outside(read, classes, 4) > outside(row, classes, 4)
        assert outside(read, classes, 0.5) < outside(row, classes, 0.5)


def test_of_equal_logits_the_first_are_kept() -> None:
    assert encode(torch.zeros(1, 6), "top2")[CLASSES].tolist() == [[0, 1]]
    assert torch.equal(as_cached(torch.full((2, 6), 1.5), "top2"), torch.full((2, 6), 1.5))


@pytest.mark.parametrize(("classes", "index"), [(2**15, torch.int16), (2**15 + 1, torch.int32)])
def test_the_number_of_any_class_can_be_kept(classes: int, index: torch.dtype) -> None:
    rows = torch.zeros(2, classes).index_fill(1, torch.tensor(classes - 1), 4.0)
    tensors = encode(rows, "top1")
    assert tensors[CLASSES].dtype == index
    assert decode(tensors, classes).argmax(1).tolist() == [classes - 1] * 2


@pytest.mark.parametrize("kept", LOGITS_KEPT)
def test_columns_are_those_of_the_tensors(kept: str) -> None:
    tensors = encode(logits(), kept)
    found = {name: (tensor.dtype, tensor.shape[1]) for name, tensor in tensors.items()}
    assert found == columns(kept, 10)


def bytes_of_a_row(kept: str, classes: int) -> int:
    return sum(dtype.itemsize * count for dtype, count in columns(kept, classes).values())


def test_bytes_of_a_view_of_imagenet_are_those_of_the_page_on_scale() -> None:
    """docs/scale.md: 1,000 classes and 1.28 million images."""
    sizes = {one: 1_280_000 * bytes_of_a_row(one, 1000) for one in ("float32", "float16", "top32")}
    assert sizes == {"float32": 5_120_000_000, "float16": 2_560_000_000, "top32": 168_960_000}


@pytest.mark.parametrize("kept", COMPRESSED)
def test_what_float16_cannot_hold_is_not_finite(kept: str) -> None:
    rows = logits()
    rows[3, 4] = 65_530.0
    assert not encode(rows, kept)[LOGITS].isfinite().all()
    rows[3, 4] = torch.nan
    assert not encode(rows, kept)[LOGITS].isfinite().all()


# The names of settings.


@pytest.mark.parametrize(
    ("text", "count"), [("float32", 0), ("float16", 0), ("top1", 1), ("top32", 32)]
)
def test_a_setting_is_the_number_of_logits_that_it_keeps(text: str, count: int) -> None:
    assert parse_cache_logits(text) == count
    assert parse_cache_logits(text, 33) == count


@pytest.mark.parametrize(
    "text", ["", "top", "top0", "top-1", "top3.0", "top03", "Top3", "top3 ", "float64", "3", "top٣"]
)
def test_another_setting_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match=r"^cache_logits must be float32, float16 or "):
        parse_cache_logits(text)


@pytest.mark.parametrize("count", [10, 11, 32])
def test_as_many_logits_as_classes_are_refused(count: int) -> None:
    with pytest.raises(ProtocolError) as raised:
        parse_cache_logits(f"top{count}", 10)
    assert str(raised.value) == (
        "cache_logits must keep fewer logits than the 10 classes (float16 keeps all), "
        f"got 'top{count}'"
    )
    assert parse_cache_logits("top9", 10) == 9


# Verifying.


@pytest.mark.parametrize("kept", LOGITS_KEPT)
def test_logits_are_at_distance_0_from_what_was_made_of_them(kept: str) -> None:
    for scale in (1e-4, 1.0, 100.0):
        rows = logits(scale=scale)
        assert float(distance(rows, encode(rows, kept))) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(LOGITS_KEPT))
def test_rounding_of_the_teacher_counts_as_little_as_it_is(seed: int, kept: str) -> None:
    """A logit between two numbers of float16, or one as large as the next, may change its side."""
    rows = logits(200, scale=2.0, seed=seed)
    rows[:, 5] = rows[:, 6] = rows.sort(1).values[:, 8]  # of the largest, second and third
    moved = rows + 1e-6 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    assert float(distance(moved, encode(rows, kept))) < 2e-5


@pytest.mark.parametrize("kept", LOGITS_KEPT)
def test_other_logits_are_at_their_distance(kept: str) -> None:
    rows = logits()
    largest = rows[4].argmax()
    for change in (-0.5, 0.5):
        moved = rows.clone()
        moved[4, largest] += change
        assert float(distance(moved, encode(rows, kept))) == pytest.approx(0.5, abs=0.05)
    assert math.isnan(float(distance(rows * torch.nan, encode(rows, kept))))


@pytest.mark.parametrize("name", [LOGITS, CLASSES, REST])
def test_each_tensor_of_the_largest_logits_is_compared(name: str) -> None:
    rows = logits()
    tensors = encode(rows, "top3")
    tensors[name] = tensors[name].roll(1, 0)
    assert float(distance(rows, tensors)) > 0.1


def test_a_smaller_logit_in_place_of_a_larger_one_is_found() -> None:
    """Of the largest, the third is missing: the row is otherwise what its K classes make of it."""
    rows = torch.tensor([[5.0, 4.0, 3.0, 1.0, 0.0, -1.0]])
    wrong = encode(rows.index_fill(1, torch.tensor(2), -9.0), "top3")
    assert wrong[CLASSES].tolist() == [[0, 1, 3]]
    right = encode(rows, "top3")
    assert float(distance(rows, {**wrong, REST: right[REST]})) >= 2


def test_errors_are_those_of_the_softened_distributions() -> None:
    rows = logits()
    found = errors(rows, as_cached(rows, "top3"))
    assert list(found["kl"]) == ["1", "4", "10"]
    exact, read = rows.double(), as_cached(rows, "top3").double()
    assert found["logit"] == pytest.approx(float((exact - read).abs().max()))
    for temperature in TEMPERATURES:
        p, q = (exact / temperature).softmax(1), (read / temperature).softmax(1)
        kl = (p * (p / q).log()).sum(1)
        mean, largest = found["kl"][f"{temperature:g}"]
        assert mean == pytest.approx(float(kl.mean()), rel=1e-6)
        assert largest == pytest.approx(float(kl.max()), rel=1e-6)
    nothing = errors(rows, rows)
    assert nothing["logit"] == 0
    assert nothing["kl"]["1"] == [0, 0]


def test_float16_changes_distributions_by_far_less_than_the_largest_logits_alone() -> None:
    rows = logits(200)
    half, top = (errors(rows, as_cached(rows, one))["kl"] for one in COMPRESSED)
    assert half["1"][1] < 1e-4 < top["4"][0]


@pytest.mark.parametrize("space", ["scheduled", "constant"])
def test_errors_are_shown_at_the_ends_of_the_temperatures_that_are_searched(space: str) -> None:
    trial = optuna.create_study().ask()
    load_space(space).suggest(trial)
    known = trial.distributions
    [name] = {"temperature", "temperature_initial"} & set(known)
    assert known[name] == FloatDistribution(TEMPERATURES[0], TEMPERATURES[-1], log=True)
