"""The replay: tables of recorded curves are whole, and searches over them spend and pick right."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from conductor.search.promotion.rungs import rungs_of
from search_spaces.context import StudyContext
from search_spaces.space import load_space
from tests.replay import tables as module
from tests.replay.replay import BUDGET, ENTRIES, Figures, figures, section
from tests.replay.searches import (
    Job,
    Learning,
    Method,
    Promotion,
    Proposer,
    Searched,
    State,
    Whole,
    search,
)
from tests.replay.tables import (
    EARLY,
    SEEDS,
    SIGNALS,
    Table,
    complete_tasks,
    read_curves,
    read_table,
    write_table,
)

HORIZON = 12
RANGES = {"lr": FloatDistribution(0.01, 1.0, log=True), "kind": CategoricalDistribution(["a", "b"])}


def invented(count: int = 40) -> Table:
    """Recipes whose worth rises with lr, and whose early signal tells it; seeds differ a little."""
    generator = np.random.default_rng(0)
    rates = 10 ** generator.uniform(-2, 0, count)
    goal = 0.5 + 0.2 * (np.log10(rates) + 2)
    noise = 0.004 * np.array([-1.0, 1.0])
    accuracy = goal[:, None, None] + noise[None, :, None] + np.zeros(HORIZON)
    likely = 2 - 2 * accuracy
    return Table(
        task="invented",
        arm="scheduled",
        parameters=tuple(
            {"lr": rate, "kind": "a" if k % 2 else "b"} for k, rate in enumerate(rates)
        ),
        distributions=RANGES,
        enqueued=2,
        seeds=np.full(count, 2),
        signals={name: accuracy if name == "accuracy" else likely for name in (*SIGNALS, EARLY)},
    )


STUDENTS = {  # of each task, and whether it starts from weights
    "digits": ("resnet8-w0.125", False),
    "cifar": ("resnet8-w0.25", False),
    "pretrained": ("resnet8-w0.25", True),
}


@pytest.mark.parametrize("task", complete_tasks())
def test_a_table_has_every_recipe_of_the_space_on_two_seeds(task: str) -> None:
    student, pretrained = STUDENTS[task]
    known = {"students": (student,), "pretrained": pretrained}
    space_of = {
        "scheduled": (300, StudyContext(taps=("last1", "last2", "last3"), **known)),
        "plain": (100, StudyContext(**known)),
    }
    for arm, (count, study) in space_of.items():
        table, space = read_table(task, arm), load_space(arm, study)
        assert len(table) >= count
        assert table.seeds.min() >= SEEDS
        assert table.signals["accuracy"].shape[2] == table.horizon
        assert 0 <= np.nanmin(table.worth) <= np.nanmax(table.worth) <= 1
        for number, parameters in enumerate(table.parameters):
            trial = FixedTrial(dict(parameters))
            space.suggest(trial)
            assert trial.params == parameters, number
        enqueued = [*map(dict, space.enqueued.values())]
        assert [*map(dict, table.parameters[: table.enqueued])] == enqueued
    assert sum(path.stat().st_size for path in module.FOLDER.glob(f"{task}-*")) < 5e6


def test_the_digits_are_among_the_tables() -> None:
    assert "digits" in complete_tasks()


def test_a_table_survives_its_file_and_is_the_same_bytes_again(tmp_path, monkeypatch) -> None:
    def rows(value: float, epochs: int = 2) -> list[dict[str, float]]:
        return [dict.fromkeys(SIGNALS, value + epoch) for epoch in range(epochs)]

    arms: dict[str, Any] = {
        "plain": {
            "enqueued": 1,
            "distributions": {"lr": RANGES["lr"]},
            "parameters": [{"lr": 0.1}, {"lr": 0.5}],
        }
    }
    curves = {
        ("plain", 0, 0): rows(0.25),
        ("plain", 0, 1): rows(0.5),
        ("plain", 0, 2): rows(0.75),
        ("plain", 1, 0): rows(0.125, epochs=1),  # it diverged in its second epoch
        ("plain", 1, 1): rows(0.0),
    }
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    kept = []
    for _ in range(2):
        write_table("small", arms, curves)
        kept.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    assert kept[0] == kept[1]
    assert read_curves("small") == curves
    assert complete_tasks() == ["small"]
    table = read_table("small", "plain")
    assert table.parameters == ({"lr": 0.1}, {"lr": 0.5})
    assert table.seeds.tolist() == [3, 2]
    assert table.signals["accuracy"][0, :, 1].tolist()[:3] == [1.25, 1.5, 1.75]
    assert table.signals["accuracy"][1, :2].tolist() == [[0.125, 0.0], [0.0, 1.0]]
    assert table.signals["early_nll"][0, 0].tolist() == [0.25, 1.25]
    assert table.signals["early_signal"][0, 0].tolist() == [0.25, 0.75]
    assert table.signals["early_signal"][1, 0].tolist() == [0.125, np.inf]
    assert np.isnan(table.signals["accuracy"][1, 2]).all()
    assert table.worth.tolist() == pytest.approx([1.5, 0.5])
    write_table("small", arms, {key: rows for key, rows in curves.items() if key[1:] != (1, 1)})
    assert complete_tasks() == []


MAKERS: dict[str, Callable[[Table], Method]] = {
    "random": lambda table: Whole(),
    "median": lambda table: Whole(None, "median"),
    "halving": lambda table: Whole(None, "halving"),
    "optuna": lambda table: Whole(Proposer(table, RandomSampler(seed=0))),
    "promotion": lambda table: Promotion(),
    "learning": lambda table: Learning(table),
}


def jobs_of(name: str, lag: int = 4, budget: int = 300) -> list[Job]:
    table = invented()
    method = MAKERS[name](table)
    state = State(table, np.random.default_rng(1), lag)
    while sum(job.until - job.begun for job in state.jobs) < budget:
        state.jobs.append(method.decide(state))
    return state.jobs


@pytest.mark.parametrize("name", MAKERS)
def test_jobs_train_runs_from_where_they_are(name: str) -> None:
    reached: dict[int, Job] = {}
    for number, job in enumerate(jobs_of(name)):
        before = reached.get(job.run)
        assert job.begun == (before.until if before else 0)
        assert job.until > job.begun
        assert (job.run == number) == (before is None)
        if before:
            assert (job.point, job.seed) == (before.point, before.seed)
        if name in ("promotion", "learning"):
            assert job.until in rungs_of(HORIZON)
        reached[job.run] = job


def test_what_cuts_and_promotes_trains_less_of_each_run() -> None:
    whole = {name: np.mean([job.until == HORIZON for job in jobs_of(name)]) for name in MAKERS}
    assert whole["random"] == whole["optuna"] == 1
    assert all(whole[name] < 0.8 for name in ("median", "halving", "promotion", "learning"))


def test_an_optuna_sampler_takes_recipes_that_were_not_begun() -> None:
    points = [job.point for job in jobs_of("optuna")]
    assert len({*points}) == len(points)


@pytest.mark.parametrize("lag", [1, 4])
def test_a_decision_sees_the_jobs_that_the_lag_allows(lag: int) -> None:
    state = State(invented(), np.random.default_rng(0), lag)
    for point in range(6):
        state.jobs.append(state.new(point, 1))
    known = [run.number for run in state.runs() if run.epochs]
    assert known == [*range(6 - lag + 1)]
    assert all(run.target == 1 for run in state.runs())


def test_a_search_stops_at_its_budget_and_is_repeated_by_its_seed() -> None:
    table = invented()
    found, again = (
        search(table, Learning(table), np.random.default_rng(5), 4, 240) for _ in range(2)
    )
    assert found.spent[-2] < 240 <= found.spent[-1]
    assert (found.spent == again.spent).all()
    assert found.picks == again.picks


def test_the_surrogate_finds_better_recipes_than_chance() -> None:
    table = invented()
    worth = {}
    for name in ("random", "learning"):
        found = [
            search(table, MAKERS[name](table), np.random.default_rng(seed), 4, 120)
            for seed in range(12)
        ]
        worth[name] = np.mean([table.worth[one.picks[-1][0]] for one in found])
    assert worth["learning"] > worth["random"] + 0.01


def told() -> tuple[Table, Figures]:
    """A search that picks the second best recipe after 24 epochs, and the best after 300."""
    table = invented()
    order = np.argsort(-table.worth)
    second, best = int(order[20]), int(order[0])
    searched = Searched(np.array([24, 300]), [[second], [best, second]])
    return table, figures(table, searched, np.random.default_rng(0))


def test_figures_are_those_of_the_picks_at_their_budgets() -> None:
    table, found = told()
    regret = 100 * (np.sort(table.worth)[-1] - np.sort(table.worth)[-21])
    assert found.regrets == pytest.approx((regret, regret, 0.0))
    assert found.selected == pytest.approx((regret, 0.0))
    assert (found.epochs, found.reached) == (300, True)


def test_a_search_that_never_picks_well_counts_with_its_whole_budget() -> None:
    table = invented()
    worst = int(np.argmin(table.worth))
    found = figures(table, Searched(np.array([24]), [[worst]]), np.random.default_rng(0))
    assert (found.epochs, found.reached) == (BUDGET * HORIZON, False)


def test_the_page_has_a_row_for_each_method_and_what_it_saves() -> None:
    fast = Figures((1.0, 0.5, 0.0), (0.5, 0.25), 60, True)
    slow = Figures((2.0, 1.0, 0.5), (1.0, 0.5), 240, False)
    text = section("digits", "plain", [("random, lag 4", [slow, slow]), ("ours", [fast, fast])])
    row = next(line for line in text.splitlines() if line.startswith("| ours"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == [
        *("ours", "1.00 ± 0.00", "0.50 ± 0.00", "0.00 ± 0.00"),
        *("60 ± 0", "4.00x", "100%", "0.50 ± 0.00", "0.25 ± 0.00"),
    ]


def test_every_method_of_the_page_searches() -> None:
    table = invented()
    for entry in ENTRIES:
        found = search(table, entry.make(table, 0), np.random.default_rng(0), 4, 60)
        assert found.spent[-1] >= 60, entry.name
