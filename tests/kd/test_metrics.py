"""Metrics: their values and errors, and one more that is added by its file alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

import kd.metrics
from kd.errors import ProtocolError
from kd.json_data import to_wire
from kd.metrics import load_metric
from kd.names import METRICS
from kd.protocol import Protocol
from kd.training.scoring import objective, scores
from reports.findings import find
from reports.read.collect import collect
from reports.statistics import crossed_errors, paired_difference
from reports.wording import measure
from reports.write.card import Exported, model_card
from reports.write.page import render_page
from reports.write.summary import summarise
from reports.write.trials import trials_frame
from storage.files.artifacts import read_json, write_json
from tests.support.processes import python
from tests.support.small import square
from tests.support.study_fixture import Plan, fabricate

LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)

ADDED = '''"""How unlikely the label seemed: lower is better."""
import numpy as np
from scipy.special import log_softmax

NAME = "surprisal"
UNIT = "bits"
RANGE = (200.0, 0.0)
MARGIN = 0.05


def scores(logits, labels):
    likelihood = log_softmax(logits.astype(float), axis=1)[np.arange(len(labels)), labels]
    return -likelihood / np.log(2)
'''


def logits(seed: int, labels: NDArray[np.int64] = LABELS) -> NDArray[np.float32]:
    """Logits [N, 3] that are right more often than not."""
    drawn = np.random.default_rng(seed).normal(0, 1, (len(labels), 3))
    drawn[np.arange(len(labels)), labels] += 1
    return drawn.astype(np.float32)


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a metric whose file lies in a folder of its own."""
    (tmp_path / "surprisal.py").write_text(ADDED)
    monkeypatch.setattr(kd.metrics, "__path__", [*kd.metrics.__path__, str(tmp_path)])
    yield "surprisal"
    sys.modules.pop("kd.metrics.surprisal", None)


def test_accuracy_is_the_share_that_is_right_to_the_last_bit() -> None:
    for seed in range(20):
        right = logits(seed).argmax(1) == LABELS
        assert objective("accuracy", logits(seed), LABELS) == right.sum() / len(LABELS)


def test_balanced_accuracy_is_the_mean_over_the_classes() -> None:
    right = logits(0).argmax(1) == LABELS
    by_class = [right[label == LABELS].mean() for label in range(3)]
    assert objective("balanced-accuracy", logits(0), LABELS) == pytest.approx(np.mean(by_class))
    largest = np.eye(3, dtype=np.float32)[np.zeros_like(LABELS)]
    assert objective("balanced-accuracy", largest, LABELS) == pytest.approx(1 / 3)
    absent = np.where(LABELS == 1, 0, LABELS)
    assert 0 <= objective("balanced-accuracy", logits(0), absent) <= 1


def test_the_error_of_balanced_accuracy_is_that_of_a_stratified_mean() -> None:
    found = scores("balanced-accuracy", logits(0), LABELS)
    right = (logits(0).argmax(1) == LABELS).astype(float)
    strata = [right[label == LABELS] for label in range(3)]
    variance = sum(one.var(ddof=1) / len(one) for one in strata) / 9
    assert found.var(ddof=0) / len(found) == pytest.approx(variance)


def test_a_difference_between_classes_alone_is_no_error_of_balanced_accuracy() -> None:
    """Right on all images of two classes and on none of the third, whatever is drawn."""
    said = np.eye(3, dtype=np.float32)[np.where(LABELS == 2, 0, LABELS)]
    nothing = np.eye(3, dtype=np.float32)[(LABELS + 1) % 3]
    a, b = (np.stack([scores("balanced-accuracy", one, LABELS)] * 6) for one in (said, nothing))
    found = paired_difference(a, b)
    assert found.mean == pytest.approx(2 / 3)
    assert found.se_seed + found.se_image == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rows", [slice(None), slice(40, 100)])
def test_macro_f1_is_that_of_scikit_learn(rows: slice) -> None:
    from sklearn.metrics import f1_score

    for seed in range(5):
        found, labels = logits(seed)[rows], LABELS[rows]
        wanted = f1_score(labels, found.argmax(1), average="macro", labels=np.unique(labels))
        assert objective("macro-f1", found, labels) == pytest.approx(wanted)


def test_the_error_of_macro_f1_is_the_jackknifes() -> None:
    from sklearn.metrics import f1_score

    predicted, count = logits(0).argmax(1), len(LABELS)
    without = [
        f1_score(np.delete(LABELS, row), np.delete(predicted, row), average="macro")
        for row in range(count)
    ]
    found = scores("macro-f1", logits(0), LABELS)
    influence = (count - 1) * (np.mean(without) - np.array(without))
    np.testing.assert_allclose(found - found.mean(), influence, atol=1e-9)
    jackknife = (count - 1) * np.var(without)
    assert found.var(ddof=1) / count == pytest.approx(jackknife)


def test_macro_f1_of_a_class_that_is_never_right_is_finite() -> None:
    said = np.eye(3, dtype=np.float32)[np.zeros_like(LABELS)]
    assert objective("macro-f1", said, LABELS) == pytest.approx(2 * 60 / (120 + 40) / 3)
    single = np.array([0] * 5 + [1])
    assert objective("macro-f1", np.eye(3, dtype=np.float32)[single], single) == 1


