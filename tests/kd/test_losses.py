import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from kd.data.labels import MixedLabels
from kd.losses import logits as logit_losses
from kd.losses.hard import balanced_weights, hard

SOFT_LOSSES = {
    name: logit_losses.load(name).loss for name in ("kl", "zscore", "dkd", "dist", "reverse-kl")
}
kl, zscore, dkd, dist, _ = SOFT_LOSSES.values()
TEMPERATURES = (0.5, 1.0, 4.0, 20.0)


def logits(rows: int, classes: int, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def case(
    seed: int = 0, rows: int = 6, classes: int = 5, scale: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels."""
    labels = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    return (
        logits(rows, classes, 2 * seed, scale),
        logits(rows, classes, 2 * seed + 1, scale),
        labels,
    )


def gradient(loss: str, student: Tensor, teacher: Tensor, labels: Tensor, t: float) -> Tensor:
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(SOFT_LOSSES[loss](student, teacher, labels, t), student)
    return found


# What the losses are, once more, in loops over Python floats.


def naive_softmax(row: np.ndarray, temperature: float) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def naive_divergence(teacher: list[float], student: list[float]) -> float:
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))


def naive_kl(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, t: float) -> float:
    total = 0.0
    for row in range(len(student)):
        total += naive_divergence(naive_softmax(teacher[row], t), naive_softmax(student[row], t))
    return t * t * total / len(student)


def naive_reverse(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, t: float) -> float:
    return naive_kl(teacher, student, labels, t)


def naive_zscore(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, t: float) -> float:
    def standardised(rows: np.ndarray) -> np.ndarray:
        result = []
        for row in rows:
            mean = sum(row) / len(row)
            variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
            result.append([(value - mean) / (math.sqrt(variance) + 1e-7) for value in row])
        return np.array(result)

    return naive_kl(standardised(student), standardised(teacher), labels, t)


def naive_decoupled(
    student: np.ndarray, teacher: np.ndarray, label: int, t: float
) -> tuple[float, float, float]:
    """TCKD, NCKD and the teacher's probability of the label, for one row."""
    p, q = naive_softmax(teacher, t), naive_softmax(student, t)
    others = [c for c in range(len(p)) if c != label]
    other_p, other_q = sum(p[c] for c in others), sum(q[c] for c in others)
    target = naive_divergence([p[label], other_p], [q[label], other_q])
    non_target = naive_divergence(
        [p[c] / other_p for c in others], [q[c] / other_q for c in others]
    )
    return target, non_target, p[label]


def naive_dkd(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, t: float) -> float:
    total = 0.0
    for row, label in enumerate(labels):
        target, non_target, _ = naive_decoupled(student[row], teacher[row], label, t)
        total += target + 8 * non_target
    return t * t * total / len(student)


@pytest.mark.parametrize(("of_target", "of_rest"), [(2.0, 0.0), (0.0, 3.0), (1.0, 8.0)])
def test_dkd_weighs_its_parts_by_its_parameters(of_target: float, of_rest: float) -> None:
    student, teacher, labels = case()
    given = {"target_weight": of_target, "non_target_weight": of_rest}
    found = logit_losses.load("dkd", given).loss(student, teacher, labels, 2.0)
    parts = [
        naive_decoupled(*rows, label, 2.0)[:2]
        for *rows, label in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True)
    ]
    wanted = sum(of_target * target + of_rest * rest for target, rest in parts) * 4 / len(parts)
    assert found.item() == pytest.approx(wanted)


def naive_pearson(left: list[float], right: list[float]) -> float:
    mean_left, mean_right = sum(left) / len(left), sum(right) / len(right)
    pairs = [(x - mean_left, y - mean_right) for x, y in zip(left, right, strict=True)]
    norms = math.sqrt(sum(x * x for x, _ in pairs)) * math.sqrt(sum(y * y for _, y in pairs))
    return sum(x * y for x, y in pairs) / (norms + 1e-8)


def naive_dist(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, t: float) -> float:
    p = [naive_softmax(row, t) for row in teacher]
    q = [naive_softmax(row, t) for row in student]
    rows, classes = student.shape
    inter = sum(naive_pearson(q[b], p[b]) for b in range(rows)) / rows
    intra = 0.0
    for c in range(classes):
        intra += naive_pearson([q[b][c] for b in range(rows)], [p[b][c] for b in range(rows)])
    return t * t * ((1 - inter) + (1 - intra / classes))


NAIVE = {
    "kl": naive_kl,
    "zscore": naive_zscore,
    "dkd": naive_dkd,
    "dist": naive_dist,
    "reverse-kl": naive_reverse,
}


@pytest.mark.parametrize("loss", SOFT_LOSSES)
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    classes=st.integers(2, 7),
    scale=st.floats(0.1, 5),
    temperature=st.floats(0.5, 20),
)
def test_soft_loss_agrees_with_a_naive_computation(
    loss: str, seed: int, rows: int, classes: int, scale: float, temperature: float
) -> None:
    student, teacher, labels = case(seed, rows, classes, scale)
    found = SOFT_LOSSES[loss](student, teacher, labels, temperature).item()
    expected = NAIVE[loss](student.numpy(), teacher.numpy(), labels.numpy(), temperature)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * temperature**2)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_in_float32_agrees_with_a_naive_computation(
    loss: str, temperature: float
) -> None:
    student, teacher, labels = case(3, 64, 10)
    found = SOFT_LOSSES[loss](student.float(), teacher.float(), labels, temperature)
    expected = NAIVE[loss](student.numpy(), teacher.numpy(), labels.numpy(), temperature)
    assert found.dtype == torch.float32
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5 * temperature**2)


