"""The model of an arm: what of its runs the surrogate is told, and how recipes are ranked."""

import numpy as np
import pytest
from scipy.special import logit

from conductor.search.promotion import model
from conductor.search.promotion.model import Model
from conductor.search.promotion.rungs import Run
from conductor.search.promotion.scale import Scale
from conductor.search.promotion.surrogate import Observations, Parameters, Posterior, Recipes
from conductor.search.promotion.warp import Warp

HORIZON = 12
PARAMETERS = Parameters(np.array([False]))


def run(number: int, epochs: int, signal: float, value: float | None = None, **more: object) -> Run:
    """A run of a recipe of its own that has this signal at each rung."""
    signals = {rung: signal for rung in (2, 5, HORIZON) if rung <= epochs}
    fields = {"recipe": number, "last": number, "target": epochs, "signals": signals, **more}
    return Run(number=number, epochs=epochs, value=value, **fields)


def whole(*values: float) -> list[Run]:
    return [run(number, HORIZON, -0.3, value) for number, value in enumerate(values)]


def made(runs: list[Run], places: dict[int, float] | None = None, share: bool = True) -> Model:
    """A model whose recipes lie at these places of one parameter, or spread over its range."""
    found = Model(PARAMETERS, Scale(share, 10), HORIZON)
    spread = {one.number: one.number / len(runs) for one in runs} if places is None else places
    found.add({number: np.array([place]) for number, place in spread.items()})
    return found


def seen(runs: list[Run], monkeypatch: pytest.MonkeyPatch, share: bool = True) -> Observations:
    """What the surrogate is told of these runs."""
    told = list[Observations]()

    def noting(observations: Observations, recipes: Recipes) -> Posterior:
        told.append(observations)
        return Posterior(observations, recipes)

    monkeypatch.setattr(model, "Posterior", noting)
    made(runs, share=share).posterior(runs)
    (observations,) = told
    return observations


def test_values_at_the_horizon_are_warped_among_each_other(monkeypatch):
    runs = whole(0.9, 0.95, 0.2, 0.92, 0.85)
    expected = logit([0.9, 0.95, 0.2, 0.92, 0.85])
    told = seen(runs, monkeypatch)
    assert told.values[told.epochs == HORIZON] == pytest.approx(Warp(expected)(expected))


def test_values_at_a_rung_are_warped_among_all_runs_that_came_there(monkeypatch):
    likely = [0.2, 0.1, 0.5, 0.6, 0.7]
    went_on = [run(place, HORIZON, np.log(likely[place]), 0.9) for place in (3, 4)]
    told = seen(
        [*(run(place, 2, np.log(likely[place])) for place in range(3)), *went_on], monkeypatch
    )
    assert told.epochs.tolist() == [2, 2, 2, 2, 5, HORIZON, 2, 5, HORIZON]
    warp = Warp(logit(likely))
    assert told.values[told.epochs == 2] == pytest.approx(warp(logit(likely)))
    assert told.values[told.epochs == 5] == pytest.approx(logit(likely[3:]))


@pytest.mark.parametrize("diverged", [1, 9])
def test_runs_that_diverged_lie_below_all_others_however_many_there_are(monkeypatch, diverged):
    gone = [run(10 + place, HORIZON, 0.0, diverged=True) for place in range(diverged)]
    for one in gone:
        one.signals = {}
    told = seen([*whole(0.9, 0.95, 0.92, 0.93), *gone], monkeypatch)
    values = told.values[told.epochs == HORIZON]
    assert len(set(values[4:])) == 1
    assert values[4] < values[:4].min()
    assert values[:4].min() - values[4] < np.ptp(values[:4])
    one = seen([*whole(0.9, 0.95, 0.92, 0.93), gone[0]], monkeypatch)
    assert values[:5] == pytest.approx(one.values[one.epochs == HORIZON])