def test_nll_is_cross_entropy_with_its_sign_turned() -> None:
    wanted = functional.cross_entropy(torch.from_numpy(logits(0)).double(), torch.tensor(LABELS))
    assert objective("nll", logits(0), LABELS) == pytest.approx(-float(wanted))
    sure = np.array([[0.0, 5000.0]], np.float32)
    assert objective("nll", sure, np.array([0])) == -100


def test_scores_of_accuracy_have_the_errors_of_right_and_wrong() -> None:
    tables = [[logits(10 * part + seed) for seed in range(6)] for part in range(2)]
    right = [np.stack([one.argmax(1) == LABELS for one in part]) for part in tables]
    scored = [np.stack([scores("accuracy", one, LABELS) for one in part]) for part in tables]
    assert paired_difference(*scored) == paired_difference(*right)
    assert crossed_errors(*scored).image == crossed_errors(*right).image


@pytest.mark.parametrize("found", ["labels[:-1] * 1.0", "labels * float('nan')"])
def test_a_metric_without_one_finite_score_an_example_is_refused(
    found: str, added: str, tmp_path: Path
) -> None:
    text = ADDED.partition("    return")[0] + f"    return {found}\n"
    (tmp_path / "surprisal.py").write_text(text)
    with pytest.raises(ProtocolError, match=r"metric surprisal must return one finite score"):
        scores(added, logits(0), LABELS)


def test_names_are_listed_without_numpy_and_typos_are_named() -> None:
    assert {"accuracy", "balanced-accuracy"} <= set(METRICS.names)
    code = "import sys; from kd.names import METRICS; METRICS.names; print('numpy' in sys.modules)"
    assert python(code) == "False\n"
    with pytest.raises(ProtocolError, match=r"did you mean balanced-accuracy\?"):
        load_metric("balanced-acuracy")


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ('UNIT = "bits"', "", "the metric surprisal lacks UNIT"),
        (
            "(200.0, 0.0)",
            "(float('inf'), 0.0)",
            "the RANGE of the metric surprisal must be .* finite",
        ),
        ("(200.0, 0.0)", "(0.0, 0.0)", "the RANGE of the metric surprisal must be .*, got"),
    ],
)
def test_an_incomplete_metric_is_refused(
    before: str, after: str, rule: str, added: str, tmp_path: Path
) -> None:
    (tmp_path / "surprisal.py").write_text(ADDED.replace(before, after))
    with pytest.raises(ProtocolError, match=rule):
        load_metric(added)


def test_a_metric_is_added_by_its_file_alone_and_the_report_speaks_of_it(
    added: str, tmp_path: Path
) -> None:
    """Lower is better: kept with its sign turned, and shown as it is everywhere."""
    study = fabricate(tmp_path, Plan(name="small", trials=8, epochs=4, images=80))
    kept = Protocol.from_json(read_json(study.study.protocol)).to_json()
    write_json(study.study.protocol, {**kept, "metric": added, "margin": 0.05})
    data = collect(study.layout, study.name, study.url)
    findings = find(data)
    tuned, plain = data.tuned("scheduled"), data.tuned("plain")
    assert tuned is not None
    assert plain is not None
    bits = [run.record.test["nll"] / np.log(2) for run in tuned.tested if run.record.test]
    assert tuned.values == pytest.approx([-value for value in bits])
    found = summarise(findings)
    winner = next(one for one in found["finalists"] if one["name"] == tuned.key)
    assert winner["test_values"] == pytest.approx(bits)
    assert winner["mean"] == pytest.approx(np.mean(bits))
    assert winner["interval"][0] < winner["mean"] < winner["interval"][1]
    difference = found["verdict"]["difference"]
    assert difference["mean"] == pytest.approx(np.mean(bits) + np.mean(plain.values))
    assert difference["low"] < difference["mean"] < difference["high"]
    assert (difference["mean"] < 0) == (np.mean(tuned.values) > np.mean(plain.values))
    side = "lower (better)" if difference["mean"] < 0 else "higher (worse)"
    by = f"{abs(difference['mean']):.3f} bits {side} in test surprisal than tuned plain"
    assert by in findings.verdict.text
    helped = {"better": "lower (better)", "worse": "higher (worse)"}.get(
        findings.verdict.kind, side
    )
    assert helped == side
    page = render_page(findings)
    assert "test surprisal, bits (lower is better)" in page
    assert "margin ±0.05 bits" in page
    best = max(findings.distinct, key=lambda one: one.value or -np.inf)  # students cost the same
    assert f"Beaten by none: {data.named(best.finalist)} and" in page
    assert f"{winner['mean']:.3f} ± " in page
    config = {"model": "resnet8", "classes": 10, "channels": 1, "inputs": to_wire(square())}
    exported = Exported(
        finalist=tuned, run=tuned.tested[0], config=config, own=(), images=1, onnx_differences={}
    )
    card = model_card(findings, exported)
    assert f"these weights, test surprisal | {bits[0]:.3f} bits |" in card
    assert trials_frame(data)["value"].max() <= 0  # of this fixture, whose values are accuracies


def test_the_search_minimises_a_metric_whose_lower_values_are_better(added: str) -> None:
    words = measure(added)
    right = np.eye(3, dtype=np.float32)[LABELS]
    assert objective(added, 9 * right, LABELS) > objective(added, right, LABELS) > words.worst
    assert (words.worst, words.best) == (-200, 0)
    assert words.value(objective(added, right, LABELS)) == "0.796 bits"
    assert words.change(-0.25) == "+0.250 bits"
    assert words.interval(-0.5, 0.25) == "−0.250 to +0.500"
    assert words.maximised == "surprisal, sign turned"
