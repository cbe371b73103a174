"""Figures of costs, fidelity and slices; what holds for all figures is tested with the page."""

import base64
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution

from kd.recipe import Recipe
from reports.compute.findings import find
from reports.draw import figures
from reports.draw.drawing import Panel, log_axis
from reports.draw.figures import calibration, costs, fidelity, loss, optimism, schedules, slices
from reports.draw.figures.slices import best_tenth
from reports.draw.shared import completed
from reports.read.collect import collect
from reports.read.data import ArmData, StudyData, TrialData
from reports.read.importances import Importance
from reports.statistics import paired_difference
from reports.wording import interval, points
from reports.write.page import render_page
from storage.files.records import Costs, RunRecord
from tests.support.study_fixture import Plan, fabricate

PLAN = Plan(name="small", trials=12, epochs=4, images=80)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    study = fabricate(tmp_path_factory.mktemp("study"), PLAN)
    return collect(study.layout, study.name, study.url)


def dots_of(panel: Panel) -> dict[str, tuple[float, float]]:
    """Return x and y of every trace that is a single named dot."""
    return {
        trace["name"]: (trace["x"][0], trace["y"][0])
        for trace in panel.plot["data"]
        if trace.get("name") and len(trace["x"]) == 1
    }


def test_costs_are_those_measured_and_equal_students_share_their_mean_latency(
    data: StudyData,
) -> None:
    latency, parameters = costs.draw(find(data)).panels
    found = dots_of(latency)
    assert found["teacher (resnet14)"][0] == pytest.approx(0.6 * 5.1)
    assert found["scheduled: tuned"][0] == pytest.approx(0.6 * (1 + 1.012) / 2)
    assert found["plain: tuned"][0] == found["scheduled: tuned"][0]
    assert dots_of(parameters)["plain: defaults"][0] == 5242
    tuned = data.tuned("scheduled")
    assert tuned is not None
    assert found["scheduled: tuned"][1] == pytest.approx(100 * np.mean(tuned.values))


def test_the_title_of_costs_says_how_much_smaller_and_faster_the_student_is(
    data: StudyData,
) -> None:
    title = costs.draw(find(data)).title
    assert "1/33.4 of the teacher's parameters" in title  # 174,970 / 5,242
    assert "5.1 times as fast" in title
    tuned = data.tuned("scheduled")
    assert tuned is not None
    assert data.teacher_scores is not None
    correct = np.stack([run.correct for run in tuned.runs if run.correct is not None])
    gap = paired_difference(correct, np.broadcast_to(data.teacher_scores, correct.shape))
    within = f"(95 % interval {interval(gap.low, gap.high)})"
    assert gap.low < 0 < gap.high
    chance = f"within chance of it: {points(gap.mean, sign=True)} points {within}"
    assert title.endswith(chance)
    always = replace(data, teacher_scores=np.ones_like(data.teacher_scores))
    below = 1 - np.mean(tuned.values)
    assert (
        f"and is {points(below)} points below it (95 % interval " in costs.draw(find(always)).title
    )
    assert not costs.draw(find(replace(data, costs=None))).panels


def with_students(data: StudyData) -> StudyData:
    """The first trials train a second, smaller student."""
    assert data.costs is not None
    small = replace(data.costs.models["plain"], model="resnet8-w0.125", parameters=1384)
    arms = []
    for arm in data.arms:
        trials = [
            replace(trial, record=replace(trial.record, recipe=named(trial.record)))
            if trial.record and trial.number % 2
            else trial
            for trial in arm.trials
        ]
        arms.append(replace(arm, trials=tuple(trials)))
    return replace(
        data,
        arms=tuple(arms),
        protocol=replace(data.protocol, students=("resnet8-w0.25", "resnet8-w0.125")),
        costs=Costs(device="cpu", threads=1, models={**data.costs.models, "resnet8-w0.125": small}),
    )


def named(record: RunRecord) -> Recipe:
    return replace(record.recipe, student="resnet8-w0.125")


