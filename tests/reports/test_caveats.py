"""Caveats of a study that learned little, searched little or hardly stepped."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from reports.compute.findings import find
from reports.read.collect import collect
from reports.read.data import ArmData, StudyData
from tests.support.study_fixture import TRAIN, Plan, fabricate

PLAN = Plan(name="small", trials=20, epochs=4, images=80)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    study = fabricate(tmp_path_factory.mktemp("study"), PLAN)
    return collect(study.layout, study.name, study.url)


def caveats(data: StudyData, about: str) -> list[str]:
    return [one for one in find(data).caveats if about in one]


def test_models_that_are_not_above_naming_the_largest_class_are_named(data: StudyData) -> None:
    assert caveats(data, "Predicting the largest class") == []
    assert data.labels is not None
    uneven = replace(data, labels=np.where(np.arange(80) < 76, 3, 1))  # 95 % are of class 3
    [text] = caveats(uneven, "Predicting the largest class")
    assert text.startswith("Predicting the largest class (3) for every test image gives 95.00 %: ")
    assert text.endswith("are not significantly better.")
    assert all(name in text for name in ("the teacher (", "tuned scheduled (", "tuned plain ("))
    counts = np.bincount(data.labels)
    share = counts.max() / counts.sum()
    right = np.arange(80) < round(80 * share) + 1
    low = replace(data, teacher_scores=right.astype(float))
    [text] = caveats(low, "Predicting the largest class")
    assert f"gives {100 * share:.2f} %: the teacher ({100 * right.mean():.2f} %) is not" in text
    assert find(low).caveats[0] == text
    assert caveats(replace(low, labels=None), "Predicting the largest class") == []


def test_a_class_of_few_images_is_named_with_their_counts(data: StudyData) -> None:
    enough = replace(data, class_images={"validation": (10, 60), "test": (11, 60)})
    assert caveats(enough, " images, the fewest ") == []
    few = replace(
        data, classes=("bees", "ants"), class_images={"validation": (2, 12), "test": (1, 12)}
    )
    validation, test = caveats(few, " images, the fewest ")
    assert validation == (
        "1 class of 2 has fewer than 10 validation images, the fewest bees with 2 of 14: it makes "
        "up 14.29 % of them, and one image is 50.00 points of the class's accuracy."
    )
    assert test.startswith("1 class of 2 has fewer than 10 test images, the fewest bees with 1 of")
    assert test.endswith("of them, and one image is 100.00 points of the class's accuracy.")
    assert {part: sum(counts) for part, counts in data.class_images.items()} == data.images
    assert caveats(replace(data, class_images={}), " images, the fewest ") == []
    [text] = caveats(replace(few, class_images={"test": (9, 9)}), " images, the fewest ")
    assert text.startswith("2 classes of 2 have fewer than 10 test images")


def fewer(arm: ArmData, count: int) -> ArmData:
    """The arm with so many trials that count."""
    return replace(arm, trials=arm.counted[:count])


def test_a_search_that_was_confirmed_before_its_end_is_named(data: StudyData) -> None:
    assert caveats(data, "is not finished") == []
    scheduled, plain = data.arms
    open_one = replace(data, arms=(fewer(scheduled, 13), plain))
    [text] = caveats(open_one, "is not finished")
    assert text == "The search is not finished: 13 of 20 trials of scheduled."
    assert caveats(replace(open_one, finalists=()), "is not finished") == []
    command = ["python", "study.py", "--trials=15", "--name", "small"]
    joined = replace(open_one, settings=replace(data.settings, command=command))
    assert caveats(joined, "13 of 15 trials of scheduled")
    silent = replace(open_one, settings=replace(data.settings, command=["python", "study.py"]))
    assert caveats(silent, "is not finished") == []


def test_trials_too_few_for_a_sampler_are_little_tuning(data: StudyData) -> None:
    scheduled, plain = data.arms
    ten = replace(data, arms=(fewer(scheduled, 10), fewer(plain, 10)))
    assert caveats(ten, "Little tuning") == []
    three = replace(data, arms=(fewer(scheduled, 3), fewer(plain, 9)))
    [text] = caveats(three, "Little tuning")
    assert text.startswith("Little tuning: scheduled with 3 trials and plain with 9 trials. ")
    assert caveats(replace(three, finalists=()), "Little tuning") == []


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (TRAIN // 2, None),
        (TRAIN // 2 + 1, f"A batch contains {TRAIN // 2 + 1} of {TRAIN} training images"),
        (TRAIN, f"A batch contains all {TRAIN} training images"),
        (4096, f"A batch contains all {TRAIN} training images"),
    ],
)
def test_one_step_an_epoch_is_named(data: StudyData, size: int, said: str | None) -> None:
    large = replace(data, protocol=replace(data.protocol, batch_size=size))
    assert caveats(large, "A batch contains") == (
        [] if said is None else [f"{said}: 1 step per epoch."]
    )


def test_the_edge_of_a_range_says_nothing_below_20_trials(data: StudyData) -> None:
    arm = data.arms[0]
    chosen = data.chosen_trial(arm)
    assert chosen is not None
    edge = replace(
        chosen, parameters={"lr": 0.299}, distributions={"lr": FloatDistribution(0.01, 0.3)}
    )
    trials = tuple(edge if one is chosen else one for one in arm.trials)
    many = replace(data, arms=(replace(arm, trials=trials), data.arms[1]))
    [text] = [one for one in caveats(many, "edge of its search") if "scheduled" in one]
    assert text.startswith(f"The tuned recipe of scheduled (trial {chosen.number}) lies at the")
    dropped = next(one for one in arm.counted if one is not chosen)
    few = tuple(one for one in trials if one is not dropped)
    nineteen = replace(data, arms=(replace(arm, trials=few), data.arms[1]))
    assert not any("scheduled" in one for one in caveats(nineteen, "edge of its search"))
