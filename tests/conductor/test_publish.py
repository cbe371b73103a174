"""What the dashboard shows beside the numbers: a note a study, a note and two files a trial."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from optuna_dashboard import get_note

from conductor.search.arm import Arm
from conductor.search.publish import Publisher, _write, curves, describe, study_note
from kd.recipe import Recipe, Schedule
from kd.training.history import EpochMetrics
from reports.wording import Measure, measure
from storage.files.records import RunRecord
from tests.support.fakes import FakePool, Killed, make_arm, metrics, protocol, search, trained
from workers.events import Event
from workers.jobs import TrainJob

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def arm() -> Arm:
    return make_arm(InMemoryStorage(), "plain", sampler="random")


@pytest.fixture
def publisher(tmp_path) -> Publisher:
    return Publisher(protocol(), tmp_path / "artifacts")


def record(arm: Arm, history: list[EpochMetrics], **changed: Any) -> RunRecord:
    values: dict[str, Any] = {
        "recipe": arm.decisions.recipe(0),
        "seed": 1,
        "horizon": 8,
        "outcome": "complete",
        "history": history,
        "seconds": 2.0,
    }
    return RunRecord(**{**values, **changed})


def artifacts(arm: Arm, number: int) -> dict[str, str]:
    """Return the files of a trial by name: the ids under which the store keeps them."""
    found = get_all_artifact_meta(arm.ledger.stored_trial(number))
    assert len({meta.filename for meta in found}) == len(found)
    return {meta.filename: meta.artifact_id for meta in found}


def content(publisher: Publisher, artifact: str) -> str:
    with FileSystemArtifactStore(publisher.artifacts).open_reader(artifact) as file:
        return file.read().decode()


def test_a_trial_has_a_note_a_picture_and_a_table(arm, publisher):
    number = arm.ask(9)
    history = [metrics(epoch, 0.1 * epoch) for epoch in (1, 2, 3)]
    publisher.trial(arm, number, record(arm, history))
    arm.tell(number, TrialState.COMPLETE, 0.3, {})
    found = artifacts(arm, number)
    assert set(found) == {"curves.svg", "epochs.csv"}
    assert content(publisher, found["curves.svg"]) == curves(history, measure("accuracy"))
    rows = list(csv.DictReader(io.StringIO(content(publisher, found["epochs.csv"]))))
    assert list(rows[0]) == list(history[0].to_json())
    assert [float(row["accuracy"]) for row in rows] == [one.accuracy for one in history]
    note = get_note(arm.ledger.stored_trial(number))
    assert note.startswith("# plain 0 (defaults): complete at 30.0 %")
    assert "learning rate 0.1, weight decay 0.0005" in note
    assert "3 of 8 epochs, 2.0 s" in note
    assert "- an auditor: goes to the horizon whatever is seen before" in note


def test_publishing_again_adds_nothing(arm, publisher):
    number = arm.ask(9)
    for _ in range(3):
        publisher.trial(arm, number, record(arm, [metrics(1, 0.5)]))
    found = artifacts(arm, number)
    assert len(found) == 2
    kept = {path.name for path in publisher.artifacts.iterdir()}
    assert kept == set(found.values())


def test_a_kill_between_the_two_files_is_made_good(arm, publisher, monkeypatch):
    from optuna.artifacts import upload_artifact

    number, uploaded = arm.ask(9), []

    def upload_one(**arguments: Any) -> None:
        if uploaded:
            raise Killed
        uploaded.append(upload_artifact(**arguments))

    with monkeypatch.context() as patched:
        patched.setattr("conductor.search.publish.upload_artifact", upload_one)
        with pytest.raises(Killed):
            publisher.trial(arm, number, record(arm, [metrics(1, 0.5)]))
    assert len(artifacts(arm, number)) == 1
    publisher.trial(arm, number, record(arm, [metrics(1, 0.5)]))
    assert set(artifacts(arm, number)) == {"curves.svg", "epochs.csv"}


def test_a_trial_without_an_epoch_has_a_note_alone(arm, publisher):
    number = arm.ask(9)
    failed = record(arm, [], outcome="failed", reason="no space left")
    publisher.trial(arm, number, failed)
    assert artifacts(arm, number) == {}
    assert "- no space left" in get_note(arm.ledger.stored_trial(number))


def test_the_note_of_a_trial_that_is_no_auditor_does_not_say_so(arm, publisher):
    for _ in range(2):
        number = arm.ask(9)
        arm.tell(number, TrialState.COMPLETE, 0.5, {}) if number == 0 else None
    publisher.trial(arm, number, record(arm, [metrics(1, 0.5)], outcome="pruned"))
    note = get_note(arm.ledger.stored_trial(number))
    assert note.startswith("# plain 1: pruned at 50.0 %")
    assert "auditor" not in note


def test_the_note_of_a_study_is_written_once_and_may_be_changed(arm, publisher):
    from optuna_dashboard import save_note

    publisher.study(arm)
    note = get_note(arm.study)
    assert note == study_note(arm, publisher.protocol)
    assert "resnet8 teaches resnet8-w0.25 on digits, 8 epochs a trial" in note
    assert "too good" in note
    save_note(arm.study, "my own words")
    publisher.study(arm)
    assert get_note(arm.study) == "my own words"


def test_a_searched_study_is_published_whole(tmp_path, monkeypatch):
    arm = make_arm(InMemoryStorage(), "scheduled", lag=2)
    publisher = Publisher(protocol(), tmp_path / "artifacts")
    search(tmp_path, [arm], FakePool(2), 4, publisher.trial)
    assert [len(artifacts(arm, number)) for number in range(4)] == [2, 2, 2, 2]
    notes = [get_note(arm.ledger.stored_trial(number)) for number in range(4)]
    assert "(classic)" in notes[0]
    assert "(vanilla KD)" in notes[1]


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    """An arm of 16 trainings' worth that was searched by promotion, with its notes by number."""
    root = tmp_path_factory.mktemp("promoted")
    arm = make_arm(InMemoryStorage(), "plain", sampler="", pruner="", lag=2)
    publisher = Publisher(protocol(), root / "artifacts")
    publisher.study(arm)

    def jobs(job: TrainJob) -> list[Event]:
        return trained([0.1 * epoch + job.recipe.lr / 100 for epoch in range(1, job.end + 1)])

    search(root, [arm], FakePool(2, objective=jobs), 16, publisher.trial)
    numbers = range(arm.decisions.asked)
    return arm, [get_note(arm.ledger.stored_trial(number)) for number in numbers]


