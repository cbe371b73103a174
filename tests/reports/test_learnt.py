"""What the search by promotion has learnt, as the report reads and draws it."""

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from conductor.search.promotion import rungs
from kd.errors import ArtifactError
from reports.draw.drawing import Figure
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.read.importances import Importance
from reports.read.learnt import STARTUP_RUNS
from reports.read.trials import ArmData
from reports.wording import Measure, percent
from storage.files.records import Learnt, Plane, SearchRecord
from tests.support.study_fixture import Fabricated, completed, drawn_figures, read_report

RANGES: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.01, 1.0, log=True),
    "mix": FloatDistribution(0.0, 1.0),
    "kind": CategoricalDistribution(["a", "b"]),
    "shape": CategoricalDistribution(["x", "<y>"]),
}
VALUES: dict[str, list[Any]] = {
    "lr": [0.01, 0.1, 1.0],
    "mix": [0.0, 0.5, 1.0],
    "kind": ["a", "b"],
    "shape": ["x", "<y>"],
}


@pytest.fixture
def apart(promoted: Fabricated, tmp_path: Path) -> Fabricated:
    """A copy of the study by promotion, whose record may be changed."""
    shutil.copytree(promoted.layout.root, tmp_path / "runs")
    return replace(promoted, layout=replace(promoted.layout, root=tmp_path / "runs"))


def recorded(made: Fabricated) -> SearchRecord:
    return SearchRecord.read(made.study.search)


def test_importances_and_planes_are_those_of_the_record(apart: Fabricated) -> None:
    for arm in apart.read().arms:
        learnt = recorded(apart).arms[arm.name]
        found = {name: [one.share, one.low, one.high] for name, one in arm.importances.items()}
        assert found == learnt.importances
        assert [*found] == [*learnt.importances]
        assert arm.plane == learnt.plane
        assert arm.trusted is learnt.trusted
        assert arm.importances_note == ""
    shares = {"lr": [0.5, 0.4, 0.6], "weight_decay": [0.1, 0.0, 0.2]}
    other = Learnt(importances=shares, trials=10**6, trusted=False)
    SearchRecord(arms={**recorded(apart).arms, "plain": other}).write(apart.study.search)
    plain = apart.read().arm("plain")
    assert plain is not None
    assert plain.importances["lr"] == Importance(share=0.5, low=0.4, high=0.6)
    assert plain.plane is None
    assert plain.trusted is False


def test_a_study_that_is_still_searching_has_no_importances_and_says_so(apart: Fabricated) -> None:
    assert "what the search has learnt" not in str(apart.read().missing)
    apart.study.search.unlink()
    data = apart.read()
    assert all(arm.importances == {} and arm.plane is None for arm in data.arms)
    assert "what the search has learnt (importances, expected values)" in data.missing
    drawn = drawn_figures(find(data))
    for key in ("importances", "posterior"):
        assert drawn[key].panels == ()
        assert drawn[key].note == (
            "Still searching: what the surrogate has learnt is recorded when the search ends."
        )


def test_an_arm_that_the_record_lacks_had_too_few_runs(apart: Fabricated) -> None:
    assert STARTUP_RUNS == rungs.STARTUP
    arms = recorded(apart).arms
    SearchRecord(arms={"scheduled": arms["scheduled"]}).write(apart.study.search)
    drawn = drawn_figures(find(apart.read()))
    for key in ("importances", "posterior"):
        assert [panel.heading for panel in drawn[key].panels] == ["scheduled"]
        assert drawn[key].note == (
            "plain: The surrogate was last recorded with fewer than 6 runs: too few."
        )


def test_a_record_older_than_the_last_trials_is_said_to_be(apart: Fabricated) -> None:
    arms = recorded(apart).arms
    ended = len(apart.read().arms[0].trials)
    older = replace(arms["scheduled"], trials=ended - 3)
    SearchRecord(arms={**arms, "scheduled": older}).write(apart.study.search)
    scheduled, plain = apart.read().arms
    assert scheduled.importances_note.startswith(
        f"Recorded after {ended - 3} trials; 3 more have ended since."
    )
    assert plain.importances_note == ""


def test_a_damaged_record_is_named(apart: Fabricated) -> None:
    text = apart.study.search.read_text(encoding="utf-8")
    apart.study.search.write_text(text.replace("0.", "1.", 1), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"search\.json"):
        apart.read()