@pytest.mark.parametrize("temperature", [0.7, 4.0])
@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_has_the_gradient_of_its_value(loss: str, temperature: float) -> None:
    student, teacher, labels = case(1, 4, 4, 1.0)
    assert torch.autograd.gradcheck(
        lambda s, t: SOFT_LOSSES[loss](s, t, labels, temperature),
        (student.requires_grad_(), teacher.requires_grad_()),
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_is_zero_when_student_equals_teacher(loss: str, temperature: float) -> None:
    _, teacher, labels = case(2)
    found = SOFT_LOSSES[loss](teacher, teacher, labels, temperature).item()
    # dist is off by 1e-8 over the squared length of a constant-free row or column
    assert found == pytest.approx(0, abs=1e-3 * temperature**2 if loss == "dist" else 1e-9)


def test_with_two_classes_zscore_has_no_gradient_and_dkd_is_kl() -> None:
    """Why the built-in search spaces leave these out there, and offer `dist`."""
    binary = case(2, classes=2)
    steepness = {name: gradient(name, *binary, 2.0).abs().max().item() for name in SOFT_LOSSES}
    assert steepness.pop("zscore") < 1e-5
    assert min(steepness.values()) > 0.01
    assert dkd(*binary, 2.0).item() == pytest.approx(kl(*binary, 2.0).item())


@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_is_positive_when_student_differs(loss: str) -> None:
    assert SOFT_LOSSES[loss](*case(2), 4.0).item() > 0.01


@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_ignores_a_shift_of_each_row(loss: str) -> None:
    student, teacher, labels = case(4)
    shift = logits(len(student), 1, 99, 10.0)
    found = SOFT_LOSSES[loss](student + shift, teacher - 2 * shift, labels, 2.0).item()
    assert found == pytest.approx(SOFT_LOSSES[loss](student, teacher, labels, 2.0).item())


def test_zscore_ignores_the_scale_of_each_row_and_kl_does_not() -> None:
    student, teacher, labels = case(5)
    scale = torch.linspace(0.1, 30, len(student), dtype=torch.float64)[:, None]
    scaled = zscore(scale * student, teacher / scale, labels, 2.0).item()
    assert scaled == pytest.approx(zscore(student, teacher, labels, 2.0).item(), rel=1e-5)
    unscaled = kl(student, teacher, labels, 2.0).item()
    assert kl(scale * student, teacher, labels, 2.0).item() != pytest.approx(unscaled, rel=0.1)


def test_dist_ignores_mixing_the_student_with_the_uniform_distribution() -> None:
    """Pearson's correlation is free of shift and scale, and this is one of the probabilities."""
    student, teacher, labels = case(6)
    mixed = (0.3 * student.softmax(1) + 0.7 / student.shape[1]).log()
    assert dist(mixed, teacher, labels, 1.0).item() == pytest.approx(
        dist(student, teacher, labels, 1.0).item(), rel=1e-4
    )
    assert kl(mixed, teacher, labels, 1.0).item() != pytest.approx(
        kl(student, teacher, labels, 1.0).item(), rel=0.1
    )


@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_does_not_depend_on_the_order_of_samples_or_classes(loss: str) -> None:
    student, teacher, labels = case(7)
    rows, columns = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 2, 0, 1, 3])
    place = columns.argsort()  # where each class has gone
    found = SOFT_LOSSES[loss](
        student[rows][:, columns], teacher[rows][:, columns], place[labels[rows]], 3.0
    )
    assert found.item() == pytest.approx(SOFT_LOSSES[loss](student, teacher, labels, 3.0).item())


