"""Rungs and the early signal: what became of runs, counted by hand, and the figure of it."""

import random
from dataclasses import replace

import pytest

from reports.compute.rungs import ArmRungs, find_rungs, of_signal
from reports.draw.drawing import Figure
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.read.trials import ArmData, TrialData
from reports.wording import percent, signed
from tests.support.study_fixture import completed, drawn_figures

HORIZON = 12


def job(
    number: int, until: int, run: int | None = None, value: float = 0.5, **fields: object
) -> TrialData:
    """A job that ended at `until`, with a value of its own."""
    made: dict[str, object] = {
        "state": "COMPLETE" if until == HORIZON else "PRUNED",
        "run": number if run is None else run,
        "until": until,
        "values": dict.fromkeys(range(1, until + 1), 0.5),
        **fields,
    }
    return completed(number, value, **made)


def on(number: int, run: int, begun: int, until: int, continues: int) -> TrialData:
    return job(number, until, run, begun=begun, continues=continues)


def study(data: StudyData, *trials: TrialData) -> StudyData:
    arm = ArmData(name="scheduled", trials=trials, importances={}, importances_note="")
    return replace(data, arms=(arm,), finalists=())


def rungs_of(data: StudyData, *trials: TrialData) -> ArmRungs:
    [found] = find_rungs(study(data, *trials))
    return found


def whole(number: int, value: float, signal: float, **fields: object) -> TrialData:
    """A run at the horizon whose early signal at epoch 2 is `signal`, 0 at epoch 5."""
    return job(number, HORIZON, early={2: signal, 5: 0.0}, value=value, **fields)


@pytest.fixture(scope="module")
def data(promotion: Findings) -> StudyData:
    return promotion.data


def test_runs_are_counted_at_every_rung_they_reached(data: StudyData) -> None:
    trials = [
        job(0, HORIZON),  # straight to the horizon
        job(1, 2),  # paused
        job(2, 2),
        on(3, 2, 2, 5, continues=2),
        on(4, 2, 5, HORIZON, continues=3),
        job(5, 2),
        on(6, 5, 2, 5, continues=5),  # paused at the second rung
        job(7, HORIZON, repeats=0),
        job(8, 2),
        replace(on(9, 8, 2, 5, continues=8), state="FAIL", values={1: 0.5, 2: 0.5}),
        replace(on(10, 8, 2, 5, continues=8), state="RUNNING", value=None),
    ]
    found = rungs_of(data, *trials)
    assert (found.runs, found.recipes, found.whole, found.ranked, found.repeats) == (6, 5, 2, 3, 1)
    assert [
        (one.epoch, one.reached, one.promoted, one.paused, one.promotions) for one in found.rungs
    ] == [(2, 6, 3, 1, (3, 6, 10)), (5, 4, 1, 1, (4,)), (12, 3, 0, 0, ())]
    assert [one.epoch for one in found.below] == [2, 5]


def test_a_run_that_diverged_reached_no_more_than_it_was_trained(data: StudyData) -> None:
    lost = replace(
        on(1, 0, 2, 5, continues=0),
        state="COMPLETE",
        diverged=True,
        values={1: 0.5, 2: 0.4, 3: 0.1},
    )
    found = rungs_of(data, job(0, 2), lost)
    assert [(one.reached, one.promoted, one.paused) for one in found.rungs] == [
        (1, 1, 0),
        (0, 0, 0),
        (0, 0, 0),
    ]
    assert (found.runs, found.whole) == (1, 0)


def test_the_signal_is_ranked_against_the_value_at_the_horizon(data: StudyData) -> None:
    rising = [whole(number, 0.5 + 0.01 * number, 1 - 0.1 * number) for number in range(6)]
    at_two, at_five = rungs_of(data, *rising).below
    assert at_two.signal is not None
    assert at_two.signal.tau == pytest.approx(1)  # a lower NLL goes with a higher score
    assert at_two.signal.low > 0.5
    assert at_five.signal is None  # all equal
    falling = [whole(number, 0.5 + 0.01 * number, 0.1 * number) for number in range(6)]
    assert rungs_of(data, *falling).rungs[0].signal.tau == pytest.approx(-1)
    assert rungs_of(data, *rising[:5]).rungs[0].signal is None


def test_runs_of_one_recipe_do_not_make_the_whisker_shorter(data: StudyData) -> None:
    order = random.Random(3).sample(range(12), 12)
    twelve = [whole(number, 0.5 + 0.01 * number, order[number]) for number in range(12)]
    repeated = [replace(one, repeats=one.number % 6 if one.number >= 6 else None) for one in twelve]
    wide, narrow = (rungs_of(data, *one).rungs[0].signal for one in (repeated, twelve))
    assert wide
    assert narrow
    assert wide.tau == narrow.tau
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    few = [replace(one, repeats=0 if one.number else None) for one in twelve]
    assert rungs_of(data, *few).rungs[0].signal is None


def test_a_signal_that_ranked_nothing_is_a_limitation(data: StudyData) -> None:
    falling = [whole(number, 0.5 + 0.01 * number, 0.1 * number) for number in range(10)]
    [text] = of_signal([rungs_of(data, *falling)])
    assert text in find(study(data, *falling)).caveats
    assert text.startswith(
        "The early signal did not rank recipes of scheduled in this study: over 10 runs at the "
        "horizon, Kendall's τ with their final value is −1.00 at epoch 2 (95 % interval −0.99 to −"
    )
    rising = [whole(number, 0.5 + 0.01 * number, -0.1 * number) for number in range(10)]
    assert list(of_signal([rungs_of(data, *rising)])) == []
    assert list(of_signal([rungs_of(data, *falling[:5])])) == []  # too few to say so
    order = random.Random(7).sample(range(10), 10)
    chance = [whole(number, 0.5 + 0.01 * number, order[number]) for number in range(10)]
    found = rungs_of(data, *chance)
    assert found.rungs[0].signal is not None
    assert found.rungs[0].signal.tau < 0 < 0.1 < found.rungs[0].signal.high
    assert list(of_signal([found])) == []


