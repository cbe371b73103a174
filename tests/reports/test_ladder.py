"""The ablation ladder of a fabricated study."""

from dataclasses import replace

import numpy as np
import pytest

from reports.compute.findings import find
from reports.compute.ladder import compare_ablations
from reports.draw.figures import ablations
from reports.read.collect import collect
from reports.read.data import StudyData
from reports.statistics import holm
from tests.support.study_fixture import Plan, fabricate

PLAN = Plan(name="small", trials=12, epochs=4, images=80, ablated=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    study = fabricate(tmp_path_factory.mktemp("study"), PLAN)
    return collect(study.layout, study.name, study.url)


def test_an_ablation_is_compared_with_its_winner_seed_by_seed(data: StudyData) -> None:
    winner = data.tuned("scheduled")
    assert winner is not None
    ladder = compare_ablations(data)
    assert {step.one.finalist.title for step in ladder} == {
        "without feature loss",
        "with default optimizer",
    }
    for step in ladder:
        expected = np.array(step.one.values) - np.array(winner.values)
        assert step.winner is winner
        assert step.difference.per_seed == pytest.approx(expected.tolist())


def test_the_ladder_is_corrected_as_one_and_begins_with_the_worst(data: StudyData) -> None:
    ladder = compare_ablations(data)
    means = [step.difference.mean for step in ladder]
    assert means == sorted(means)
    assert [step.p_holm for step in ladder] == holm([step.difference.p for step in ladder])


def test_neither_verdict_nor_comparisons_nor_optimism_see_an_ablation(data: StudyData) -> None:
    without = replace(data, finalists=data.contenders)
    assert len(without.finalists) == len(data.finalists) - 2
    ours, theirs = find(data), find(without)
    assert ours.verdict == theirs.verdict
    assert ours.comparisons == theirs.comparisons
    assert ours.optimism == theirs.optimism
    assert ours.standings == theirs.standings


def test_below_six_pairs_there_is_no_ladder(data: StudyData) -> None:
    fewer = replace(
        data, finalists=tuple(replace(one, runs=one.runs[:5]) for one in data.finalists)
    )
    assert compare_ablations(fewer) == ()
    figure = ablations.draw(find(fewer))
    assert not figure.panels
    assert "not on six seeds" in figure.note


def test_the_title_says_how_many_parts_matter_and_then_what_changes_the_winner_most(
    data: StudyData,
) -> None:
    findings = find(data)
    ladder = findings.ablations
    sure = [step for step in ladder if step.p_holm < 0.05] or list(ladder)
    most = max(sure, key=lambda step: abs(step.difference.mean))
    title = ablations.draw(findings).title
    count = sum(step.p_holm < 0.05 for step in ladder) or "None"
    assert title.startswith(f"{count} of 2 ablations make")
    assert f"; {most.one.finalist.title} the winner changes most" in title
    assert f"{abs(100 * most.difference.mean):.2f} points" in title


def test_a_study_without_ablations_says_how_to_run_them(data: StudyData) -> None:
    figure = ablations.draw(find(replace(data, finalists=data.contenders)))
    wanted = "--name small --ablate --seeds 6"
    assert figure.note.endswith(f"python study.py confirm --root {data.root} {wanted}")
