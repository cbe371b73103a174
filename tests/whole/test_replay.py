"""The replay: a whole grid was recorded, and a search over it spends and regrets what it should."""

import numpy as np
import pytest

from tests.replay import replay as module
from tests.replay.grid import CHOICES, SEEDS, points, read_table, recipe_at, write_table
from tests.replay.replay import TRIALS, Replayed, Way, replay, report, summarise

HORIZON = 4


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in which the place in the grid is the accuracy, and seeds differ by a hundredth."""
    every = list(points())
    curves = {
        point: np.array([[number / len(every) + 0.01 * seed] * HORIZON for seed in (-1, 0, 1)])
        for number, point in enumerate(every)
    }
    module.worths.cache_clear()
    monkeypatch.setattr(module, "table", lambda: curves)
    yield
    module.worths.cache_clear()


def test_every_recipe_of_the_grid_was_recorded_on_every_seed() -> None:
    table = read_table()
    assert set(table) == set(points())
    assert len(table) >= 300
    assert {curves.shape for curves in table.values()} == {(SEEDS, 12)}
    assert all(((curves >= 0) & (curves <= 1)).all() for curves in table.values())


def test_points_of_the_grid_are_different_recipes() -> None:
    recipes = [recipe_at(point) for point in points()]
    assert len({str(recipe) for recipe in recipes}) == len(recipes)


def test_a_table_survives_its_file_and_is_the_same_bytes_again(tmp_path) -> None:
    curves = {((0, 1), 0): [0.25, 0.5], ((0, 1), 1): [0.125, 0.75], ((1, 0), 0): [0.0, 1.0]}
    for name in ("a", "b"):
        write_table(tmp_path / name, curves)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = read_table(tmp_path / "a")
    assert table[0, 1].tolist() == [[0.25, 0.5], [0.125, 0.75]]
    assert table[1, 0].tolist() == [[0.0, 1.0]]


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize("sampler", ["random", "quasi-random"])
def test_without_pruning_every_trial_is_trained_to_its_end(sampler: str) -> None:
    found = replay(Way(sampler, lag=1), 0)
    assert found.spent.tolist() == [HORIZON * (number + 1) for number in range(TRIALS)]
    assert found.worth[-1] >= found.worth[0]


@pytest.mark.usefixtures("invented")
def test_a_pruner_spends_less_and_a_search_is_repeated_by_its_number() -> None:
    way = Way("random", "median", lag=2)
    one, again, other = replay(way, 3), replay(way, 3), replay(way, 4)
    assert one.spent[-1] < HORIZON * TRIALS
    assert one.spent.tolist() == again.spent.tolist()
    assert one.worth.tolist() == again.worth.tolist()
    assert one.worth.tolist() != other.worth.tolist()


@pytest.mark.usefixtures("invented")
def test_regret_is_what_the_pick_is_short_of_the_best() -> None:
    best = (len(list(points())) - 1) / len(list(points()))
    spent = np.array([HORIZON * 10, HORIZON * 20, HORIZON * 50])
    found = Replayed(spent, np.array([best - 0.2, best - 0.1, best]))
    one = summarise(Way("random"), [found])
    assert one.regrets == pytest.approx((20.0, 10.0, 10.0))
    assert (one.final, one.epochs, one.reached) == (pytest.approx(0.0), HORIZON * 50, 1.0)
    never = summarise(Way("tpe"), [Replayed(spent, np.array([best - 0.2] * 3))])
    assert (never.epochs, never.reached) == (HORIZON * 50, 0.0)
    assert "| tpe, none, lag 4 | 20.00 | 20.00 | 20.00 | 20.00 | 200 | 1.00x | 0% |" in report(
        [one, never]
    )


def test_numbers_are_asked_as_integers_and_kinds_as_categories() -> None:
    kinds = {name for name, choices in CHOICES.items() if isinstance(choices[0], str)}
    assert kinds == {"temperature_shape", "alpha_shape", "feature_kind"}
