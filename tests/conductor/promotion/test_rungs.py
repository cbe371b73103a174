"""The rule of promotion: which run goes on, which recipe is repeated, when a new one begins."""

import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from conductor.search.promotion.rungs import (
    Begin,
    Continue,
    Repeat,
    Run,
    decide,
    is_trusted,
    rungs_of,
)

RUNGS = (2, 5, 12)


Ranked = Callable[[Collection[int]], list[int]]


def ranked_never(recipes: Collection[int]) -> list[int]:
    raise AssertionError("no ranking is needed")


def ranked(*order: int) -> Ranked:
    return lambda recipes: [one for one in order if one in recipes]


def run(number: int, epochs: int, *signals: float, **changed: object) -> Run:
    told = dict(zip(RUNGS, signals, strict=False))
    fields = {"recipe": number, "last": number, "target": epochs, "signals": told, **changed}
    return Run(number=number, epochs=epochs, **fields)


@pytest.mark.parametrize(
    ("horizon", "rungs"),
    [
        (1, (1,)),
        (5, (5,)),
        (6, (1, 2, 6)),
        (7, (1, 2, 7)),
        (12, (1, 4, 12)),
        (30, (2, 10, 30)),
        (200, (17, 67, 200)),
    ],
)
def test_runs_pause_at_a_twelfth_and_a_third_of_the_horizon(
    horizon: int, rungs: tuple[int, ...]
) -> None:
    assert rungs_of(horizon) == rungs


def test_rungs_are_distinct_epochs() -> None:
    for horizon in range(1, 300):
        rungs = rungs_of(horizon)
        assert sorted({*rungs}) == [*rungs]
        assert rungs[0] >= 1
        assert rungs[-1] == horizon


def test_the_first_job_goes_to_the_horizon_and_others_to_the_first_rung() -> None:
    assert decide(0, [], RUNGS, ranked_never) == Begin(12)
    assert decide(1, [], RUNGS, ranked_never) == Begin(2)
    assert decide(3, [], (4,), ranked_never) == Begin(4)


def test_of_three_runs_at_a_rung_the_best_goes_on() -> None:
    runs = [run(0, 2, -3.0), run(1, 2, -1.0), run(2, 2, -2.0)]
    assert decide(9, runs[:2], RUNGS, ranked_never) == Begin(2)
    assert decide(9, runs, RUNGS, ranked_never) == Continue(runs[1], 5)


def test_of_equals_the_first_goes_on() -> None:
    runs = [run(0, 2, -1.0), run(1, 2, -1.0), run(2, 2, -1.0)]
    assert decide(9, runs, RUNGS, ranked_never) == Continue(runs[0], 5)


def test_the_higher_rung_comes_first() -> None:
    low = [run(number, 2, -1.0) for number in range(9)]
    high = [run(number, 5, -2.0, signal) for number, signal in ((9, -2.0), (10, -1.0), (11, -3.0))]
    assert decide(13, [*low, *high], RUNGS, ranked_never) == Continue(high[1], 12)


def test_a_run_whose_next_job_is_pending_does_not_go_on_again() -> None:
    runs = [run(0, 2, -3.0), run(1, 2, -1.0, target=5), run(2, 2, -2.0)]
    assert decide(9, runs, RUNGS, ranked_never) == Begin(2)


def test_runs_that_came_further_count_at_a_rung() -> None:
    """The best of four at the rung is at the horizon already, so that none goes on."""
    whole = run(0, 12, -0.5, -0.5, -0.5, value=0.9)
    paused = [run(number, 2, -1.0 - number) for number in (1, 2, 3)]
    assert decide(9, [whole, *paused], RUNGS, ranked_never) == Begin(2)
    more = [run(number, 2, -9.0) for number in (4, 5)]
    assert decide(9, [whole, *paused, *more], RUNGS, ranked_never) == Continue(paused[0], 5)


def test_a_run_that_diverged_is_last_at_every_rung() -> None:
    gone = run(0, 12, diverged=True)
    others = [run(1, 2, -5.0), run(2, 2, -6.0)]
    assert decide(9, [gone, *others], RUNGS, ranked_never) == Continue(others[0], 5)


def whole(recipes: int) -> list[Run]:
    return [run(number, 12, -1.0, -1.0, -1.0, value=0.9) for number in range(recipes)]


def test_every_eighth_job_repeats_the_best_recipe_that_has_few_runs() -> None:
    runs = whole(4)
    assert decide(8, runs, RUNGS, ranked(2, 0, 1, 3)) == Repeat(2, 12)
    assert decide(9, runs, RUNGS, ranked_never) != Repeat(2, 12)
    assert isinstance(decide(8, runs[:3], RUNGS, ranked_never), Begin)
    again = [run(number, 12, -1.0, -1.0, -1.0, value=0.9, recipe=2) for number in (20, 21)]
    assert decide(8, [*runs, *again], RUNGS, ranked(2, 0, 1, 3)) == Repeat(0, 12)


def test_a_recipe_that_is_paused_is_not_repeated() -> None:
    paused = run(9, 5, -0.1, -0.1)
    ranking = ranked(9, 2, 0, 1, 3)
    assert decide(8, [*whole(4), paused], RUNGS, ranking) == Repeat(2, 12)