def test_of_several_students_each_ones_best_trial_is_drawn_by_its_size(data: StudyData) -> None:
    several = with_students(data)
    figure = costs.draw(find(several))
    table = figure.tables[1]
    expected = {}
    for arm in several.arms:
        for place, student in enumerate(("resnet8-w0.25", "resnet8-w0.125")):
            best = next(one for one in completed(arm) if one.number % 2 == place)
            expected[student, arm.name] = str(best.number)
    assert {(row[0], row[1]): row[3] for row in table.rows} == expected
    dots = figure.panels[2].plot["data"][1:]
    assert {trace["x"][0] for trace in dots} == {5242, 1384}
    assert len(costs.draw(find(data)).tables) == 1


def test_fidelity_is_drawn_seed_by_seed_and_epoch_by_epoch(data: StudyData) -> None:
    seeds, epochs = fidelity.draw(find(data)).panels
    drawn = [len(trace["x"]) for trace in seeds.plot["data"] if "customdata" in trace]
    assert drawn == [6] * 5
    (first, _) = epochs.plot["data"]
    tuned = data.tuned("scheduled")
    assert tuned is not None
    trial = data.arms[0].trials[tuned.finalist.trial]
    assert list(first["y"]) == [100 * (epoch.agreement or 0) for epoch in trial.history]
    nothing = replace(data, finalists=())
    assert not fidelity.draw(find(nothing)).panels


def test_the_recipe_drawn_is_called_the_tuned_one_and_before_confirmation_the_best_so_far(
    data: StudyData,
) -> None:
    tuned = data.tuned("scheduled")
    assert tuned is not None
    named = f"tuned recipe of scheduled (trial {tuned.finalist.trial})"
    for figure in (schedules.draw(find(data)), loss.draw(find(data))):
        assert f"he {named} " in figure.title
        assert "best" not in figure.title
    best = data.arms[0].best
    assert best is not None
    early = schedules.draw(find(replace(data, finalists=())))
    assert f"best recipe so far of scheduled (trial {best.number})" in early.title


def test_the_change_from_search_to_fresh_seeds_has_its_unit_at_its_first_number(
    data: StudyData,
) -> None:
    findings = find(data)
    first, second = findings.optimism
    changed = (
        replace(first, searched=0.9, confirmed=0.8778),
        replace(second, searched=0.9, confirmed=0.9111),
    )
    title = optimism.draw(replace(findings, optimism=changed)).title
    assert title.endswith("moved by −2.22 points for scheduled and +1.11 for plain")


def trial(number: int, value: float, **parameters: float | str) -> TrialData:
    kinds = CategoricalDistribution(["a", "b"])
    return TrialData(
        arm="scheduled",
        number=number,
        state="COMPLETE",
        value=value,
        parameters=parameters,
        distributions={
            name: kinds if name == "kind" else FloatDistribution(0.01, 1, log=name == "lr")
            for name in parameters
        },
        values={1: value},
        diverged=False,
        auditor=False,
        cut_epoch=None,
        reason="",
        started=None,
        seconds=None,
        record=None,
    )


def by_hand() -> ArmData:
    """Eleven trials, the best two of which have lr 0.1 and 0.2."""
    trials = [trial(n, 0.5 + 0.01 * n, lr=0.01 * (n + 1), kind="a") for n in range(9)]
    trials += [trial(9, 0.9, lr=0.1, kind="a"), trial(10, 0.8, lr=0.2, momentum=0.5, kind="b")]
    share = Importance(share=1.0, low=0.5, high=1.0)
    importances = {"lr": share}
    return ArmData(
        name="scheduled", trials=tuple(trials), importances=importances, importances_note=""
    )


def test_the_best_tenth_is_rounded_up() -> None:
    arm = by_hand()
    assert [one.number for one in best_tenth(arm)] == [9, 10]
    fewer = replace(arm, trials=arm.trials[:10])
    assert [one.number for one in best_tenth(fewer)] == [9]


def test_slices_say_where_the_best_tenth_lies(data: StudyData) -> None:
    figure = slices.draw(find(replace(data, arms=(by_hand(),), finalists=())))
    assert "best 2 of 11 scheduled trials: lr 0.1 to 0.2" in figure.title
    rows = {row[1]: row for row in figure.tables[0].rows}
    assert rows["lr"][2:5] == ["0.01 to 1, log", "0.1 to 0.2", "0.1"]
    assert rows["kind"][2:5] == ["a, b", "a or b", "a"]
    assert rows["momentum"][3:5] == ["0.5", "–"]