def test_with_a_sampler_the_record_is_not_read(copied: Fabricated, data: StudyData) -> None:
    shares = {"lr": [0.5, 0.4, 0.6]}
    SearchRecord(arms={"plain": Learnt(importances=shares, trials=9, trusted=True)}).write(
        copied.study.search
    )
    found = copied.read()
    assert [arm.importances for arm in found.arms] == [arm.importances for arm in data.arms]
    assert found.missing == data.missing
    assert "posterior" not in drawn_figures(find(found))


def test_each_figure_says_where_its_importances_come_from(
    promotion: Findings, findings: Findings
) -> None:
    by_surrogate = drawn_figures(promotion)["importances"]
    by_trials = drawn_figures(findings)["importances"]
    assert "epsilon squared, Kelley 1935" in by_surrogate.caption
    assert "do not sum to 100 %" in by_surrogate.caption
    assert "PED-ANOVA" not in by_surrogate.caption
    assert "PED-ANOVA" in by_trials.caption
    arm = promotion.data.arms[0]
    row = by_surrogate.tables[0].rows[0]
    name, first = next(iter(arm.importances.items()))
    assert row[:3] == ["scheduled", name, percent(first.share, 1)]


def test_report_json_has_what_was_learnt(promoted: Fabricated, made: Fabricated) -> None:
    for name, learnt in recorded(promoted).arms.items():
        arm = read_report(promoted)["arms"][name]
        assert learnt.plane is not None
        assert arm["expected"] == learnt.plane.to_json()
        assert arm["importances"] == {key: one[0] for key, one in learnt.importances.items()}
        intervals = {key: one[1:] for key, one in learnt.importances.items()}
        assert arm["importance_spreads"] == intervals
    assert read_report(made)["arms"]["plain"]["expected"] is None


def numbers(x: Any) -> list[float]:
    """Decode an array as Plotly's JSON has it."""
    if not isinstance(x, dict):
        return list(map(float, x))
    found: list[float] = np.frombuffer(base64.b64decode(x["bdata"]), x["dtype"]).tolist()
    return found


def arm_of(first: str, second: str, runs: list[dict[str, Any]]) -> tuple[ArmData, NDArray[Any]]:
    """An arm with a plane whose means rise by 0.01 from value to value, and these runs."""
    shape = len(VALUES[second]), len(VALUES[first])
    means = 0.5 + 0.01 * np.arange(np.prod(shape)).reshape(shape)
    plane = Plane(
        names=[first, second], values=[VALUES[first], VALUES[second]], means=means.tolist()
    )
    trials = tuple(
        completed(
            number,
            0.5 + 0.1 * number,
            run=number,
            parameters=parameters,
            distributions={name: RANGES[name] for name in parameters},
        )
        for number, parameters in enumerate(runs)
    )
    arm = ArmData(name="scheduled", trials=trials, importances={}, importances_note="", plane=plane)
    return arm, means


def drawn_of(data: StudyData, arm: ArmData) -> tuple[Figure, dict[str, Any], list[Any]]:
    """The figure of one arm, before the confirmation: its layout and its traces."""
    figure = drawn_figures(find(replace(data, arms=(arm,), finalists=())))["posterior"]
    [panel] = figure.panels
    assert len(json.dumps(panel.plot, default=lambda one: one.to_plotly_json())) > 100
    return figure, panel.plot["layout"], panel.plot["data"]


def test_numbers_have_cells_between_their_neighbours_on_the_scale_of_their_range(
    promotion: Findings,
) -> None:
    runs = [{"lr": 0.02, "mix": 0.1}, {"lr": 0.5, "mix": 0.9}, {"lr": 0.3}]
    arm, means = arm_of("lr", "mix", runs)
    figure, layout, (heat, dots, best) = drawn_of(promotion.data, arm)
    assert numbers(heat["x"]) == pytest.approx([0.01, 10**-1.5, 10**-0.5, 1.0])
    assert numbers(heat["y"]) == pytest.approx([0.0, 0.25, 0.75, 1.0])
    assert np.asarray(heat["z"]) == pytest.approx(100 * means)
    assert (layout["xaxis"]["type"], layout["yaxis"].get("type")) == ("log", None)
    # the third run, the best, lacks the second parameter
    assert sorted(zip(numbers(dots["x"]), numbers(dots["y"]), strict=True)) == [
        (0.02, 0.1),
        (0.5, 0.9),
    ]
    assert numbers(best["x"]) == []
    _, _, (_, _, best) = drawn_of(promotion.data, replace(arm, trials=arm.trials[:2]))
    assert (numbers(best["x"]), numbers(best["y"])) == ([0.5], [0.9])
    assert list(best["customdata"]) == ["best recipe so far of scheduled (trial 1): 60.00 %"]
    assert figure.title == (
        "Expected accuracy: 50.0 to 58.0 % in scheduled, the most at lr 1 and mix 1"
    )