@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_is_a_mean_over_the_batch(loss: str) -> None:
    student, teacher, labels = case(8)
    once = SOFT_LOSSES[loss](student, teacher, labels, 3.0).item()
    twice = SOFT_LOSSES[loss](
        student.repeat(2, 1), teacher.repeat(2, 1), labels.repeat(2), 3.0
    ).item()
    assert twice == pytest.approx(once, rel=1e-6)


def test_kl_is_a_sum_over_the_classes() -> None:
    """A mean would be divided by 4 here: a class of no probability would change the loss."""
    student, teacher, labels = case(9, classes=3)
    never = torch.full((len(student), 1), -1e3, dtype=torch.float64)
    padded = kl(torch.cat([student, never], 1), torch.cat([teacher, never], 1), labels, 2.0)
    assert padded.item() == pytest.approx(kl(student, teacher, labels, 2.0).item())


@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_is_multiplied_by_the_temperature_squared(loss: str) -> None:
    """Dividing both logits by T is the only other thing that T does (zscore divides after)."""
    student, teacher, labels = case(10)
    if loss == "zscore":
        student = (student - student.mean(1, keepdim=True)) / student.std(1, keepdim=True)
        teacher = (teacher - teacher.mean(1, keepdim=True)) / teacher.std(1, keepdim=True)
        at_one = kl(student / 4, teacher / 4, labels, 1.0)
    else:
        at_one = SOFT_LOSSES[loss](student / 4, teacher / 4, labels, 1.0)
    at_four = SOFT_LOSSES[loss](student, teacher, labels, 4.0)
    assert at_four.item() == pytest.approx(16 * at_one.item(), rel=1e-5)


def test_gradient_of_kl_tends_to_the_difference_of_centred_logits() -> None:
    """Hinton et al. 2015, section 2.1: at high temperature distillation matches logits."""
    student, teacher, labels = case(11)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = centred / student.numel()  # of the mean of half the squared difference
    errors = []
    for temperature in (10.0, 100.0, 1000.0):
        found = gradient("kl", student, teacher, labels, temperature)
        errors.append(((found - limit).norm() / limit.norm()).item())
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_decomposes_as_dkd_states(temperature: float) -> None:
    """Zhao et al. 2022, equation 6: KL = TCKD + (1 - p_teacher(label)) NCKD."""
    student, teacher, labels = case(12, rows=1)
    label = int(labels[0])
    target, non_target, p = naive_decoupled(
        student[0].numpy(), teacher[0].numpy(), label, temperature
    )
    scale = temperature**2
    whole = kl(student, teacher, labels, temperature).item()
    assert whole == pytest.approx(scale * (target + (1 - p) * non_target), rel=1e-9)
    assert dkd(student, teacher, labels, temperature).item() - whole == pytest.approx(
        scale * (8 - (1 - p)) * non_target, rel=1e-9
    )


def test_dkd_agrees_with_subtracting_1000_from_the_label() -> None:
    """The authors' way of leaving the label out, in float64."""
    student, teacher, labels = case(13)
    mask = functional.one_hot(labels, student.shape[1]).double()
    t = 4.0

    def two_way(values: Tensor) -> Tensor:
        p = functional.softmax(values / t, dim=1)
        return torch.stack([(p * mask).sum(1), (p * (1 - mask)).sum(1)], dim=1)

    target = functional.kl_div(two_way(student).log(), two_way(teacher), reduction="batchmean")
    non_target = functional.kl_div(
        functional.log_softmax(student / t - 1000 * mask, dim=1),
        functional.softmax(teacher / t - 1000 * mask, dim=1),
        reduction="batchmean",
    )
    assert dkd(student, teacher, labels, t).item() == pytest.approx(
        t * t * (target + 8 * non_target).item(), rel=1e-9
    )


@pytest.mark.parametrize("loss", [name for name in SOFT_LOSSES if name != "dkd"])
def test_only_dkd_reads_the_labels(loss: str) -> None:
    student, teacher, labels = case(14)
    other = (labels + 1) % student.shape[1]
    found = SOFT_LOSSES[loss](student, teacher, other, 2.0)
    assert torch.equal(found, SOFT_LOSSES[loss](student, teacher, labels, 2.0))
    assert dkd(student, teacher, other, 2.0) != dkd(student, teacher, labels, 2.0)


