"""Figures: what holds for all of them, and what each draws."""

import base64
import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution

from kd import schedules
from kd.recipe import Recipe, Schedule
from reports.draw import figures
from reports.draw.drawing import Figure, Panel, log_axis, ticks
from reports.draw.figures.loss import loss_shares
from reports.draw.figures.slices import best_tenth
from reports.draw.palette import recolouring
from reports.draw.tables import comparison_table, provenance_table
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.read.importances import Importance
from reports.read.trials import ArmData, TrialData
from reports.statistics import paired_difference
from reports.wording import Measure, points
from reports.write.page import render_page
from reports.write.summary import summarise
from storage.files.records import Costs, RunRecord
from tests.support.study_fixture import completed, drawn_figures, with_teacher

NAMES = figures.FIGURES.names
BY_PROMOTION = ("posterior", "rungs")  # figures of a search by promotion alone


@pytest.fixture(scope="module")
def drawn(findings: Findings) -> dict[str, Figure]:
    return drawn_figures(findings)


@pytest.fixture(scope="module")
def empty(data: StudyData) -> dict[str, Figure]:
    """The figures of a study before its first trial."""
    arms = tuple(replace(arm, trials=(), importances={}, importances_note="-") for arm in data.arms)
    return drawn_figures(find(replace(data, arms=arms, finalists=(), costs=None)))


def test_every_figure_states_its_group_and_no_two_share_a_place(drawn: dict[str, Figure]) -> None:
    modules = [figures.FIGURES.load(name) for name in NAMES]
    places = [(module.GROUP, module.ORDER) for module in modules]
    assert {group for group, _ in places} == set(figures.GROUPS)
    assert len(set(places)) == len(places)
    keys = [panel.key for figure in drawn.values() for panel in figure.panels]
    assert len(set(keys)) == len(keys)
    assert len(set(recolouring().values())) == len(recolouring())  # dark colours differ too


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_states_its_finding_with_text_and_tables_behind_it(
    drawn: dict[str, Figure], promotion: Findings, name: str
) -> None:
    if name in BY_PROMOTION:
        assert name not in drawn
        drawn = drawn_figures(promotion)
    figure = drawn[name]
    assert figure.name == figures.FIGURES.load(name).NAME
    assert re.search(r"\d|overlap", figure.title), figure.title
    assert figure.caption
    assert figure.tables
    assert figure.panels
    assert all(panel.alt and panel.key.startswith(name) for panel in figure.panels)
    assert all(picture.alt for gallery in figure.galleries for picture in gallery.pictures)
    for table in figure.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    for panel in figure.panels:
        assert set(colours_of(json.loads(json.dumps(panel.plot, default=plain)))) <= DARK


DARK = set(recolouring())


def plain(value: Any) -> Any:
    return value.to_plotly_json() if hasattr(value, "to_plotly_json") else value.tolist()


def colours_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from colours_of(item)
    elif isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{3,8}", value):
        yield value


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_a_study_without_trials_states_what_is_missing_or_is_left_out(
    empty: dict[str, Figure], name: str
) -> None:
    assert (name in empty) == (name not in ("calibration", *BY_PROMOTION))
    if name in empty:
        assert not empty[name].panels
        assert empty[name].title
        assert empty[name].note


def test_titles_follow_the_data(findings: Findings, drawn: dict[str, Figure]) -> None:
    best = findings.data.arms[0].best
    cut = sum(trial.state == "PRUNED" for arm in findings.data.arms for trial in arm.trials)
    trials = [trial for arm in findings.data.arms for trial in arm.trials]
    would = sum(trial.cut_epoch is not None for trial in trials)
    for key, text in {
        "history": f"{100 * best.value:.1f} % with trial {best.number}",
        "curves": f"{cut} of 40 trials were pruned",
        "differences": "on 6 of 6 seeds",
        "audit": f"would have cut {would} of 8 auditors",
        "ablations": "of 2 ablations",
    }.items():
        assert text in drawn[key].title


def test_every_seed_and_every_trial_is_drawn_by_its_outcome(
    findings: Findings, drawn: dict[str, Figure]
) -> None:
    panel = drawn["seeds"].panels[0]
    seeds = [len(trace["x"]) for trace in panel.plot["data"] if "customdata" in trace]
    assert seeds == [6] * 5
    assert panel.fallback.count("<circle") == 30
    arm = findings.data.arms[0]
    pruned, diverged, completed = drawn["history"].panels[0].plot["data"][:3]
    counts = [len(trace["x"]) for trace in (pruned, diverged, completed)]
    assert counts == [arm.count("PRUNED"), 1, arm.count("COMPLETE") - 1]
    assert len({trace["marker"]["symbol"] for trace in (pruned, diverged, completed)}) == 3
    bars = drawn["importances"].panels[-1].plot["data"][0]
    assert sum(bars["x"]) == pytest.approx(100)