def test_only_the_three_best_recipes_are_repeated() -> None:
    runs = whole(5)
    again = [
        run(20 + place, 12, -1.0, -1.0, -1.0, value=0.9, recipe=place % 3) for place in range(6)
    ]
    assert isinstance(decide(8, [*runs, *again], RUNGS, ranked(0, 1, 2, 3, 4)), Begin)


def test_a_pending_repeat_counts() -> None:
    again = [run(number, 0, recipe=2, target=12) for number in (20, 21)]
    assert decide(8, [*whole(4), *again], RUNGS, ranked(2, 0, 1, 3)) == Repeat(0, 12)


def test_one_of_24_jobs_takes_a_new_recipe_to_the_horizon() -> None:
    runs = [run(0, 2, -3.0), run(1, 2, -1.0), run(2, 2, -2.0)]
    for number in (20, 44, 68):
        assert decide(number, runs, RUNGS, ranked_never) == Begin(12, auditor=True)
        assert decide(number + 1, runs, RUNGS, ranked_never) == Continue(runs[1], 5)


def test_where_there_are_no_rungs_no_job_is_an_auditor() -> None:
    assert decide(20, whole(3), (4,), ranked_never) == Begin(4)


def ended(*values: float | None, **told: bool) -> list[Run]:
    """Runs at the horizon with these values; None for one that diverged."""
    return [
        run(40 + place, 12, value=value, diverged=value is None, **told)
        for place, value in enumerate(values)
    ]


def audited(promoted: list[Run], auditors: list[float | None]) -> list[Run]:
    return [*promoted, *ended(*auditors, auditor=True)]


def test_the_signal_is_trusted_until_auditors_end_as_well_as_promoted_runs() -> None:
    promoted = ended(0.8, 0.7, 0.9, promoted=True)
    assert is_trusted(promoted)
    assert is_trusted(audited(promoted, [0.5]))
    assert not is_trusted(audited(promoted, [0.95]))
    assert is_trusted(audited(promoted, [0.5, 0.85]))  # won: four of six pairs, weighed as two
    assert not is_trusted(audited(promoted, [0.8, 0.85]))  # 2.5 of six
    assert is_trusted(audited(promoted, [0.5, 0.6, 0.6, 0.75]))  # 11 of 12


def test_few_runs_are_little_evidence() -> None:
    """One pair that promotion lost is weighed with one that it is believed to have won."""
    assert is_trusted(audited(ended(0.7, 0.7, promoted=True), [0.6]))
    tied = audited(ended(0.7, promoted=True), [0.7])
    assert is_trusted(tied)
    assert not is_trusted(audited(ended(0.7, 0.7, promoted=True), [0.7, 0.7]))


def test_a_run_that_diverged_has_ended_worst() -> None:
    assert is_trusted(audited(ended(0.2, 0.3, promoted=True), [None, None]))
    assert not is_trusted(audited(ended(None, None, promoted=True), [0.2, 0.3]))


def test_runs_of_random_recipes_are_not_compared_with_auditors() -> None:
    first = [replace(one, number=5) for one in ended(0.1, promoted=True)]
    assert is_trusted(audited(first, [0.9]))
    assert not is_trusted(audited([replace(first[0], number=6)], [0.9]))


def test_runs_that_are_neither_promoted_nor_auditors_say_nothing_about_the_signal() -> None:
    assert is_trusted([*ended(0.7, promoted=True), *ended(0.9, 0.9)])
    assert is_trusted([*ended(0.7, 0.7, auditor=True), *ended(0.1, 0.1)])


def test_where_the_signal_is_doubted_every_second_job_is_an_auditor() -> None:
    runs = audited(ended(0.5, 0.6, promoted=True), [0.9])
    paused = [run(0, 2, -3.0), run(1, 2, -1.0), run(2, 2, -2.0)]
    numbers = [number for number in range(9, 33) if number % 8]
    assert [decide(number, [*runs, *paused], RUNGS, ranked_never) for number in numbers] == [
        Begin(12, auditor=True) if number % 2 else Continue(paused[1], 5) for number in numbers
    ]


def test_about_a_third_of_the_runs_at_each_rung_goes_on() -> None:
    """In a long search. More than a third do, since some go on that are not of the best later."""
    draw, runs, jobs = random.Random(0), list[Run](), Counter[int]()
    for number in (one for one in range(1, 400) if one % 24 != 20):  # without auditors
        decision = decide(number, runs, RUNGS, ranked())
        if isinstance(decision, Continue):
            going = decision.run
        else:
            going = Run(number=number, recipe=number, last=number)
            runs.append(going)
        assert not isinstance(decision, Repeat)
        going.epochs = going.target = decision.until
        going.signals = {**going.signals, decision.until: draw.random()}
        going.value = draw.random() if decision.until == 12 else None
        jobs[decision.until] += 1
    assert 0.33 <= jobs[5] / jobs[2] <= 0.4
    assert 0.33 <= jobs[12] / jobs[5] <= 0.4
