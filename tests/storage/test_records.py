"""Records survive JSON, and whatever is no record is refused in one way."""

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.errors import ArtifactError, ProtocolError
from kd.json_data import JsonData
from kd.models.latency import Latency
from kd.recipe import Recipe, Schedule
from kd.training.history import EpochMetrics
from storage.files.artifacts import read_record, write_json
from storage.files.records import (
    Cost,
    Costs,
    Finalist,
    Finalists,
    Learnt,
    Plane,
    RunRecord,
    SearchRecord,
    SpaceSource,
    StudySettings,
)

RECIPE = Recipe(
    soft_kind="kl",
    temperature=Schedule(shape="linear", initial=5.0, final=1.0),
    alpha=Schedule.constant(0.9),
    feature_kind="hint",
    feature_weight=1.0,
    feature_taps=("last1", "last2"),
)
EPOCH = EpochMetrics(
    epoch=1,
    objective=0.5,
    accuracy=0.5,
    nll=1.25,
    ece=0.1,
    early_nll=1.5,
    agreement=0.75,
    teacher_kl=0.2,
    loss=1.5,
    hard_loss=1.0,
    soft_loss=2.0,
    feature_loss=0.5,
    temperature=3.0,
    alpha=0.9,
    lr=0.05,
    seconds=2.5,
)
ALONE = dataclasses.replace(
    EPOCH, epoch=2, agreement=None, teacher_kl=None, objective=0.375, accuracy=0.375
)
RUN = RunRecord(
    recipe=RECIPE,
    seed=2**62,
    horizon=2,
    outcome="complete",
    history=[EPOCH, ALONE],
    seconds=5.0,
    test={"objective": 0.5, "accuracy": 0.5, "nll": 1.5, "ece": 0.1},
    digest="abc",
)
FINALIST = Finalist(
    name="plain-tuned",
    title="plain, tuned",
    arm="plain",
    role="tuned",
    recipe=Recipe(),
    trial=3,
    searched=0.9,
    selection=[0.875, 0.9375],
)
LATENCY = Latency(batch_size=1, median_ms=1.5, p95_ms=2.0, repeats=40)
COST = Cost(model="resnet8", parameters=100, macs=2000, bytes=500, latency=[LATENCY, LATENCY])
SETTINGS = StudySettings(
    arms=["mine", "plain"],
    spaces={
        "mine": SpaceSource(source="mine.py@0123456789ab", digest="cd"),
        "plain": SpaceSource(source="plain", digest="ab"),
    },
    sampler="tpe",
    pruner="none",
    lag=4,
    storage="",
    dataset="d",
    teachers=("t",),
    shards=("s",),
    cache="all",
    created="2026-01-01T00:00:00+00:00",
    command=["study.py", "--trials", "3"],
    versions={"torch": "2.9"},
    machine={"cpus": "2"},
    seconds={"search": 1.5},
    taps={"last1": {"teacher": "layer4", "timm:vit": "blocks"}},
)
SOURCES = SETTINGS.to_json()["spaces"]
KEPT = "the search space mine is a name or a kept file, got "
OUTSIDE = ["", "..", ".", "../other", "/tmp", "a/b", "a\0b", "\ud800", "a\n", "x" * 300, "<i>"]
PLANE = Plane(names=["lr", "kind"], values=[[0.1, 1.0], ["a"]], means=[[0.8, 0.9]])
LEARNT = Learnt(importances={"lr": [0.5, 0.4, 0.6]}, trials=9, trusted=True, plane=PLANE)
RECORDS: list[Any] = [
    PLANE,
    LEARNT,
    SearchRecord(arms={"plain": LEARNT}),
    RUN,
    dataclasses.replace(RUN, test=None, history=[], outcome="diverged", reason="the loss"),
    FINALIST,
    Finalists(seeds=6, finalists=[FINALIST]),
    LATENCY,
    COST,
    Costs(device="cpu", threads=1, models={"teacher": COST}),
    SETTINGS,
    SETTINGS.spaces["plain"],
    EPOCH,
    ALONE,
]
FIELDS = [
    (record, field.name)
    for record in [RUN, FINALIST, COST, SETTINGS]
    for field in dataclasses.fields(record)
]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([10**400, -(10**400)]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_the_disk(tmp_path, record: JsonData) -> None:
    path = tmp_path / "record.json"
    write_json(path, record.to_json())
    written, read = path.read_bytes(), read_record(path, type(record))
    assert read == record
    write_json(path, read.to_json())
    assert path.read_bytes() == written


def test_whole_numbers_become_the_floats_that_they_stand_for() -> None:
    given = json.loads(json.dumps({**RUN.to_json(), "seconds": 5}))
    read = RunRecord.from_json(given)
    assert read == RUN
    assert type(read.seconds) is float


@pytest.mark.parametrize(("record", "name"), FIELDS)
def test_a_missing_key_takes_the_default_or_is_named(record: JsonData, name: str) -> None:
    given = record.to_json()
    del given[name]
    (field,) = (field for field in dataclasses.fields(record) if field.name == name)  # type: ignore[arg-type]
    if field.default is field.default_factory is dataclasses.MISSING:
        with pytest.raises(ProtocolError, match=rf"{type(record).__name__} lacks '{name}'"):
            type(record).from_json(given)
    else:
        made = field.default_factory() if field.default is dataclasses.MISSING else field.default  # type: ignore[misc]
        assert getattr(type(record).from_json(given), name) == made


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_an_unknown_key_is_named(record: JsonData) -> None:
    what = f"unknown key 'extra' of {type(record).__name__}"
    with pytest.raises(ProtocolError, match=what):
        type(record).from_json({**record.to_json(), "extra": 1})


@pytest.mark.parametrize(("record", "name"), FIELDS)
def test_a_value_of_another_type_is_refused_with_the_field_named(
    record: JsonData, name: str
) -> None:
    for wrong in (object(), b"", {1}, [object()], {"a": object()}):
        with pytest.raises(ProtocolError, match=rf"^{name}\b.* (must|lacks|unknown key) "):
            type(record).from_json({**record.to_json(), name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("seed", True),
        ("seed", 1.0),
        ("seed", "1"),
        ("horizon", None),
        ("outcome", None),
        ("outcome", 1),
        ("seconds", True),
        ("seconds", "5"),
        ("seconds", None),
        ("seconds", math.nan),
        ("seconds", math.inf),
        ("seconds", 10**400),
        ("test", []),
        ("test", {"accuracy": "1"}),
        ("test", {"accuracy": None}),
        ("history", {}),
        ("history", None),
        ("history", [None]),
        ("history", [{**EPOCH.to_json(), "accuracy": "1"}]),
        ("history", [{**EPOCH.to_json(), "loss": None}]),
        ("history", [{**EPOCH.to_json(), "loss": math.nan}]),
        ("history", [{**EPOCH.to_json(), "epoch": 0}]),
        ("history", [{**EPOCH.to_json(), "accuracy": 1e308}]),
        ("history", [{**EPOCH.to_json(), "ece": -0.1}]),
        ("history", [{**EPOCH.to_json(), "agreement": 1.5}]),
        ("history", [{**EPOCH.to_json(), "epoch": 1.0}]),
        ("history", [{**EPOCH.to_json(), "epoch": True}]),
        ("recipe", {**RECIPE.to_json(), "lr": -1}),
    ],
    ids=repr,
)
def test_absurd_values_of_a_run_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ProtocolError, match=rf"^{name}\b.* must ") as raised:
        RunRecord.from_json({**RUN.to_json(), name: wrong})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (RUN, {"outcome": "done"}, "outcome must be one of complete, .*, got 'done'"),
        (SETTINGS, {"cache": "some"}, "cache must be one of all, .*, got 'some'"),
        (RUN, {"test": {}}, "a test has objective, accuracy, nll and ece, got "),
        (
            RUN,
            {"test": {"objective": 0.5, "accuracy": 2.0, "nll": 1.0, "ece": 0.1}},
            "accuracy must lie in 0-1, got",
        ),
        (Finalists(seeds=1, finalists=[]), {"seeds": 10**30}, "seeds must lie in 0-1,000,000, got"),
        (LEARNT, {"importances": {"lr": [0.5]}}, "an importance is a share and its interval, got "),
        (PLANE, {"names": ["lr"]}, "a plane has values of two parameters, got "),
        (PLANE, {"values": [[0.1, 1.0], []]}, "a plane has values of two parameters, got "),
        (PLANE, {"means": [[0.8], [0.9]]}, "a plane has a mean of each pair of values, got "),
        (FINALIST, {"role": "best"}, "role must be one of default, .*, got 'best'"),
        *((FINALIST, {"name": name}, "is named by its folder, got ") for name in OUTSIDE),
        *((FINALIST, {"arm": name}, "is named by its folder, got ") for name in OUTSIDE),
        *((SETTINGS, {"dataset": name}, "is named by its folder, got ") for name in OUTSIDE[1:]),
        *(
            (SETTINGS, {many: (name,)}, "is named by its folder, got ")
            for many in ("teachers", "shards")
            for name in OUTSIDE[1:]
        ),
        (SETTINGS, {"arms": ["plain"]}, "each arm has one search space, got "),
        (SETTINGS, {"arms": ["mine", "plain", "plain"]}, "each arm has one search space, got "),
        (SETTINGS, {"arms": ["mine", "plain", "other"]}, "each arm has one search space, got "),
        (SETTINGS, {"spaces": SOURCES | {"mine": {"source": "mine.py", "digest": ""}}}, KEPT),
        (
            SETTINGS,
            {"spaces": SOURCES | {"mine": {"source": "his.py@0123456789ab", "digest": ""}}},
            KEPT,
        ),
        (SETTINGS, {"spaces": SOURCES | {"mine": {"source": "plain", "digest": ""}}}, KEPT),
    ],
    ids=repr,
)
def test_a_name_that_is_none_is_refused(
    record: JsonData, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
        type(record).from_json({**record.to_json(), **changes})


def test_the_inner_record_is_named_too() -> None:
    wrong = {**LATENCY.to_json(), "median_ms": "fast"}
    with pytest.raises(
        ProtocolError, match=r"latency\[0\]: median_ms must be a finite number, got"
    ):
        Cost.from_json({**COST.to_json(), "latency": [wrong]})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_json_is_a_record_or_a_protocol_error(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(RECORDS))
    values = record.to_json()
    for name in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        values[name] = data.draw(JSON)
    with contextlib.suppress(ProtocolError):
        read = type(record).from_json(values)
        again = json.loads(json.dumps(read.to_json(), allow_nan=False))
        assert type(record).from_json(again) == read


@given(JSON)
def test_what_is_not_even_an_object_is_a_protocol_error(given: Any) -> None:
    with pytest.raises(
        ProtocolError, match=r"^RunRecord (must be a JSON object|lacks)|^unknown key"
    ):
        RunRecord.from_json(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"result.json is missing; run the study again to have it made$"),
        ("{", r"result.json is damaged \("),
        ("[]", r"result.json is damaged \("),
        ({"recipe": 1}, r"result.json cannot be used: RunRecord lacks "),
    ],
)
def test_a_file_that_holds_no_record_is_named(
    tmp_path: Path, content: str | dict[str, int] | None, message: str
) -> None:
    path = tmp_path / "result.json"
    if isinstance(content, dict):
        write_json(path, content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=message) as raised:
        RunRecord.read(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count("result.json") == 1


def test_a_run_scores_its_last_epoch_and_nothing_when_it_diverged() -> None:
    assert RUN.objective(-1.0) == 0.375
    assert dataclasses.replace(RUN, outcome="pruned").objective(-1.0) == 0.375
    assert dataclasses.replace(RUN, outcome="diverged").objective(-1.0) == -1.0
    assert dataclasses.replace(RUN, history=[]).objective(-1.0) == -1.0


def test_a_record_is_written_as_json_or_refused(tmp_path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(RUN, seconds=math.nan).write(path)
    assert not path.exists()
    RUN.write(path)
    assert RunRecord.read(path) == RUN


def test_absurd_epochs_are_refused() -> None:
    for name in EPOCH.to_json():
        for wrong in (math.nan, math.inf, "1", [], True):
            with pytest.raises(ProtocolError, match=f"{name} must be a "):
                EpochMetrics.from_json({**EPOCH.to_json(), name: wrong})
    for wrong in (None, [], {}):
        with pytest.raises(ProtocolError, match="EpochMetrics"):
            EpochMetrics.from_json(wrong)


@pytest.mark.parametrize(
    "taps",
    [
        {"first": {"teacher": "a", "resnet8": "b"}},
        {"last1": {"teacher": "a"}},
        {"last1": {"resnet8": "b", "resnet14": "b"}},
    ],
)
def test_a_tap_has_a_name_and_modules_of_teacher_and_students(taps: Any) -> None:
    with pytest.raises(ProtocolError, match="a tap, such as last1, has a module of the teacher"):
        dataclasses.replace(SETTINGS, taps=taps)
    assert dataclasses.replace(SETTINGS, taps={}).taps == {}