def test_a_pending_job_is_an_observation_without_a_value(monkeypatch):
    told = seen([*whole(0.9), run(1, 2, -0.5, target=5), run(2, 0, 0.0, target=2)], monkeypatch)
    assert told.epochs.tolist() == [2, 5, HORIZON, 2, 5, 2]
    assert np.isnan(told.values).tolist() == [False, False, False, False, True, True]


def test_without_early_values_the_surrogate_is_told_those_at_the_horizon_alone(monkeypatch):
    told = list[Observations]()
    monkeypatch.setattr(model, "Posterior", lambda seen, recipes: told.append(seen))
    runs = [*whole(0.9), run(1, 2, -0.5, target=5), run(2, 5, -0.4, target=HORIZON)]
    made(runs).posterior(runs, early=False)
    assert told[0].runs.tolist() == [0, 2]
    assert told[0].epochs.tolist() == [HORIZON, HORIZON]
    assert np.isnan(told[0].values).tolist() == [False, True]


def test_of_many_values_those_of_the_latest_epochs_are_seen(monkeypatch):
    monkeypatch.setattr(model, "MOST", 3)
    runs = [run(0, 2, -0.5), run(1, 5, -0.5), run(2, 5, -0.4), run(3, HORIZON, -0.1, 0.9)]
    told = seen(runs, monkeypatch)
    assert [*zip(told.runs, told.epochs, strict=True)] == [(2, 5), (3, 5), (3, HORIZON)]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_metric_that_is_no_share_ranks_by_its_value(sign):
    """Where less is better, the sign is turned before the search sees it."""
    runs = [run(place, HORIZON, -0.1 * place, sign * (1.0 + place)) for place in range(5)]
    found = made(runs, {one.number: 10.0 * one.number for one in runs}, share=False)
    order = found.ranked(found.posterior(runs), range(5))
    assert order == ([4, 3, 2, 1, 0] if sign == 1 else [0, 1, 2, 3, 4])


def test_a_paused_recipe_ranks_first_where_its_neighbours_are_good():
    """Recipes at 0 are good, those far off are not; the paused one is the best of its rung."""
    good = [run(place, HORIZON, -0.1, 0.95) for place in range(3)]
    bad = [run(place, HORIZON, -1.5, 0.5) for place in range(3, 6)]
    paused = run(6, 5, -0.05)
    places = {**dict.fromkeys(range(3), 0.0), **dict.fromkeys(range(3, 6), 5.0), 6: 0.0}
    found = made([], places)
    ranking = found.ranked(found.posterior([*good, *bad, paused]), range(7))
    assert set(ranking[:4]) == {0, 1, 2, 6}


def test_equal_means_rank_by_number():
    runs = whole(0.9, 0.9)
    found = made(runs, {0: 0.5, 1: 0.5})
    assert found.ranked(found.posterior(runs), [1, 0]) == [0, 1]


def test_scores_are_shown_as_the_shares_that_they_stand_for():
    shares = [0.9, 0.95, 0.2, 0.92, 0.85]
    runs = whole(*shares)
    warped = Warp(logit(shares))(logit(shares))
    assert made(runs).shown(warped, runs) == pytest.approx(shares)


def test_the_largest_expected_improvement_lies_beside_the_best_recipe():
    runs = whole(0.5, 0.6, 0.8, 0.9)
    found = made(runs, {number: number / 3 for number in range(4)})
    rows = np.array([[0.1], [0.5], [0.95]])
    assert found.best_of(rows, found.posterior(runs), range(4)) == 2


def test_improvement_is_over_the_best_of_the_known_recipes():
    """Beside the best recipe there is nothing to gain where it is known, and much where not."""
    runs = whole(0.5, 0.55, 0.6, 0.9)
    found = made(runs, {0: 0.0, 1: 0.1, 2: 0.2, 3: 5.0})
    rows = np.array([[5.0], [2.5]])
    posterior = found.posterior(runs)
    assert found.best_of(rows, posterior, [0, 1, 2]) == 0
    assert found.best_of(rows, posterior, range(4)) == 1
