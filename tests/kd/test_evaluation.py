"""Figures of predictions equal loops over Python floats; predicting changes nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.training import evaluation
from kd.training.evaluation import batch_size, ece, evaluate, predict, teacher_kl
from tests.support.small import copied, labelled, network, same_bits, square


def draw(seed: int, count: int, classes: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and of a teacher, and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, count, classes, generator=generator) * spread
    return student, teacher, torch.randint(0, classes, (count,), generator=generator)


def naive_softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def naive_ece(logits: Tensor, labels: Tensor) -> float:
    """Guo et al. 2017, equations 3 and 5: bin m holds confidences in ((m - 1) / M, m / M]."""
    held: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shares = naive_softmax(row)
        confidence = max(shares)
        held[math.ceil(confidence * 15) - 1].append((confidence, shares.index(confidence) == label))
    error = 0.0
    for content in filter(None, held):
        mean_confidence = sum(confidence for confidence, _ in content) / len(content)
        right = sum(correct for _, correct in content) / len(content)
        error += len(content) / len(labels) * abs(right - mean_confidence)
    return error


draws = st.builds(
    draw, st.integers(0, 999), st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.1, 1, 9])
)


@settings(max_examples=50, deadline=None)
@given(draws)
def test_figures_equal_loops_over_python_floats(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = drawn
    rows = list(zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True))
    right = [max(row) == row[label] for row, _, label in rows]
    losses = [-math.log(naive_softmax(row)[label]) for row, _, label in rows]
    alike = [row.index(max(row)) == other.index(max(other)) for row, other, _ in rows]
    divergences = [
        sum(
            q * (math.log(q) - math.log(p))
            for p, q in zip(naive_softmax(row), naive_softmax(other), strict=True)
        )
        for row, other, _ in rows
    ]
    found = evaluate(student, labels, teacher)
    assert found == {
        "accuracy": pytest.approx(np.mean(right)),
        "nll": pytest.approx(np.mean(losses)),
        "ece": pytest.approx(naive_ece(student, labels), abs=1e-9),
        "agreement": pytest.approx(np.mean(alike)),
        "teacher_kl": pytest.approx(np.mean(divergences), abs=1e-9),
    }


def test_figures_of_a_teacher_that_is_not_there_are_none() -> None:
    student, teacher, labels = draw(1, 30, 4, 2)
    found, without = evaluate(student, labels, teacher), evaluate(student, labels)
    assert without == {**found, "agreement": None, "teacher_kl": None}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = torch.tensor([[1000.0, 0.0]] * 4)  # confidence 1, in the last bin
    assert ece(sure, torch.tensor([0, 0, 0, 0])) == 0
    assert ece(sure, torch.tensor([1, 1, 1, 1])) == 1
    assert ece(sure, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.25)
    even = torch.zeros(4, 2)  # confidence 0.5
    assert ece(even, torch.tensor([0, 0, 1, 1])) == pytest.approx(0)


def test_gaps_of_different_bins_do_not_cancel() -> None:
    logits = torch.tensor([[0.0, 0.0], [1000.0, 0.0]])
    labels = torch.tensor([0, 1])  # 0.5 too careful, 1 too sure
    assert ece(logits, labels) == pytest.approx(0.75)


def test_divergence_is_from_the_teacher_and_zero_between_equals() -> None:
    student, teacher, _ = draw(3, 20, 5, 3)
    assert teacher_kl(teacher, teacher) == 0
    assert teacher_kl(student, teacher) > 0
    assert teacher_kl(student, teacher) != pytest.approx(teacher_kl(teacher, student), rel=1e-3)


def test_extreme_logits_give_finite_figures() -> None:
    student = torch.tensor([[3e38, -3e38], [0.0, 0.0]])
    found = evaluate(student, torch.tensor([1, 0]), student.flip(1))
    assert all(math.isfinite(value) for value in found.values())


def test_prediction_is_in_eval_mode_without_gradient_and_restores_the_mode() -> None:
    model, data = network(), labelled()
    modes: list[tuple[bool, bool]] = []
    model.body.fc.register_forward_hook(
        lambda layer, given, output: modes.append((layer.training, output.requires_grad))
    )
    for training in (True, False):
        model.train(training)
        logits = predict(model, data)
        assert model.training == training
        assert model.body.bn1.training == training
    assert set(modes) == {(False, False)}
    assert (logits.shape, logits.dtype, logits.device.type) == ((24, 3), torch.float32, "cpu")


def test_prediction_restores_the_mode_when_it_fails() -> None:
    model = network(channels=3)
    with pytest.raises(RuntimeError):
        predict(model, labelled(channels=1))
    assert model.training


def test_prediction_leaves_parameters_and_statistics_alone() -> None:
    model = network()
    before = copied(model.state_dict())
    predict(model, labelled())
    assert same_bits(model.state_dict(), before)


def test_prediction_normalises_by_the_mean_and_deviation_of_the_network() -> None:
    model, data = network().eval(), labelled()
    pixels = (data.values.float() / 255 - 0.5) / 0.29
    with torch.no_grad():
        torch.testing.assert_close(predict(model, data), model.body(pixels))
    other = network(inputs=square(mean=0.1))
    assert not torch.allclose(predict(other, data), predict(model, data))


@pytest.mark.parametrize("size", [1, 7, 24, 25])
def test_prediction_does_not_depend_on_where_images_are_split(monkeypatch, size: int) -> None:
    model, data = network(), labelled()
    model.body(data.values.float() / 255)  # statistics of its own
    whole = predict(model, data)
    monkeypatch.setattr(evaluation, "batch_size", lambda inputs, device: size)
    torch.testing.assert_close(predict(model, data), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(16, 16, 512), (32, 32, 128), (64, 32, 64), (224, 224, 8)]
)
def test_so_many_pixels_are_evaluated_at_once_on_a_cpu(height: int, width: int, size: int) -> None:
    images = replace(square(3), shape=(3, height, width))
    assert batch_size(images, torch.device("cpu")) == size
    assert batch_size(images, torch.device("meta")) == 1024


def test_data_move_to_a_device_whole() -> None:
    moved = labelled().to(torch.device("meta"))
    assert {moved.values.device.type, moved.labels.device.type} == {"meta"}
    assert len(moved) == 24