def test_the_note_of_a_study_by_promotion_explains_its_trials(promoted, arm, publisher):
    assert "promotion" not in study_note(arm, publisher.protocol)
    arm, _ = promoted
    note = get_note(arm.study)
    assert note == study_note(arm, publisher.protocol)
    assert "8 epochs a run, batches" in note
    assert "**PRUNED**: paused after epoch 1 or 3. The best third" in note
    assert "whose attribute `continues` is the number of the paused one" in note
    assert "**COMPLETE**: at the horizon, epoch 8." in note
    short = study_note(arm, protocol(epochs=4, views=3))
    assert "Every trial is one run to epoch 4" in short
    assert "PRUNED" not in short


def test_the_note_of_a_trial_by_promotion_has_its_own_epochs_and_where_it_goes_on(promoted):
    arm, notes = promoted
    trials = arm.decisions.trials
    assert notes[0].startswith("# plain 0 (defaults): complete at ")
    assert "8 of 8 epochs, 2.0 s" in notes[0]
    paused = next(one for one in trials if one.user_attrs["until"] == 1)
    assert notes[paused.number].startswith(f"# plain {paused.number}: paused at ")
    assert "- 1 of 8 epochs, 0.2 s" in notes[paused.number]
    trail = f"a later trial that goes on has the attribute `continues` {paused.number}"
    assert trail in notes[paused.number]
    assert "`continues`" not in notes[0]
    on = next(one for one in trials if one.user_attrs.get("continues") and one.value > 0.7)
    before = trials[on.user_attrs["continues"]]
    assert before.user_attrs["until"] == 3
    assert "- epochs 4 to 8 of 8, 1.2 s" in notes[on.number]
    run = on.user_attrs["run"]
    assert run != before.number
    assert (
        f"- goes on where plain {before.number} was paused; the run was begun as plain {run}"
        in notes[on.number]
    )
    again = next(one for one in trials if "repeats" in one.user_attrs)
    first = again.user_attrs["repeats"]
    assert f"- the recipe of plain {first} on another seed" in notes[again.number]
    auditors = [trial.number for trial in trials if trial.user_attrs.get("auditor")]
    assert auditors
    assert auditors == [number for number, note in enumerate(notes) if "- an auditor" in note]


