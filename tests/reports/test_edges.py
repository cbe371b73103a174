"""The command for wider ranges, which the report proposes, is that of a study which can begin."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

from conductor.command_line import cli
from conductor.command_line.options import make_request
from conductor.request import Request
from conductor.study import Study
from kd.errors import ProtocolError
from kd.recipe import Recipe, Schedule
from reports.caveats.edges import LARGEST, edge_parameters, of_edges
from reports.read.data import StudyData
from tests.support.fakes import quiet


def at_edge(data: StudyData, name: str, low: float, high: float, value: float) -> StudyData:
    """Return a study whose tuned scheduled recipe has a value in such a range."""
    arm = data.arms[0]
    chosen = data.chosen_trial(arm)
    log = name not in ("label_smoothing", "alpha_final")
    ranges = {name: FloatDistribution(low, high, log=log)}
    edge = replace(chosen, parameters={name: value}, distributions=ranges)
    trials = tuple(edge if one is chosen else one for one in arm.trials)
    return replace(data, arms=(replace(arm, trials=trials),))


def proposed(data: StudyData, root: Path) -> Request:
    """Return what the proposed command requests under another root."""
    _, text = of_edges(data)
    words = shlex.split(text.partition(" Run: ")[2])
    assert words[:2] == ["python", "study.py"]
    return make_request(cli.read_options([*words[2:], "--root", str(root)]))


WIDER = [
    ("lr", 0.002, 0.3, 0.299, "lr=0.002:0.9"),
    ("lr", 0.002, 0.3, 0.002, "lr=0.00067:0.3"),
    ("lr", 0.01, 9, 8.9, "lr=0.01:10"),
    ("weight_decay", 1e-5, 0.9, 0.89, "weight_decay=1e-05:1"),
    ("label_smoothing", 0, 0.1, 0.1, "label_smoothing=0:0.15"),
    ("label_smoothing", 0, 0.8, 0.8, "label_smoothing=0:0.99"),
    ("temperature_initial", 1, 900, 899, "temperature_initial=1:1000"),
    ("temperature_final", 1, 10, 1, "temperature_final=0.33:10"),
    ("alpha_final", 0.2, 0.9, 0.9, "alpha_final=0.2:1"),
    ("alpha_final", 0.2, 0.9, 0.2, "alpha_final=0:0.9"),
    ("feature_weight", 0.001, 900, 899, "feature_weight=0.001:1000"),
]


@pytest.mark.parametrize(("name", "low", "high", "value", "wider"), WIDER)
def test_the_command_for_a_wider_range_is_that_of_a_study_which_can_begin(
    data: StudyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    low: float,
    high: float,
    value: float,
    wider: str,
) -> None:
    monkeypatch.setattr("search_spaces.space.DRAWS", 9)
    request = proposed(at_edge(data, name, low, high, value), tmp_path)
    assert (request.name, request.range, request.trials) == ("small-wider", (wider,), 20)
    spaces = Study(request, quiet())._spaces  # which tests both ends
    assert spaces[0].changes.matches(spaces[0].parameters)[f"--range {wider}"] == [name]


def test_the_longest_name_has_room_for_its_end(data: StudyData, tmp_path: Path) -> None:
    long = replace(at_edge(data, "lr", 0.002, 0.3, 0.3), name="x" * 64)
    assert proposed(long, tmp_path).name == "x" * 58 + "-wider"


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_value_is_the_recipes_own_and_no_edge(data: StudyData, name: str) -> None:
    def recipe(value: float) -> Recipe:
        schedule = Schedule.constant(value)
        fields = {"soft_kind": "kl", "feature_kind": "hint", "feature_taps": ("last1",)}
        fields |= {"feature_weight": 1.0, name: schedule if name in scheduled else value}
        return Recipe(**fields)

    scheduled = ("temperature", "alpha")
    high = LARGEST[name]
    recipe(high)
    with pytest.raises(ProtocolError, match=f"^{name} must lie in"):
        recipe(high * 1.02)
    at_end = f"{name}_final" if name in scheduled else name
    [arm] = at_edge(data, at_end, 0.5, high, high).arms
    [trial] = [one for one in arm.trials if at_end in one.parameters and len(one.parameters) == 1]
    assert edge_parameters(trial) == {}
