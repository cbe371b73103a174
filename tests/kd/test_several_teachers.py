"""Several teachers as one: shares of their logits, the features of one, and their protocol."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd.ablations import ablations
from kd.errors import ProtocolError
from kd.models.taps import TapReading
from kd.recipe import Recipe
from kd.training.several_teachers import AveragedTeacher
from kd.training.teacher import TeacherReading
from tests.support.small import DISTILLED, PLAIN, protocol

LOGITS = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


class Known:
    """A source whose logits of every batch, and of the validation split, are known."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.validation_logits = LOGITS[place]
        self.asked: list[tuple[str, ...]] = []

    def read(self, view: int, index: Tensor, images: Tensor, taps: Sequence[str]) -> TeacherReading:
        self.asked.append(tuple(taps))
        features = torch.full((5, 2, 1, 1), float(self.place))
        one = TapReading(features=features, attention=torch.ones(5, 1, 1), variance=1.0)
        return TeacherReading(10 * LOGITS[self.place], dict.fromkeys(taps, one))


def read(shares: list[float]) -> tuple[AveragedTeacher, list[Known], TeacherReading]:
    known = [Known(place) for place in range(len(shares))]
    teacher = AveragedTeacher(known, shares)
    return teacher, known, teacher.read(0, torch.arange(5), torch.empty(0), ["last1"])


@pytest.mark.parametrize("shares", [[0.25, 0.75], [0.2, 0.5, 0.3]])
def test_logits_are_averaged_by_the_shares(shares: list[float]) -> None:
    teacher, _, reading = read(shares)
    expected = np.average(np.stack(LOGITS[: len(shares)]).astype(float), axis=0, weights=shares)
    np.testing.assert_allclose(reading.logits.numpy(), 10 * expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(teacher.validation_logits.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shares", "lead"), [([0.25, 0.75], 1), ([0.5, 0.5], 0), ([0.2, 0.4, 0.4], 1)]
)
def test_features_are_those_of_the_largest_share_the_first_of_equals(
    shares: list[float], lead: int
) -> None:
    _, known, reading = read(shares)
    assert (reading.taps["last1"].features == lead).all()
    assert [one.asked for one in known] == [
        [("last1",)] if place == lead else [()] for place in range(len(shares))
    ]
    assert Recipe(soft_kind="kl", teacher_shares=tuple(shares)).lead(len(shares)) == lead


def test_a_recipe_without_shares_has_equal_ones() -> None:
    assert DISTILLED.shares(1) == (1.0,)
    assert DISTILLED.shares(4) == (0.25,) * 4


@pytest.mark.parametrize(
    ("recipe", "shares", "message"),
    [
        ("DISTILLED", (0.5, 0.6), "teacher_shares must have the sum 1, got (0.5, 0.6)"),
        ("DISTILLED", (1.5, -0.5), "teacher_shares must lie in 0-1, got (1.5, -0.5)"),
        ("PLAIN", (0.5, 0.5), "teacher_shares need a soft or a feature loss, got (0.5, 0.5)"),
    ],
)
def test_shares_that_are_none_are_refused(
    recipe: str, shares: tuple[float, ...], message: str
) -> None:
    base = {"DISTILLED": DISTILLED, "PLAIN": PLAIN}[recipe].to_json()
    with pytest.raises(ProtocolError, match=f"^{re.escape(message)}$"):
        Recipe.from_json({**base, "teacher_shares": list(shares)})


def test_the_shares_of_other_teachers_are_refused() -> None:
    recipe = Recipe(soft_kind="kl", teacher_shares=(0.5, 0.5))
    with pytest.raises(ProtocolError, match=r"^teacher_shares must be 3, got \(0.5, 0.5\)$"):
        recipe.shares(3)


def test_an_ablation_that_does_not_distil_has_no_shares() -> None:
    recipe = Recipe.from_json({**DISTILLED.to_json(), "teacher_shares": [0.3, 0.7]})
    assert not ablations(recipe, PLAIN)["without soft loss"].teacher_shares
    assert ablations(recipe, PLAIN)["with constant alpha"].teacher_shares == (0.3, 0.7)


def test_teachers_have_roles_and_labels() -> None:
    names, weights = ("resnet8", "resnet14", "resnet8"), ("none", "none", "a.pth")
    given = protocol(teachers=names, teacher_weights=weights)
    assert given.teacher_roles == ("teacher", "teacher 2", "teacher 3")
    assert given.teacher_labels == ("resnet8", "resnet14", "resnet8#2")
    assert given.models == ("resnet8", "resnet14", "resnet8", *given.students)


def test_one_of_the_teachers_alone_is_that_of_a_study_with_it() -> None:
    several = protocol(teachers=("resnet8", "resnet14"), teacher_weights=("none", "a.pth"))
    alone = protocol(teachers=("resnet14",), teacher_weights=("a.pth",))
    assert several.with_teacher(1) == alone
    both = protocol(teachers=("resnet8", "resnet14"), teacher_weights=("none", "none"))
    assert both == protocol(teachers=("resnet8", "resnet14"))  # one spelling
    assert both.each_weights == ("none", "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ()}, "teachers must be 1 to 8"),
        ({"teachers": ("resnet8",) * 9}, "teachers must be 1 to 8"),
        (
            {"teachers": ("resnet8", "resnet8")},
            "teachers must differ, got resnet8 twice; give",
        ),
        (
            {"teacher_weights": ("a.pth", "b.pth")},
            "teacher_weights must be given once, or once for each teacher",
        ),
        (
            {"teachers": ("resnet18", "resnet20"), "teacher_weights": ("pretrained",)},
            "there are no ImageNet weights for resnet20; use --teacher-weights none",
        ),
        (
            {
                "teachers": ("resnet8", "resnet14"),
                "teacher_weights": ("a.pth", "none"),
                "teacher_epochs": 0,
            },
            "a teacher needs weights or training, got resnet14",
        ),
    ],
)
def test_teachers_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{re.escape(message)}"):
        protocol(**changes)