def test_a_recipe_is_described_in_words():
    assert describe(Recipe()) == [
        "learning rate 0.1, weight decay 0.0005, label smoothing 0",
    ]
    recipe = Recipe(
        soft_kind="dkd",
        temperature=Schedule(shape="linear", initial=5, final=1),
        alpha=Schedule.constant(0.9),
        feature_kind="hint",
        feature_weight=0.25,
        feature_taps=("last1", "last2"),
    )
    assert describe(recipe)[1:] == [
        "soft loss `dkd` (target_weight 1, non_target_weight 8)",
        "temperature 5 to 1, linear",
        "alpha 0.9",
        "feature loss `hint` at last1 + last2, 0.25",
    ]


def drawn(history: list[EpochMetrics]) -> ElementTree.Element:
    return ElementTree.fromstring(curves(history, measure("accuracy")))


def points(picture: ElementTree.Element) -> list[list[tuple[float, float]]]:
    lines = [line.get("points", "") for line in picture.iter(f"{SVG}polyline")]
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


@pytest.mark.parametrize(
    "accuracies",
    [[0.5], [0.5, 0.5, 0.5], [0.1, 0.9], [0.0], [1e-12, 1.0], [0.3] * 500],
)
def test_curves_are_well_formed_and_stay_within_the_picture(accuracies):
    picture = drawn([metrics(epoch, value) for epoch, value in enumerate(accuracies, 1)])
    assert picture.tag == f"{SVG}svg"
    width, height = float(picture.get("width")), float(picture.get("height"))
    panels = points(picture)
    assert len(panels) == 4
    for panel in panels:
        assert len(panel) == len(accuracies)
        assert all(0 <= x <= width / 2 and 0 <= y <= height / 2 for x, y in panel)


def test_curves_rise_where_the_values_rise():
    history = [metrics(epoch, 0.1 * epoch, temperature=9.0 - epoch) for epoch in (1, 2, 3)]
    accuracy, temperature, alpha, _ = points(drawn(history))
    heights = [y for _, y in accuracy]
    assert heights == sorted(heights, reverse=True)  # in a picture, y grows downward
    assert [y for _, y in temperature] == sorted(y for _, y in temperature)
    assert len({y for _, y in alpha}) == 1
    across = [x for x, _ in accuracy]
    assert across == sorted(across)
    assert len(set(across)) == 3


def test_curves_name_their_panels_and_their_ends():
    history = [metrics(epoch, 0.25 * epoch) for epoch in (1, 2, 3)]
    texts = [text.text for text in drawn(history).iter(f"{SVG}text")]
    for text in ("validation accuracy", "temperature", "alpha", "learning rate", "0.25", "0.75"):
        assert text in texts
    assert "epoch 3" in texts


def test_a_metric_whose_lower_values_are_better_has_its_own_values_in_picture_and_table(tmp_path):
    history = [metrics(1, 0.5, objective=-1.5), metrics(2, 0.9, objective=0.0)]
    lower = Measure(name="surprisal", unit="bits", worst=-9.0, best=0.0, lower=True)
    picture, table = _write(tmp_path, history, lower)
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["objective"] for row in csv.DictReader(file)] == ["1.5", "0.0"]
    texts = [text.text for text in ElementTree.parse(picture).iter(f"{SVG}text")]
    assert texts[:3] == ["validation surprisal", "1.5", "0"]


def test_artifacts_are_kept_as_optuna_keeps_them(arm, publisher):
    """The dashboard finds files by what is written beside the trial."""
    number = arm.ask(9)
    publisher.trial(arm, number, record(arm, [metrics(1, 0.5)]))
    kept = [
        json.loads(value)
        for key, value in arm.study.get_trials()[number].system_attrs.items()
        if key.startswith("artifacts:")
    ]
    assert {one["mimetype"] for one in kept} == {"image/svg+xml", "text/csv"}
    assert all((Path(publisher.artifacts) / one["artifact_id"]).is_file() for one in kept)


def test_the_note_of_a_job_names_the_trial_that_it_continues_or_repeats(tmp_path, publisher):
    promoted = make_arm(InMemoryStorage(), "plain", lag=2)
    search(tmp_path, [promoted], FakePool(), 12, publisher.trial)
    linked = 0
    for trial in promoted.study.get_trials():
        note = get_note(promoted.ledger.stored_trial(trial.number))
        attributes = trial.user_attrs
        for key, words in (
            ("continues", "goes on where plain {} was paused"),
            ("repeats", "the recipe of plain {} on another seed"),
        ):
            said = words.format(attributes[key]) in note if key in attributes else False
            assert said == (key in attributes)
            linked += said
        assert ("- an auditor" in note) == ("auditor" in attributes)
    assert linked > 3
