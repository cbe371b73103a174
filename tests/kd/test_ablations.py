"""Each rung of the ladder differs from the winner in one part, and in no other."""

from dataclasses import asdict, replace

import pytest

from kd.ablations import ablations, mean_value
from kd.recipe import Recipe, Schedule

WINNER = Recipe(
    lr=0.05,
    weight_decay=1e-3,
    label_smoothing=0.1,
    soft_kind="kl",
    temperature=Schedule(shape="linear", initial=5.0, final=1.0),
    alpha=Schedule(shape="step", initial=0.8, final=0.2, sharpness=0.4),
    feature_kind="hint",
    feature_weight=2.0,
    feature_taps=("last1",),
)
DEFAULTS = Recipe(lr=0.02)


def changed(ablated: Recipe, recipe: Recipe = WINNER) -> set[str]:
    before, after = asdict(recipe), asdict(ablated)
    return {name for name in before if before[name] != after[name]}


def test_each_part_is_taken_away_alone() -> None:
    ladder = ablations(WINNER, DEFAULTS)
    assert {done: changed(recipe) for done, recipe in ladder.items()} == {
        "with constant temperature": {"temperature"},
        "with constant alpha": {"alpha"},
        "without feature loss": {"feature_kind", "feature_weight", "feature_taps"},
        "without soft loss": {"soft_kind", "temperature", "alpha"},
        "with default optimizer": {"lr", "weight_decay", "label_smoothing"},
    }


def test_a_schedule_becomes_its_mean_over_the_horizon() -> None:
    ladder = ablations(WINNER, DEFAULTS)
    temperature = ladder["with constant temperature"].temperature
    assert (temperature.shape, temperature.initial) == ("constant", pytest.approx(3.0))
    alpha = ladder["with constant alpha"].alpha  # 0.8 for half of the horizon, then 0.2
    assert (alpha.shape, alpha.initial) == ("constant", pytest.approx(0.5))


def test_the_optimizer_goes_back_to_what_its_arm_began_with() -> None:
    ablated = ablations(WINNER, DEFAULTS)["with default optimizer"]
    assert (ablated.lr, ablated.weight_decay, ablated.label_smoothing) == (0.02, 5e-4, 0.0)


@pytest.mark.parametrize("ends", [(1.0, 10.0), (10.0, 1.0), (3.0, 3.0)])
def test_a_symmetric_schedule_has_the_mean_of_its_ends(ends: tuple[float, float]) -> None:
    for shape in ("linear", "cosine", "sigmoid"):
        schedule = Schedule(shape=shape, initial=ends[0], final=ends[1])
        assert mean_value(schedule) == pytest.approx(sum(ends) / 2)


def test_a_part_that_is_not_there_is_not_taken_away() -> None:
    plain = Recipe(lr=0.05)
    assert ablations(plain, Recipe(lr=0.05)) == {}
    vanilla = replace(
        plain, soft_kind="kl", temperature=Schedule.constant(4.0), alpha=Schedule.constant(0.9)
    )
    assert [*ablations(vanilla, DEFAULTS)] == ["without soft loss", "with default optimizer"]


def test_a_part_without_effect_is_left_alone() -> None:
    unheard = replace(WINNER, alpha=Schedule.constant(0.0))
    assert [*ablations(unheard, DEFAULTS)] == ["without feature loss", "with default optimizer"]
    still = Schedule(shape="linear", initial=0.7, final=0.7)
    assert not {"with constant temperature", "with constant alpha"} & {
        *ablations(replace(WINNER, temperature=still, alpha=still), DEFAULTS)
    }
