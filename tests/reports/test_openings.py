"""A report names the other studies of its test split, and a search that went on after a look."""

from dataclasses import replace
from pathlib import Path

import pytest

from reports.caveats.openings import of_choices, of_others, of_several, repeated_claims
from reports.draw.side_by_side import compare_studies
from reports.findings import find
from reports.read.data import StudyData
from reports.write.summary import summarise
from storage.files.seal import (
    Choice,
    Opener,
    OtherStudies,
    SplitIdentity,
    read_seal,
    record_opener,
)
from tests.support.study_fixture import Fabricated

SPLIT = SplitIdentity(images="i", rows="r", data="d", dataset="digits")


def opener(data: StudyData, name: str, root: str = "") -> Opener:
    root = root or data.root
    return Opener(study=name, name=name, root=root, split=SPLIT, first="1", last="2")


def beside(data: StudyData, *same: str, overlapping: tuple[str, ...] = ()) -> StudyData:
    """The study among others that opened its test split, or another one of its data."""
    others = OtherStudies(
        study=data.name,
        same=tuple(opener(data, name) for name in same),
        overlapping=tuple(opener(data, name) for name in overlapping),
    )
    return replace(data, others=others)


def test_repeated_attempts_claim_more_often_than_one() -> None:
    shares = [round(100 * repeated_claims(count)) for count in (1, 2, 3, 5)]
    assert shares == [8, 15, 22, 34]


def test_the_only_study_of_a_test_split_has_no_such_limitation(data: StudyData) -> None:
    assert data.others.all == ()
    assert not list(of_others(data))
    assert not list(of_choices(data))
    assert summarise(find(data))["other_studies"] == {
        "same_test_split": [],
        "overlapping": [],
        "false_claims": None,
    }


def test_other_studies_of_the_test_split_are_named_with_the_rate(data: StudyData) -> None:
    shared = beside(data, "wide", "narrow")
    [text] = of_others(shared)
    assert text == (
        "This test split was opened by 2 other studies too: wide and narrow. Where distillation "
        "changes nothing, one or more of 3 independent studies with a single search per arm claims "
        "a difference in about 22 % of all cases."
    )
    assert text in find(shared).caveats
    told = summarise(find(shared))["other_studies"]
    assert [one["name"] for one in told["same_test_split"]] == ["wide", "narrow"]
    assert told["false_claims"] == pytest.approx(1 - 0.92**3)


def test_another_split_of_the_same_data_counts_and_is_told_apart(data: StudyData) -> None:
    [text] = of_others(beside(data, "wide", overlapping=("redrawn",)))
    assert text.startswith(
        "This test split was opened by 1 other study too: wide. Another test split of the same "
        "data was opened by 1 other study: redrawn. Some of its images may be the same. Where "
    )
    assert "one or more of 3 independent" in text
    [text] = of_others(beside(data, overlapping=("redrawn",)))
    assert text.startswith("Another test split of the same data was opened by 1 other study: red")
    assert "about 15 %" in text


def test_few_of_many_names_are_listed_and_those_of_other_roots_with_their_root(
    data: StudyData,
) -> None:
    [text] = of_others(beside(data, *"abcdefgh"))
    assert " 8 other studies too: a, b, c, d, e and 3 more. " in text
    others = OtherStudies(
        study="x", same=(opener(data, "a", "/elsewhere"), opener(data, data.name))
    )
    [text] = of_others(replace(data, others=others))
    assert f": a in /elsewhere and an earlier {data.name}. " in text


def test_the_record_beside_the_data_reaches_the_report(copied: Fabricated, tmp_path: Path) -> None:
    data = copied.read()
    folder = copied.layout.dataset(data.settings.dataset)
    split = SplitIdentity(images="another", rows="another", data="another", dataset="digits")
    record_opener(folder, split, copied.study.seal, read_seal(copied.study.seal).study)
    record_opener(folder, split, copied.layout.study("redrawn").seal, "b")
    found = copied.read().others
    assert [one.name for one in found.overlapping] == ["redrawn"]
    assert found.same == ()


def choice(trials: int, tuned: int, opened: int, **more: int) -> Choice:
    arms = {"scheduled": trials, "plain": trials, **more}
    folders = {arm: f"{arm}-{tuned if arm == 'scheduled' else 1:05d}" for arm in arms}
    return Choice(time="1", opened=opened, trials=arms, tuned=folders)


def test_a_search_that_went_on_after_the_test_split_was_opened_is_a_second_look(
    data: StudyData,
) -> None:
    grown = replace(data, choices=(choice(20, 3, 0), choice(40, 30, 31)))
    [text] = of_choices(grown)
    assert text == (
        "The finalists were chosen anew after the test split had been opened: scheduled from 20 to "
        "40 trials and plain from 20 to 40 trials. Of scheduled it is another recipe now. This is "
        "a further look at the same images. Where distillation changes nothing, one or more of 2 "
        "independent studies with a single search per arm claims a difference in about 15 % of all "
        "cases."
    )
    assert text in find(grown).caveats
    assert summarise(find(grown))["choices"][1]["opened"] == 31
    thrice = replace(grown, choices=(*grown.choices, choice(60, 50, 62)))
    assert "from 20 to 60 trials" in "".join(of_choices(thrice))
    assert "one or more of 3 independent" in "".join(of_choices(thrice))


def test_a_search_that_went_on_and_chose_the_same_recipes_is_told(data: StudyData) -> None:
    [text] = of_choices(replace(data, choices=(choice(20, 3, 0), choice(40, 3, 31))))
    assert text.endswith(
        "plain from 20 to 40 trials. The tuned recipes are those of the first choice."
    )
    [text] = of_choices(replace(data, choices=(choice(20, 3, 0), choice(20, 3, 31, constant=20))))
    assert text.startswith("The finalists were chosen anew after the test split had been opened: c")
    assert "constant was added." in text
    early = replace(data, choices=(choice(20, 3, 0), choice(40, 30, 0)))  # nothing was opened
    assert not list(of_choices(early))


def test_studies_side_by_side_on_one_test_split_are_told_with_those_that_are_not_shown(
    data: StudyData,
) -> None:
    one = beside(data, "two", "hidden")
    two = beside(replace(data, name="two"), data.name, "hidden")
    [text] = of_several([one, two])
    assert text == (
        f"One test split was opened by {data.name}, two and hidden. Where distillation changes "
        "nothing, one or more of 3 independent studies with a single search per arm claims a "
        "difference in about 22 % of all cases."
    )
    page = compare_studies([find(one), find(two)])
    assert text.removesuffix(".") in page.warnings
    redrawn = beside(replace(data, name="two"), overlapping=(data.name,))
    [text] = of_several([beside(data, overlapping=("two",)), redrawn])
    assert text.startswith(f"Test splits of the same data were opened by {data.name} and two. ")


def test_studies_side_by_side_on_different_data_are_told_apart(data: StudyData) -> None:
    alone = replace(beside(data), name="alone")
    shared = beside(replace(data, name="shared"), "hidden")
    [text] = of_several([replace(alone, others=OtherStudies(study="alone")), shared])
    assert text.startswith("One test split was opened by shared and hidden. ")
    assert not list(of_several([alone]))
    unopened = replace(data, others=OtherStudies(same=(opener(data, "x"),)))
    assert not list(of_several([unopened]))  # one study has opened it
