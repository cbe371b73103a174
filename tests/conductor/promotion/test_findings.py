"""What the surrogate has learnt: importances and the picture, from functions that are known."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from conductor.search.promotion.candidates import Candidate
from conductor.search.promotion.encoding import Encoding
from conductor.search.promotion.findings import GRID, learnt
from conductor.search.promotion.scale import Scale
from conductor.search.promotion.surrogate import Observations, Posterior, Recipes
from kd.recipe import Recipe
from storage.files.records import Learnt

RANGES = {
    "rate": FloatDistribution(0.01, 1.0, log=True),
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "idle": FloatDistribution(0.0, 1.0),
    "weight": FloatDistribution(1.0, 2.0),  # only where kind is not a
}
SCALE = Scale(is_share=True, classes=10)


def drawn(count: int, seed: int) -> list[Candidate]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        kind = str(generator.choice(["a", "b", "c"]))
        told = {"rate": 10 ** generator.uniform(-2, 0), "kind": kind, "idle": generator.random()}
        if kind != "a":
            told["weight"] = generator.uniform(1, 2)
        found.append(Candidate(told, {name: RANGES[name] for name in told}, Recipe()))
    return found


def findings(count: int = 120) -> Learnt:
    """What is learnt of recipes whose score rises with the rate, and is less for kind c."""
    encoding, runs = Encoding(RANGES), drawn(count, seed=1)
    recipes = Recipes(encoding.parameters)
    recipes.add(np.stack([encoding.row(one.parameters) for one in runs]))
    values = [
        np.log10(one.parameters["rate"]) - 0.5 * (one.parameters["kind"] == "c") for one in runs
    ]
    seen = Observations(
        runs=np.arange(count),
        recipes=np.arange(count),
        epochs=np.full(count, 12),
        values=np.array(values),
        horizon=12,
    )
    sample = drawn(200, seed=2)
    posterior = Posterior(seen, recipes)
    return learnt(posterior, encoding, sample, SCALE.shown, seed=0, trials=count, trusted=True)


@pytest.fixture(scope="module")
def found() -> Learnt:
    return findings()


def test_parameters_come_in_the_order_of_the_variance_they_explain(found: Learnt) -> None:
    assert [*found.importances][:2] == ["rate", "kind"]
    shares = {name: share for name, (share, _, _) in found.importances.items()}
    # variances: 4 / 12 of the rate, 0.25 * 2 / 9 of the kind
    assert shares["rate"] == pytest.approx(0.333 / (0.333 + 0.056), abs=0.1)
    assert shares["idle"] < 0.08


def test_an_interval_holds_its_share_and_shrinks_with_more_runs(found: Learnt) -> None:
    few = findings(12).importances["rate"]
    many = found.importances["rate"]
    for share, low, high in (few, many):
        assert low <= share <= high
    assert many[2] - many[1] < few[2] - few[1]


def test_the_picture_is_of_the_two_first_and_rises_where_the_score_does(found: Learnt) -> None:
    plane = found.plane
    assert plane is not None
    assert plane.names == ["rate", "kind"]
    assert plane.values[1] == ["a", "b", "c"]
    means = np.array(plane.means)
    assert means.shape == (3, GRID)
    assert (np.diff(means, axis=1) > 0).all()
    assert (means[2] < means[0]).all()
    assert ((means > 0) & (means < 1)).all()  # shares, as the metric is


def test_it_survives_its_file(found: Learnt) -> None:
    assert Learnt.from_json(found.to_json()) == found