def test_a_default_that_won_has_one_row_with_the_tuned_recipe(findings: Findings) -> None:
    data = findings.data
    default = next(one for one in data.of_role("default") if one.arm == "plain")
    winner = replace(default, finalist=replace(default.finalist, role="tuned", title="tuned"))
    others = [one for one in data.finalists if one is not data.tuned("plain")]
    found = find(replace(data, finalists=(*others, winner)))
    tables = [drawn_figures(found)[key].tables[0] for key in ("seeds", "fidelity", "costs")]
    for table in (comparison_table(found), *tables):
        names = [row[0] for row in table.rows if "plain" in row[0]]
        assert names == ["tuned plain = defaults"]
    assert len(summarise(found)["finalists"]) == len(summarise(findings)["finalists"])


def test_what_was_passed_over_of_a_folder_is_in_the_provenance(data: StudyData) -> None:
    sentence = "passed over in /photos: val/ (18 images)"
    settings = replace(data.settings, passed_over=sentence)
    assert ["not read", sentence] in provenance_table(replace(data, settings=settings)).rows
    assert "not read" not in [row[0] for row in provenance_table(data).rows]


def test_the_taps_and_their_modules_are_in_the_provenance(data: StudyData) -> None:
    taps = {"last1": {"teacher": "layer4", data.protocol.student: "blocks"}}
    settings = replace(data.settings, taps=taps)
    rows = provenance_table(replace(data, settings=settings)).rows
    assert ["taps", "last1 layer4 -> blocks"] in rows
    older = replace(data.settings, taps=None)
    assert "taps" not in [row[0] for row in provenance_table(replace(data, settings=older)).rows]


@pytest.mark.parametrize(
    ("official", "sentence"),
    [
        ((), "validation and test are drawn"),
        (("test",), "test is the data set's own, validation is drawn"),
        (("train", "validation", "test"), "train, validation and test are the data set's own"),
    ],
)
def test_the_provenance_states_which_parts_are_the_data_set_s_own(
    data: StudyData, official: tuple[str, ...], sentence: str
) -> None:
    assert ["split", sentence] in provenance_table(replace(data, official=official)).rows


