"""Importances with intervals, of trials made by hand."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import get_param_importances
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from reports.read.importances import find_importances

UNIT = FloatDistribution(0, 1)


def make(count: int, noise: float = 0.0) -> tuple[optuna.Study, InMemoryStorage, list[FrozenTrial]]:
    """A study whose value is `loud`, whatever `quiet` is, and noise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    generator = np.random.default_rng(3)
    for _ in range(count):
        loud, quiet = generator.random(2)
        value = loud + noise * generator.normal()
        study.add_trial(
            create_trial(
                value=value,
                params={"loud": loud, "quiet": quiet},
                distributions={"loud": UNIT, "quiet": UNIT},
            )
        )
    return study, storage, study.get_trials()


def test_shares_are_optunas_and_come_largest_first() -> None:
    study, storage, trials = make(60)
    found, note = find_importances("s", storage, trials)
    assert {name: one.share for name, one in found.items()} == get_param_importances(study)
    assert list(found) == ["loud", "quiet"]
    assert sum(one.share for one in found.values()) == pytest.approx(1)
    assert note == ""


def test_an_interval_holds_its_share_and_is_narrow_where_the_trials_agree() -> None:
    _, storage, trials = make(60)
    clear, _ = find_importances("s", storage, trials)
    _, storage, trials = make(60, noise=2.0)
    vague, _ = find_importances("s", storage, trials)
    assert 0.5 < clear["loud"].low <= clear["loud"].share <= clear["loud"].high <= 1
    widths = [found["loud"].high - found["loud"].low for found in (clear, vague)]
    assert widths[0] < 0.5 * widths[1]


def test_intervals_are_the_same_every_time() -> None:
    _, storage, trials = make(20)
    assert find_importances("s", storage, trials) == find_importances("s", storage, trials)


def test_below_ten_completed_trials_there_are_none() -> None:
    study, storage, _ = make(9)
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"loud": 0.5, "quiet": 0.5},
            distributions={"loud": UNIT, "quiet": UNIT},
        )
    )
    found, note = find_importances("s", storage, study.get_trials())
    assert found == {}
    assert "at least 10 completed trials; there are 9" in note


def test_few_trials_are_a_hint_only() -> None:
    _, storage, trials = make(12)
    assert "From 12 completed trials: only a hint" in find_importances("s", storage, trials)[1]


def test_choices_that_optuna_cannot_compare_are_left_out_and_named() -> None:
    study, storage, _ = make(0)
    kinds = CategoricalDistribution(["a", "b"])
    with pytest.warns(UserWarning, match="persistent storage"):
        lists = CategoricalDistribution([["last1"], {"a": 1}])
    for number in range(12):
        study.add_trial(
            create_trial(
                value=number / 12,
                params={"kind": "ab"[number % 2], "taps": lists.choices[number % 2]},
                distributions={"kind": kinds, "taps": lists},
            )
        )
    found, note = find_importances("s", storage, study.get_trials())
    assert list(found) == ["kind"]
    assert note.endswith("Left out, since Optuna cannot compare their choices: taps.")


def test_a_study_that_varies_nothing_has_no_importances() -> None:
    study, storage, _ = make(0)
    for _ in range(12):
        study.add_trial(create_trial(value=0.5))
    assert find_importances("s", storage, study.get_trials())[0] == {}