EXTREMES = {
    "opposite": (torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])),
    "student saturated": (torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[0.1, 0.2, 0.3]])),
    "teacher saturated": (torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1e4, -1e4, 0.0]])),
    "all equal": (torch.zeros(3, 4), torch.zeros(3, 4)),
    "all equal and large": (torch.full((3, 4), 1e4), torch.full((3, 4), -1e4)),
    "student equal": (torch.full((3, 3), 123.456), torch.tensor([[1.0, 2, 3]] * 3)),
    "teacher equal": (torch.tensor([[1.0, 2, 3]] * 3), torch.full((3, 3), 123.456)),
    "two classes": (torch.tensor([[0.3, -0.2], [1.0, 2.0]]), torch.tensor([[2.0, 1], [0, 1]])),
    "a hair apart": (torch.tensor([[1e4, 1e4 + 1e-3]]), torch.tensor([[0.0, 1e-30]])),
    "a column constant": (torch.tensor([[1.0, 1], [1, 1]]), torch.tensor([[5.0, 1], [1, 5]])),
    "large batch": (1e4 * torch.eye(10), -1e4 * torch.eye(10)),
}


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_soft_loss_and_gradient_are_finite_for_extreme_logits(
    loss: str, extreme: str, temperature: float
) -> None:
    student, teacher = EXTREMES[extreme]
    for label in (0, student.shape[1] - 1):
        labels = torch.full((len(student),), label)
        value = SOFT_LOSSES[loss](student, teacher, labels, temperature)
        assert value.isfinite(), value
        found = gradient(loss, student, teacher, labels, temperature)
        assert found.isfinite().all(), found
        # T * |q - p| <= 2 T for kl; dkd has it 9 times
        if loss in ("kl", "dkd"):
            assert found.abs().max() <= 20 * temperature


@pytest.mark.parametrize("loss", ["zscore", "dist"])
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_rows_of_equal_logits_get_no_gradient(loss: str, classes: int) -> None:
    """Whatever rounding leaves of their mean: a division by it would be of the order of 1e7."""
    teacher = logits(200, classes, 1).float()
    for scale in (0.0, 1e-3, 1.0, 1e4):
        equal = scale * (0.1 + torch.rand(200, 1, generator=torch.Generator().manual_seed(0)))
        found = gradient(
            loss,
            equal.expand(-1, classes).clone(),
            teacher,
            torch.zeros(200, dtype=torch.long),
            2.0,
        )
        assert (found == 0).all()


def test_dist_of_a_batch_of_one_counts_no_correlation_between_samples() -> None:
    student, teacher, labels = case(15, rows=1)
    inter = naive_pearson(
        naive_softmax(student[0].numpy(), 2), naive_softmax(teacher[0].numpy(), 2)
    )
    assert dist(student, teacher, labels, 2.0).item() == pytest.approx(4 * ((1 - inter) + 1))


def test_hard_loss_agrees_with_a_naive_computation() -> None:
    student, _, labels = case(16)
    for smoothing in (0.0, 0.1, 0.9):
        total = 0.0
        for row, label in zip(student.numpy(), labels.tolist(), strict=True):
            for c, q in enumerate(naive_softmax(row, 1.0)):
                target = (1 - smoothing) * (c == label) + smoothing / len(row)
                total -= target * math.log(q)
        found = hard(student, labels, smoothing).item()
        assert found == pytest.approx(total / len(student), rel=1e-9)


def test_balanced_weights_give_all_classes_the_same_sum() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(labels)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    torch.testing.assert_close(weights[labels].mean(), torch.tensor(1.0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_of_classes_multiply_the_hard_loss_of_their_examples(smoothing: float) -> None:
    student, _, labels = case(16)
    weights = torch.linspace(0.5, 2, student.shape[1], dtype=torch.float64)
    each = [
        hard(row[None], label[None], smoothing) for row, label in zip(student, labels, strict=True)
    ]
    wanted = (torch.stack(each) * weights[labels]).mean()
    torch.testing.assert_close(hard(student, labels, smoothing, weights), wanted)
    share = torch.linspace(0, 1, len(labels), dtype=torch.float64)
    partners = labels.flip(0)
    theirs = [
        hard(row[None], label[None], smoothing)
        for row, label in zip(student, partners, strict=True)
    ]
    mixed = share * torch.stack(each) * weights[labels]
    mixed += (1 - share) * torch.stack(theirs) * weights[partners]
    found = hard(student, MixedLabels(labels, partners, share), smoothing, weights)
    torch.testing.assert_close(found, mixed.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_loss_is_finite_for_extreme_logits(smoothing: float) -> None:
    student = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    value = hard(student, torch.tensor([1, 1]), smoothing)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