def promoted(number: int, value: float, **fields: object) -> list[TrialData]:
    """A run that went on to the horizon from the first rung; `number` is that of its first job."""
    first = job(number, 2)
    return [first, replace(on(number + 1, number, 2, HORIZON, number), value=value, **fields)]


def test_promoted_runs_are_compared_with_auditors(data: StudyData) -> None:
    runs = [*promoted(6, 0.5), *promoted(8, 0.7), *promoted(10, 0.0, diverged=True)]
    others = [*promoted(4, 0.9), job(13, HORIZON, value=0.9), job(14, HORIZON, value=0.9)]
    alone = rungs_of(data, *runs, *others)  # the run of trial 4 is of no learnt proposal
    assert (alone.auditors, alone.won) == (0, None)
    auditors = [
        job(number, HORIZON, value=value, auditor=True) for number, value in ((15, 0.5), (16, 0.6))
    ]
    running = replace(job(17, HORIZON, auditor=True), state="RUNNING", value=None)
    found = rungs_of(data, *runs, *others, *auditors, running)
    assert (found.auditors, found.won) == (2, pytest.approx((0.5 + 0 + 2 + 0) / 6))


def test_a_signal_that_the_search_doubted_is_a_limitation(data: StudyData) -> None:
    runs = [*promoted(6, 0.5), *promoted(8, 0.7)]
    auditors = [job(18 + place, HORIZON, value=0.6, auditor=True) for place in range(3)]
    found = study(data, *runs, *auditors)
    assert not [*of_signal(find_rungs(found))]
    doubted = replace(found, arms=(replace(found.arms[0], trusted=False),))
    [text] = of_signal(find_rungs(doubted))
    assert "promoted runs ended better than 3 auditors" in text
    assert "in only 50 % of all pairs" in text
    assert text in find(doubted).caveats
    assert "(the signal is doubted)" in drawn_figures(find(doubted))["rungs"].caption


@pytest.fixture(scope="module")
def figure(promotion: Findings) -> Figure:
    return drawn_figures(promotion)["rungs"]


def test_the_figure_counts_runs_and_draws_every_trial(figure: Figure, promotion: Findings) -> None:
    scheduled, plain = promotion.rungs
    assert figure.title == (
        f"Trained to the horizon: {scheduled.ranked} of {scheduled.runs} runs of scheduled and "
        f"{plain.ranked} of {plain.runs} runs of plain"
    )
    assert "so τ is a lower bound" in figure.caption
    assert "After epoch 1 and 4 a run pauses" in figure.caption
    audited = {arm.name: [run for run in arm.runs if run.auditor] for arm in promotion.data.arms}
    assert all(audited.values())
    for arm in promotion.rungs:
        assert arm.auditors == len(audited[arm.arm])
        assert arm.won is not None
        assert f"{arm.arm} has {arm.auditors} auditor" in figure.caption
        assert f"promoted runs end better in {percent(arm.won, 0)} of pairs" in figure.caption
    for arm in promotion.data.arms:
        [panel] = [one for one in figure.panels if one.key == f"rungs-{arm.name}"]
        joins, spans, *ends = panel.plot["data"]
        drawn = list(zip(spans["x"][::3], spans["y"][::3], spans["y"][1::3], strict=True))
        assert drawn == [(one.number, one.begun, one.reached) for one in arm.counted]
        assert sum(map(len, (one["x"] for one in ends))) == len(arm.runs)
        assert list(joins["x"][1::3]) == [
            one.number for one in arm.counted if one.continues is not None
        ]


def test_the_whisker_is_in_the_figure_and_its_table(figure: Figure, promotion: Findings) -> None:
    signals = [rung.signal for arm in promotion.rungs for rung in arm.below]
    assert all(signals)
    [panel] = [one for one in figure.panels if one.key == "rungs-signal"]
    bars = [one["x"] for one in panel.plot["data"][::3]]
    assert bars == [[one.low, one.high] for one in signals if one]
    assert panel.fallback
    assert figure.note == ""
    rows = [row for row in figure.tables[0].rows if "horizon" not in row[1]]
    assert [row[-2] for row in rows] == [
        signed(one.tau, sign=True, digits=2) for one in signals if one
    ]


def test_too_few_recipes_to_judge_the_signal_are_named(data: StudyData) -> None:
    few = study(data, *(whole(number, 0.5 + 0.01 * number, 0.1) for number in range(5)))
    figure = drawn_figures(find(few))["rungs"]
    assert [panel.key for panel in figure.panels] == ["rungs-scheduled"]
    assert figure.note == (
        "How well the early signal ranks needs 6 recipes at the horizon; there are 5 of scheduled."
    )


def test_a_short_horizon_has_no_rung(data: StudyData) -> None:
    short = replace(data, protocol=replace(data.protocol, epochs=4))
    runs = [replace(job(number, 4), state="COMPLETE", early={4: 0.1}) for number in range(3)]
    figure = drawn_figures(find(study(short, *runs)))["rungs"]
    assert "no rung below the horizon" in figure.caption
    assert figure.note == ""
    assert figure.title == "Trained to the horizon: 3 of 3 runs of scheduled"


def test_a_search_without_an_ended_trial_has_no_rungs_yet(data: StudyData) -> None:
    figure = drawn_figures(find(study(data)))["rungs"]
    assert (figure.panels, figure.title) == ((), "No run yet")
    assert figure.note