def values(encoded: dict[str, str]) -> NDArray[np.generic]:
    """Decode an array as Plotly's JSON has it."""
    return np.frombuffer(base64.b64decode(encoded["bdata"]), encoded["dtype"])


def test_slices_draw_every_completed_trial_the_weightiest_parameter_first(
    data: StudyData,
) -> None:
    figure = slices.draw(find(replace(data, arms=(by_hand(),), finalists=())))
    assert [panel.heading for panel in figure.panels] == ["lr", "kind", "momentum"]
    counts = [values(panel.plot["data"][0]["y"]).shape for panel in figure.panels]
    assert counts == [(11,), (11,), (1,)]
    lrs = values(figure.panels[0].plot["data"][0]["x"])
    assert lrs == pytest.approx([one.parameters["lr"] for one in completed(by_hand())])
    assert [panel.plot["layout"]["xaxis"].get("type") for panel in figure.panels] == [
        "log",
        "category",
        None,
    ]


@pytest.mark.parametrize(
    ("low", "high"), [(0.01, 0.3), (1, 10), (1384, 272_186), (0.28, 1.14), (1e-3, 10), (5, 5)]
)
def test_a_logarithmic_axis_has_a_few_round_ticks(low: float, high: float) -> None:
    made = log_axis("", low, high)
    start, end = made["range"]
    assert 10**start < low <= high < 10**end
    assert 1 <= len(made["tickvals"]) == len(made["ticktext"]) <= 7
    assert all(start <= np.log10(tick) <= end for tick in made["tickvals"])


def test_calibration_counts_every_prediction_and_compares_confidence_with_accuracy(
    data: StudyData,
) -> None:
    drawn = calibration.draw(find(data))
    assert drawn is not None
    tuned = data.tuned("plain")
    assert tuned is not None
    rows = [row for row in drawn.tables[0].rows if row[0] == "plain: tuned"]
    assert sum(int(row[1]) for row in rows) == len(tuned.tested) * data.test_images
    confidence = np.concatenate(
        [run.confidence for run in tuned.tested if run.confidence is not None]
    )
    excess = confidence.mean() - np.mean(tuned.values)
    assert drawn.title.endswith(f"{points(float(excess), sign=True, digits=1)} for plain")
    assert calibration.draw(find(replace(data, finalists=()))) is None


ADDED = """
\"\"\"How many trials each arm has.\"\"\"
from reports.draw.drawing import Figure, Table

GROUP = "{group}"
ORDER = 35

def draw(findings):
    rows = [[arm.name, str(len(arm.trials))] for arm in findings.data.arms]
    if not findings.data.finalists:
        return None
    return Figure(
        key="counts", name="Trials by arm", title="Two arms",
        tables=[Table(columns=["arm", "trials"], rows=rows)],
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder of figures."""
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("reports.draw.figures.counts", None)


@pytest.mark.parametrize(("group", "before"), [("Search", "slices"), ("Else", None)])
def test_a_figure_is_added_by_its_file_alone(
    data: StudyData, folder: Path, group: str, before: str | None
) -> None:
    (folder / "counts.py").write_text(ADDED.format(group=group))
    keys = [one.key for one in figures.draw_figures(find(data))[group]]
    place = keys.index("counts")
    assert (keys[place - 1] if place else None) == before
    page = render_page(find(data))
    assert f"<span>{group}</span>" in page
    assert '<a href="#counts">Trials by arm</a>' in page
    assert '<section id="counts">' in page
    assert '"#counts"' not in render_page(find(replace(data, finalists=())))


def test_every_figure_says_its_group_and_no_two_share_a_place() -> None:
    modules = [figures.FIGURES.load(name) for name in figures.FIGURES.names]
    places = [(module.GROUP, module.ORDER) for module in modules]
    assert {group for group, _ in places} == set(figures.GROUPS)
    assert len(set(places)) == len(places)