def test_a_choice_has_rows_whichever_of_the_two_it_is(promotion: Findings) -> None:
    runs = [{"lr": 0.02, "kind": "b"}, {"lr": 0.02, "kind": "b"}]
    for names in (("lr", "kind"), ("kind", "lr")):
        arm, means = arm_of(*names, runs)
        table, layout, (heat, dots, _) = drawn_of(promotion.data, arm)
        rows = means if names[0] == "lr" else means.T
        assert np.asarray(heat["z"]) == pytest.approx(100 * rows)
        assert numbers(heat["y"]) == [-0.5, 0.5, 1.5]
        assert list(layout["yaxis"]["ticktext"]) == ["a", "b"]
        assert layout["xaxis"]["type"] == "log"
        assert (numbers(dots["x"]), numbers(dots["y"])) == ([0.02, 0.02], [1, 1])
        [cells] = table.tables
        assert cells.columns[1:] == ["kind", "expected accuracy, %, at lr 0.01", "0.1", "1"]
        assert [row[:2] for row in cells.rows] == [["scheduled", "a"], ["scheduled", "b"]]
        assert cells.rows[1][2:] == [f"{100 * mean:.2f}" for mean in rows[1]]


def test_runs_with_the_same_two_choices_lie_side_by_side_in_their_cell(
    promotion: Findings,
) -> None:
    same = {"kind": "b", "shape": "x"}
    arm, _ = arm_of("kind", "shape", [same, same, {"kind": "a", "shape": "<y>"}])
    _, layout, (heat, dots, _) = drawn_of(promotion.data, arm)
    x, y = numbers(dots["x"]), numbers(dots["y"])
    places = {
        int(re.findall(r"trial (\d)", text)[0]): place
        for text, place in zip(dots["customdata"], zip(x, y, strict=True), strict=True)
    }
    assert places[2] == (0, 1)
    assert places[0][0] < 1 < places[1][0]
    assert all(abs(across - 1) < 0.5 and up == 0 for across, up in (places[0], places[1]))
    assert list(layout["yaxis"]["ticktext"]) == ["x", "&lt;y&gt;"]
    assert not any("<y>" in text for row in heat["text"] for text in row)


def test_a_parameter_that_no_trial_has_is_drawn_by_its_values(promotion: Findings) -> None:
    arm, _ = arm_of("lr", "mix", [{"lr": 0.02}])
    _, layout, (_, dots, _) = drawn_of(promotion.data, arm)
    assert list(layout["yaxis"]["ticktext"]) == ["0.0", "0.5", "1.0"]
    assert numbers(dots["x"]) == []


def test_a_metric_that_is_no_share_has_the_scale_of_the_search(
    promotion: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Measure(name="loss", unit="nats", worst=-9.0, best=0.0, lower=True)
    monkeypatch.setattr("reports.read.data.measure", lambda metric: loss)
    arm, means = arm_of("lr", "mix", [{"lr": 0.02, "mix": 0.5}])
    figure, _, (heat, *_) = drawn_of(promotion.data, arm)
    assert np.asarray(heat["z"]) == pytest.approx(means)  # the sign is not turned back
    assert "no unit, and higher is better" in figure.caption
    assert figure.title == "Where the search expects most: lr 1 and mix 1 in scheduled"
    assert figure.tables[0].columns[2] == "expected, scale of the search, at lr 0.01"
    assert figure.tables[0].rows[0][2] == "0.500"
    for text in (heat["hovertemplate"], heat["colorbar"]["title"]["text"], figure.panels[0].alt):
        assert "nats" not in text


def test_the_figure_says_that_it_is_no_measurement(promotion: Findings) -> None:
    figure = drawn_figures(promotion)["posterior"]
    assert figure.caption.startswith("Not a measurement: the expected value of the search's")
    assert [panel.heading for panel in figure.panels] == ["scheduled", "plain"]
    assert len(figure.tables) == 2
    for arm, panel in zip(promotion.data.arms, figure.panels, strict=True):
        _, dots, tuned = panel.plot["data"]
        assert arm.plane is not None
        names = set(arm.plane.names)
        assert len(numbers(dots["x"])) == sum(names <= {*one.parameters} for one in arm.completed)
        assert re.match(rf"tuned recipe of {arm.name} \(trial \d+\): ", tuned["customdata"][0])
