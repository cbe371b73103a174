"""Caveats of a study that learned little, searched little or hardly stepped."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from conductor.search import methods
from reports.caveats.edges import edge_parameters
from reports.caveats.search import STARTUP_TRIALS
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.read.trials import ArmData
from storage.files.records import WarmStart, WarmTrial
from tests.support.study_fixture import TRAIN, with_teacher


def caveats(data: StudyData, about: str) -> list[str]:
    return [one for one in find(data).caveats if about in one]


def test_models_that_are_not_above_naming_the_largest_class_are_named(data: StudyData) -> None:
    assert caveats(data, "Predicting the largest class") == []
    uneven = replace(data, labels=np.where(np.arange(80) < 76, 3, 1))  # 95 % are of class 3
    [text] = caveats(uneven, "Predicting the largest class")
    assert text.startswith(
        "Predicting the largest class (3) for every test image, with the shares "
    )
    assert "as probabilities, gives 95.00 %: " in text
    assert text.endswith("are not significantly better.")
    assert all(name in text for name in ("the teacher (", "tuned scheduled (", "tuned plain ("))
    counts = np.bincount(data.labels)
    share = counts.max() / counts.sum()
    right = np.arange(80) < round(80 * share) + 1
    low = with_teacher(data, scores=right.astype(float))
    [text] = caveats(low, "Predicting the largest class")
    assert f"gives {100 * share:.2f} %: the teacher ({100 * right.mean():.2f} %) is not" in text
    assert find(low).caveats[0] == text
    assert caveats(replace(low, labels=None), "Predicting the largest class") == []


def test_a_class_of_few_images_is_named_with_their_counts(data: StudyData) -> None:
    enough = replace(data, class_images={"validation": (10, 60), "test": (11, 60)})
    assert caveats(enough, " images. The smallest is ") == []
    few = replace(
        data, classes=("bees", "ants"), class_images={"validation": (2, 12), "test": (1, 12)}
    )
    validation, test = caveats(few, " images. The smallest is ")
    assert validation == (
        "1 of 2 classes has fewer than 10 validation images. The smallest is “bees” with 2 of 14 "
        "(14.29 %): one image is 50.00 points of its accuracy."
    )
    assert test.startswith("1 of 2 classes has fewer than 10 test images. The smallest is “bees” ")
    assert test.endswith("one image is 100.00 points of its accuracy.")
    assert caveats(replace(data, class_images={}), " images. The smallest is ") == []
    [text] = caveats(replace(few, class_images={"test": (9, 9)}), " images. The smallest is ")
    assert text.startswith("2 of 2 classes have fewer than 10 test images")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"teacher_weights": ("pretrained",), "teachers": ("resnet18",)}, []),
        (
            {"teacher_weights": ("pretrained",), "teachers": ("resnet18",), "teacher_epochs": 0},
            ["The teacher was not trained here: Retort"],
        ),
        ({"teacher_weights": ("/a/b.pth",)}, ["The teacher starts from b.pth: Retort"]),
        (
            {"teacher_weights": ("/a/b.pth",), "teacher_epochs": 0},
            ["The teacher starts from b.pth, without training here: Retort"],
        ),
        (
            {"student_weights": "/a/c.pt@0123456789ab"},
            ["The students of every arm start from c.pt: Retort"],
        ),
        ({"student_weights": "pretrained", "students": ("resnet18",)}, []),
    ],
    ids=repr,
)
def test_weights_that_may_have_seen_the_images_are_named(
    data: StudyData, changes: dict, named: list[str]
) -> None:
    found = caveats(replace(data, protocol=replace(data.protocol, **changes)), "may have seen")
    assert len(found) == len(named)
    assert all(text.startswith(start) for text, start in zip(found, named, strict=True))


@pytest.mark.parametrize(
    ("kept", "start"),
    [
        ("float32", None),
        ("float16", "Students learned from the teacher's logits in float16, about 3 digits."),
        (
            "top32",
            "Of the teacher's logits for an image, students learned from the 32 largest, in "
            "float16, and one number for all other classes: their probability together is exact "
            "at temperature 1 and too large above.",
        ),
    ],
)
def test_logits_that_were_not_cached_as_they_are_are_named(
    data: StudyData, kept: str, start: str | None
) -> None:
    told = replace(data, protocol=replace(data.protocol, cache_logits=kept))
    shown = "python study.py verify shows the error."
    assert caveats(told, "logits") == ([f"{start} {shown}"] if start else [])
    live = replace(told, settings=replace(told.settings, cache="none"), cached=None)
    assert caveats(live, "logits") == ([start] if start else [])
    arms = tuple(arm for arm in live.arms if arm.name == "plain")
    plain = replace(live, arms=arms, finalists=())
    assert caveats(plain, "logits") == caveats(plain, "not cached") == []


def test_a_teacher_far_better_on_the_test_split_than_on_validation_is_named(
    data: StudyData,
) -> None:
    parts = {"validation": (100, 100), "test": (200, 200)}
    told = with_teacher(replace(data, class_images=parts, finalists=()), info={"accuracy": 0.7})
    assert caveats(with_teacher(told, test={"accuracy": 0.84}), "standard errors") == []
    [text] = caveats(with_teacher(told, test={"accuracy": 0.9}), "standard errors")
    assert text == (  # pooled 5/6: sqrt(5/36 · (1/200 + 1/400)) = 0.0323
        "The teacher's accuracy is 90.00 % on 400 test images, but 70.00 % on 200 validation "
        "images: 20.00 points, or 6.2 standard errors. It may have seen the test images, or the "
        "two splits differ."
    )
    worse = with_teacher(told, info={"accuracy": 0.9}, test={"accuracy": 0.7})
    assert caveats(worse, "standard errors") == []
    assert caveats(with_teacher(told, test={}), "standard errors") == []
    few = replace(told, class_images={"validation": (2, 3), "test": (200, 200)})
    low = with_teacher(few, info={"accuracy": 0.0}, test={"accuracy": 0.4})
    assert caveats(low, "standard errors") == []


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
    ended = replace(open_one, settings=replace(open_one.settings, timeout=7200.0, planned=30))
    [text] = caveats(ended, "ended by time, after 2 h 00 min")
    assert "13 of 30 trials of scheduled" in text
    command = ["python", "study.py", "--trials=15", "--name", "small"]
    joined = replace(open_one, settings=replace(data.settings, command=command))
    assert caveats(joined, "13 of 15 trials of scheduled")
    silent = replace(open_one, settings=replace(data.settings, command=["python", "study.py"]))
    assert caveats(silent, "is not finished") == []


def test_trials_too_few_for_a_sampler_are_little_tuning(data: StudyData) -> None:
    assert STARTUP_TRIALS == methods.STARTUP_TRIALS
    scheduled, plain = data.arms
    ten = replace(data, arms=(fewer(scheduled, 10), fewer(plain, 10)))
    assert caveats(ten, "Little tuning") == []
    three = replace(data, arms=(fewer(scheduled, 3), fewer(plain, 9)))
    [text] = caveats(three, "Little tuning")
    assert text.startswith("Little tuning: scheduled has 3 trials and plain has 9 trials. ")
    assert caveats(replace(three, finalists=()), "Little tuning") == []


@pytest.mark.parametrize(
    ("size", "caveat"),
    [
        (TRAIN // 2, None),
        (TRAIN // 2 + 1, f"A batch contains {TRAIN // 2 + 1} of {TRAIN} training images"),
        (TRAIN, f"A batch contains all {TRAIN} training images"),
        (4096, f"A batch contains all {TRAIN} training images"),
    ],
)
def test_one_step_an_epoch_is_named(data: StudyData, size: int, caveat: str | None) -> None:
    large = replace(data, protocol=replace(data.protocol, batch_size=size))
    assert caveats(large, "A batch contains") == (
        [] if caveat is None else [f"{caveat}: 1 step per epoch."]
    )


def test_the_edge_of_a_range_states_nothing_below_20_trials(data: StudyData) -> None:
    arm = data.arms[0]
    chosen = data.chosen_trial(arm)
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


def test_the_command_for_wider_ranges_is_the_studys_own_under_another_name(
    data: StudyData,
) -> None:
    arm = data.arms[0]
    chosen = data.chosen_trial(arm)
    edge = replace(
        chosen,
        parameters={"lr": 0.299, "size": 2, "smoothing": 0.1},
        distributions={
            "lr": FloatDistribution(0.01, 0.3, log=True),
            "size": IntDistribution(2, 10),
            "smoothing": FloatDistribution(0, 0.1),
        },
    )
    trials = tuple(edge if one is chosen else one for one in arm.trials)
    words = "python study.py --name small --range lr=0.01:0.3 --range=beta=1:2 --trials 20"
    changed = replace(
        data,
        arms=(replace(arm, trials=trials), data.arms[1]),
        settings=replace(data.settings, command=words.split()),
    )
    text = next(one for one in caveats(changed, "A wider range") if "lr=" in one)
    ours, command = text.split(" Run: ")
    assert ours == "A wider range could contain a better recipe."
    assert command.startswith("python study.py --range beta=1:2 --trials 20 --name small-wider ")
    assert "--range lr=0.01:0.9 --range size=1:10 --range smoothing=0:0.15" in command


def test_a_warm_start_from_a_study_that_read_the_same_test_split_is_named(data: StudyData) -> None:
    assert caveats(data, "began with") == []
    trial = WarmTrial(number=3, space="0", parameters={})
    warm = WarmStart(
        dataset=data.settings.dataset, tested=True, fix=[], trials={"scheduled": trial}
    )
    begun = replace(data, settings=replace(data.settings, warm_start="old", warm=warm))
    start, tested = caveats(begun, "began with")
    assert start == (
        "Scheduled began with tuned recipes of old, and plain without one: the arms did not have "
        "the same start."
    )
    assert tested.startswith("Study old, whose tuned recipes this search began with, was confirmed")
    sealed = replace(begun.settings, warm=replace(warm, tested=False))
    assert caveats(replace(begun, settings=sealed), "was confirmed on this") == []


def test_an_end_that_is_a_limit_of_the_quantity_is_no_edge(data: StudyData) -> None:
    trial = replace(
        data.arms[0].trials[0],
        parameters={"lr": 0.299, "alpha": 1.0, "smoothing": 0.0, "decay": 1e-4, "kind": "a"},
        distributions={
            "lr": FloatDistribution(0.01, 0.3, log=True),
            "alpha": FloatDistribution(0, 1),
            "smoothing": FloatDistribution(0, 0.1),
            "decay": FloatDistribution(1e-4, 2e-3, log=True),
            "kind": CategoricalDistribution(["a", "b"]),
        },
    )
    assert edge_parameters(trial) == {"lr": (0.01, 0.3), "decay": (1e-4, 2e-3)}
    inside = replace(trial, parameters={**trial.parameters, "lr": 0.02, "decay": 5e-4})
    assert edge_parameters(inside) == {}


def test_caveats_name_what_is_known_to_be_weak(findings: Findings, data: StudyData) -> None:
    text = " ".join(findings.caveats)
    assert "The test split has only 449 images" in text
    assert "With 6 seeds" in text
    assert "135 validation images" in text
    assert "1 trial of scheduled failed" in text
    poor = with_teacher(data, scores=np.zeros(80))
    for weaker, caveat in (
        (poor, "no better on the test split"),
        (replace(data, seal=data.seal * 2), "was opened"),
        (replace(data, seal=data.seal[1:]), "is incomplete"),
    ):
        assert caveats(data, caveat) == []
        assert len(caveats(weaker, caveat)) == 1
