"""The audit of the pruner: ranks, wrong cuts and regret, of auditors made by hand."""

from collections.abc import Sequence

import pytest

from reports.caveats.search import of_pruning
from reports.compute.audit import Audit, audit
from reports.read.trials import ArmData, TrialData
from reports.wording import measure
from tests.support.study_fixture import completed

HORIZON = 4
ACCURACY = measure("accuracy")


def trial(number: int, last: float, cut: int | None = None, *, epochs: int = HORIZON) -> TrialData:
    """An auditor that ends at `last`; its first epochs rank trials by their numbers."""
    values = dict.fromkeys(range(1, epochs), 0.01 * number) | {epochs: last}
    return completed(number, last, values=values, auditor=True, cut_epoch=cut)


def audited(trials: Sequence[TrialData]) -> Audit:
    return audit(
        ArmData(name="scheduled", trials=tuple(trials), importances={}, importances_note=""),
        HORIZON,
    )


def test_a_cut_is_wrong_if_the_auditor_ends_among_the_best_third() -> None:
    found = audited(
        [
            trial(0, 0.90, cut=2),  # the best of seven: wrongly cut
            trial(1, 0.85),
            trial(2, 0.84, cut=1),  # the third: a third of seven, rounded up, is three
            trial(3, 0.83, cut=1),  # the fourth: rightly cut
            trial(4, 0.82),
            trial(5, 0.81),
            trial(6, 0.10, cut=3),
        ]
    )
    assert [one.number for one in found.auditors if one.wrong] == [0, 2]
    assert (found.cut, found.wrong) == (4, 2)
    assert found.wrong_share == 0.5


def test_a_third_of_six_is_two() -> None:
    found = audited([trial(number, 0.9 - 0.01 * number, cut=1) for number in range(6)])
    assert [one.number for one in found.auditors if one.wrong] == [0, 1]


def test_auditors_that_tie_with_the_last_of_the_third_belong_to_it() -> None:
    found = audited([trial(0, 0.9), trial(1, 0.8, cut=1), trial(2, 0.8, cut=1), trial(3, 0.1)])
    assert [one.wrong for one in found.auditors] == [False, True, True, False]


def test_regret_is_what_the_best_auditor_is_above_the_best_that_would_have_been_kept() -> None:
    assert audited([trial(0, 0.9, cut=2), trial(1, 0.84), trial(2, 0.7)]).regret == pytest.approx(
        0.06
    )
    assert audited([trial(0, 0.9), trial(1, 0.84, cut=2)]).regret == 0
    assert audited([trial(0, 0.9, cut=1), trial(1, 0.8, cut=1)]).regret is None
    assert audited([]).regret is None


def test_only_auditors_that_reached_the_horizon_count() -> None:
    found = audited([trial(0, 0.9), trial(1, 0.95, cut=1, epochs=2)])
    assert [one.number for one in found.auditors] == [0]
    assert found.wrong_share is None


def test_ranks_are_compared_from_eight_auditors_on() -> None:
    rising = [trial(number, 0.5 + 0.01 * number) for number in range(8)]
    falling = [trial(number, 0.5 - 0.01 * number) for number in range(8)]
    assert audited(rising[:7]).taus == ()
    assert audited(rising).taus == pytest.approx((1, 1, 1, 1))
    assert audited(falling).taus == pytest.approx((-1, -1, -1, 1))


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([trial(0, 0.9), trial(1, 0.8, cut=1), trial(2, 0.1)], []),
        ([trial(0, 0.9, cut=2), trial(1, 0.8)], ["would have cut 1, 1 of them wrongly"]),
        ([trial(0, 0.803, cut=2), trial(1, 0.8), trial(2, 0.1)], []),
        ([trial(0, 0.9, cut=2), trial(1, 0.8, cut=2)], ["lost all"]),
    ],
    ids=["a right cut", "a costly one", "one within the margin", "all cut"],
)
def test_wrong_cuts_are_a_caveat_when_they_cost_more_than_the_margin(
    trials: list[TrialData], expected: list[str]
) -> None:
    caveats = list(of_pruning("median", 0.5, (audited(trials),), ACCURACY))
    assert len(caveats) == len(expected)
    assert all(part in caveat for part, caveat in zip(expected, caveats, strict=True))


def test_many_wrong_cuts_are_a_caveat_whatever_they_cost() -> None:
    kept = [trial(number, 0.9) for number in range(5)]
    wrong = [trial(number, 0.9, cut=1) for number in range(5, 7)]
    right = [trial(number, 0.1, cut=1) for number in range(7, 16)]
    few = audited([*kept, *wrong, *right])
    assert (few.wrong, few.cut, few.regret) == (2, 11, 0)
    assert list(of_pruning("median", 0.5, (few,), ACCURACY)) == []
    many = audited([*kept, *wrong, *right[:5]])
    assert (many.wrong, many.cut) == (2, 7)
    (caveat,) = of_pruning("median", 0.5, (many,), ACCURACY)
    assert "Of 12 auditors of scheduled" in caveat