@pytest.mark.parametrize(("low", "high"), [(0, 1), (94.1, 98.2), (-1.3, 2.9), (0.0, 0.003)])
def test_ticks_are_round_and_lie_inside_the_axis(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    [step] = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert round(step / 10 ** np.floor(np.log10(step)), 6) in (1, 2, 5)


def test_a_recipe_at_alpha_0_has_no_soft_targets(data: StudyData) -> None:
    arms = []
    for arm in data.arms:
        trial = data.chosen_trial(arm)
        recipe = replace(
            trial.record.recipe,
            alpha=Schedule.constant(0.0),
            feature_kind="none",
            feature_weight=0.0,
            feature_taps=(),
        )
        other = replace(trial, record=replace(trial.record, recipe=recipe))
        trials = tuple(other if one is trial else one for one in arm.trials)
        arms.append(replace(arm, trials=trials))
    quiet = drawn_figures(find(replace(data, arms=tuple(arms))))
    assert quiet["schedules"].title.startswith("No soft targets: tuned recipe of scheduled")
    assert quiet["loss"].panels == ()


def test_loss_shares_weigh_the_terms_as_the_loss_does(data: StudyData) -> None:
    record = data.arms[0].completed[0].record
    recipe = Recipe(
        soft_kind="kl",
        temperature=Schedule.constant(4.0),
        alpha=Schedule(shape="linear", initial=0.8, final=0.2),
        feature_kind="hint",
        feature_weight=0.5,
        feature_taps=("last1",),
    )
    epoch = replace(record.history[1], hard_loss=1.0, soft_loss=2.0, feature_loss=3.0)
    alpha = schedules.value("linear", 0.8, 0.2, 1.5 / 4)
    parts = np.array([1 - alpha, 2 * alpha, 0.5 * 3])
    assert loss_shares(recipe, epoch, horizon=4) == pytest.approx(tuple(parts / parts.sum()))


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
    latency, parameters = drawn_figures(find(data))["costs"].panels
    found = dots_of(latency)
    assert found["teacher (resnet14)"][0] == pytest.approx(0.6 * 5.1)
    assert found["tuned scheduled"][0] == pytest.approx(0.6 * (1 + 1.012) / 2)
    assert found["tuned plain"][0] == found["tuned scheduled"][0]
    assert dots_of(parameters)["plain: defaults"][0] == 5242
    tuned = data.tuned("scheduled")
    assert found["tuned scheduled"][1] == pytest.approx(100 * np.mean(tuned.values))


def test_the_title_of_costs_states_how_much_smaller_and_faster_the_student_is(
    data: StudyData,
) -> None:
    title = drawn_figures(find(data))["costs"].title
    assert "1/33.4 of the teacher's parameters" in title  # 174,970 / 5,242
    assert "5.1 times as fast" in title
    tuned = data.tuned("scheduled")
    correct = np.stack([run.correct for run in tuned.runs if run.correct is not None])
    gap = paired_difference(correct, np.broadcast_to(data.teacher.scores, correct.shape))
    within = f"(95 % interval {data.measure.interval(gap.low, gap.high)})"
    assert gap.low < 0 < gap.high
    chance = f"within chance of it: {points(gap.mean, sign=True)} points {within}"
    assert title.endswith(chance)
    always = with_teacher(data, scores=np.ones_like(data.teacher.scores))
    below = 1 - np.mean(tuned.values)
    assert (
        f"and is {points(below)} points below it (95 % interval "
        in drawn_figures(find(always))["costs"].title
    )


def with_students(data: StudyData) -> StudyData:
    """The first trials train a second, smaller student."""
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
    figure = drawn_figures(find(several))["costs"]
    table = figure.tables[1]
    expected = {}
    for arm in several.arms:
        for place, student in enumerate(("resnet8-w0.25", "resnet8-w0.125")):
            best = next(one for one in arm.completed if one.number % 2 == place)
            expected[student, arm.name] = str(best.number)
    assert {(row[0], row[1]): row[3] for row in table.rows} == expected
    dots = figure.panels[2].plot["data"][1:]
    assert {trace["x"][0] for trace in dots} == {5242, 1384}
    assert len(drawn_figures(find(data))["costs"].tables) == 1


def test_fidelity_is_drawn_seed_by_seed_and_epoch_by_epoch(data: StudyData) -> None:
    seeds, epochs = drawn_figures(find(data))["fidelity"].panels
    drawn = [len(trace["x"]) for trace in seeds.plot["data"] if "customdata" in trace]
    assert drawn == [6] * 5
    (first, _) = epochs.plot["data"]
    tuned = data.tuned("scheduled")
    trial = data.arms[0].trials[tuned.finalist.trial]
    assert list(first["y"]) == [100 * (epoch.agreement or 0) for epoch in trial.history]


def test_the_recipe_drawn_is_called_the_tuned_one_and_before_confirmation_the_best_so_far(
    data: StudyData,
) -> None:
    tuned = data.tuned("scheduled")
    named = f"tuned recipe of scheduled (trial {tuned.finalist.trial})"
    drawn = drawn_figures(find(data))
    for figure in (drawn["schedules"], drawn["loss"]):
        assert f"he {named}" in figure.title
        assert "best" not in figure.title
    best = data.arms[0].best
    early = drawn_figures(find(replace(data, finalists=())))["schedules"]
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
    title = drawn_figures(replace(findings, optimism=changed))["optimism"].title
    assert title.endswith("changed by −2.22 points for scheduled and +1.11 for plain")


def test_a_winner_that_the_search_did_not_train_to_the_end_has_no_optimism(data: StudyData) -> None:
    findings = find(data)
    first, second = (replace(one, searched=0.9, confirmed=0.8) for one in findings.optimism)
    unseen = replace(first, searched=None)
    told = f"The search did not train {first.finalist.label} to the end"
    figure = drawn_figures(replace(findings, optimism=(unseen, second)))["optimism"]
    assert [row[0] for row in figure.tables[0].rows] == [second.finalist.label]
    assert told in figure.caption
    assert told in drawn_figures(replace(findings, optimism=(unseen,)))["optimism"].note


def trial(number: int, value: float, **parameters: float | str) -> TrialData:
    kinds = CategoricalDistribution(["a", "b"])
    distributions = {
        name: kinds if name == "kind" else FloatDistribution(0.01, 1, log=name == "lr")
        for name in parameters
    }
    return completed(number, value, parameters=parameters, distributions=distributions)


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
    figure = drawn_figures(find(replace(data, arms=(by_hand(),), finalists=())))["slices"]
    assert "In the best 2 of 11 scheduled trials, lr is 0.1 to 0.2" in figure.title
    rows = {row[1]: row for row in figure.tables[0].rows}
    assert rows["lr"][2:5] == ["0.01 to 1, log", "0.1 to 0.2", "0.1"]
    assert rows["kind"][2:5] == ["a, b", "a or b", "a"]
    assert rows["momentum"][3:5] == ["0.5", "–"]


def test_a_range_may_have_an_end_at_0_or_1(data: StudyData) -> None:
    ends = (trial(1, 0.9, lr=0.123, on=True), trial(2, 0.9, lr=1.0, on=True))
    arm = replace(by_hand(), trials=(*ends, *by_hand().trials[:9]))
    figure = drawn_figures(find(replace(data, arms=(arm,), finalists=())))["slices"]
    rows = {row[1]: row for row in figure.tables[0].rows}
    assert [rows[name][3] for name in ("lr", "on")] == ["0.12 to 1", "True"]


def test_without_a_unit_no_space_is_left_for_it(
    data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Measure(name="score", unit="", worst=0.0, best=1.0)
    monkeypatch.setattr("reports.read.data.measure", lambda metric: bare)
    drawn = drawn_figures(find(with_students(data)))
    panels = [*drawn["costs"].panels, *drawn["slices"].panels]
    texts = [panel.alt for panel in panels]
    hovers = [trace.get("hovertemplate", "") for one in panels for trace in one.plot["data"]]
    assert len(drawn["costs"].panels) == 3
    assert [text for text in (*texts, *hovers) if "  " in text or " ," in text] == []


def values(encoded: dict[str, str]) -> NDArray[np.generic]:
    """Decode an array as Plotly's JSON has it."""
    return np.frombuffer(base64.b64decode(encoded["bdata"]), encoded["dtype"])


def test_equal_curves_are_equal_on_the_axis_of_their_panel(data: StudyData) -> None:
    third = {1: 1 / 3, 2: 1 / 3}  # of which the percentage has no exact binary form
    arms = [
        replace(arm, trials=tuple(replace(trial, values=third) for trial in arm.trials))
        for arm in data.arms
    ]
    figure = drawn_figures(find(replace(data, arms=tuple(arms), finalists=())))["curves"]
    for panel in figure.panels:
        traces = [trace["y"] for trace in panel.plot["data"]]
        drawn = [values(y) if isinstance(y, dict) else np.asarray(y, float) for y in traces]
        assert sum(len(one) > 0 for one in drawn) >= 2
        assert len({y for one in drawn for y in one[~np.isnan(one)].tolist()}) == 1


def test_one_seed_of_each_recipe_is_no_comparison(data: StudyData) -> None:
    first = tuple(replace(one, runs=one.runs[:1]) for one in data.finalists)
    assert drawn_figures(find(replace(data, finalists=first)))["seeds"].title.endswith(
        ": one seed each proves nothing"
    )


def test_slices_draw_every_completed_trial_the_weightiest_parameter_first(
    data: StudyData,
) -> None:
    figure = drawn_figures(find(replace(data, arms=(by_hand(),), finalists=())))["slices"]
    assert [panel.heading for panel in figure.panels] == ["lr", "kind", "momentum"]
    counts = [values(panel.plot["data"][0]["y"]).shape for panel in figure.panels]
    assert counts == [(11,), (11,), (1,)]
    lrs = values(figure.panels[0].plot["data"][0]["x"])
    assert lrs == pytest.approx([one.parameters["lr"] for one in by_hand().completed])
    assert [panel.plot["layout"]["xaxis"].get("type") for panel in figure.panels] == [
        "log",
        "category",
        None,
    ]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.01, 0.3), (1, 10), (1384, 272_186), (0.28, 1.14), (1e-3, 10), (0.178, 0.195), (5, 5)],
)
def test_a_logarithmic_axis_has_a_few_round_ticks(low: float, high: float) -> None:
    made = log_axis("", low, high)
    start, end = made["range"]
    assert 10**start < low <= high < 10**end
    assert 2 <= len(made["tickvals"]) == len(made["ticktext"]) <= 7
    assert all(start <= np.log10(tick) <= end for tick in made["tickvals"])


def test_calibration_counts_every_prediction_and_compares_confidence_with_accuracy(
    data: StudyData,
) -> None:
    drawn = drawn_figures(find(data))["calibration"]
    tuned = data.tuned("plain")
    rows = [row for row in drawn.tables[0].rows if row[0] == "tuned plain"]
    assert sum(int(row[1]) for row in rows) == len(tuned.tested) * data.test_images
    confidence = np.concatenate(
        [run.confidence for run in tuned.tested if run.confidence is not None]
    )
    excess = confidence.mean() - np.mean(tuned.values)
    assert drawn.title.endswith(f"{points(float(excess), sign=True, digits=1)} for plain")


ADDED = """
\"\"\"How many trials each arm has.\"\"\"
from reports.draw.drawing import Figure, Table

GROUP = "{group}"
ORDER = 35
NAME = "Trials by arm"

def draw(findings):
    rows = [[arm.name, str(len(arm.trials))] for arm in findings.data.arms]
    if not findings.data.finalists:
        return None
    return Figure(
        title="Two arms",
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
