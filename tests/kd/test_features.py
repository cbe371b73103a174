import math
from dataclasses import FrozenInstanceError
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from kd.errors import ProtocolError
from kd.losses import features as feature_losses
from kd.losses.adapters import Adapters, feature_loss
from kd.models.taps import Tap, TapReading, attention_map
from kd.training.teacher import Projection

MEMBERS = {
    name: feature_losses.load(name)
    for name in ("hint", "cosine", "attention", "similarity", "rkd", "vid")
}


def started_vid(student: Tensor, reading: TapReading) -> Tensor:
    """Vid with variances that differ from channel to channel."""
    raw = torch.linspace(-1, 2, student.shape[1], dtype=student.dtype)
    return MEMBERS["vid"].loss(student, reading, raw_variance=raw)


FEATURE_LOSSES = {name: member.loss for name, member in MEMBERS.items()} | {"vid": started_vid}
ADAPTED_KINDS = [name for name, member in MEMBERS.items() if member.ADAPTED]
hint, cosine, attention, similarity, rkd, vid = FEATURE_LOSSES.values()

NO_ADAPTERS = Adapters({}, {}, seed=0)
SIDES = st.tuples(st.integers(1, 6), st.integers(1, 6))


def maps(
    batch: int, channels: int, sides: tuple[int, int], seed: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *sides, generator=generator, dtype=dtype)


def reading(features: Tensor, full: Tensor | None = None, variance: float = 2.5) -> TapReading:
    """A reading of `features`, with the attention map of `full` (or of the features)."""
    whole = features if full is None else full
    return TapReading(features=features, attention=attention_map(whole), variance=variance)


# What the losses are, once more, in loops over Python floats.


def naive_pool(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average over the cells floor(i H / h) ... ceil((i + 1) H / h) of the last two axes."""
    rows, columns = grid.shape[-2:]
    pooled = np.zeros((*grid.shape[:-2], height, width))
    for i in range(height):
        top, bottom = i * rows // height, -(-(i + 1) * rows // height)
        for j in range(width):
            left, right = j * columns // width, -(-(j + 1) * columns // width)
            cells = [grid[..., y, x] for y in range(top, bottom) for x in range(left, right)]
            pooled[..., i, j] = sum(cells) / len(cells)
    return pooled


def naive_match(student: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height = min(student.shape[-2], teacher.shape[-2])
    width = min(student.shape[-1], teacher.shape[-1])
    return naive_pool(student, height, width), naive_pool(teacher, height, width)


def naive_unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length if length else 0.0 for value in vector]


def naive_attention_map(features: np.ndarray) -> np.ndarray:
    batch, channels, height, width = features.shape
    result = np.zeros((batch, height, width))
    for b in range(batch):
        energy = [
            sum(features[b, c, y, x] ** 2 for c in range(channels)) / channels
            for y in range(height)
            for x in range(width)
        ]
        result[b] = np.array(naive_unit(energy)).reshape(height, width)
    return result


def naive_hint(student: np.ndarray, teacher: np.ndarray, full: np.ndarray) -> float:
    student, teacher = naive_match(student, teacher)
    batch, channels, height, width = student.shape
    total = 0.0
    for b, y, x in np.ndindex(batch, height, width):
        total += sum((student[b, c, y, x] - teacher[b, c, y, x]) ** 2 for c in range(channels))
    return total / (batch * height * width) / 2.5


def naive_cosine(student: np.ndarray, teacher: np.ndarray, full: np.ndarray) -> float:
    student, teacher = naive_match(student, teacher)
    batch, _, height, width = student.shape
    total = 0.0
    for b, y, x in np.ndindex(batch, height, width):
        pairs = zip(naive_unit(student[b, :, y, x]), naive_unit(teacher[b, :, y, x]), strict=True)
        total += 1 - sum(s * t for s, t in pairs)
    return total / (batch * height * width)


def naive_attention(student: np.ndarray, teacher: np.ndarray, full: np.ndarray) -> float:
    pooled = naive_match(naive_attention_map(student), naive_attention_map(full))
    total = 0.0
    for left, right in zip(*pooled, strict=True):
        pairs = zip(naive_unit(left.flatten()), naive_unit(right.flatten()), strict=True)
        total += sum((s - t) ** 2 for s, t in pairs)
    return total / len(student)


def naive_similarity(student: np.ndarray, teacher: np.ndarray, full: np.ndarray) -> float:
    def gram(features: np.ndarray) -> list[list[float]]:
        flat = [image.flatten() for image in features]
        return [naive_unit([sum(a * b) for b in flat]) for a in flat]

    left, right = (gram(side) for side in naive_match(student, teacher))
    size = len(student)
    total = sum((left[i][j] - right[i][j]) ** 2 for i in range(size) for j in range(size))
    return 10 * total / size


def naive_huber(left: float, right: float) -> float:
    apart = abs(left - right)
    return apart * apart / 2 if apart < 1 else apart - 0.5


def naive_distances(vectors: np.ndarray) -> list[float]:
    found = [math.dist(one, other) for one in vectors for other in vectors]
    positive = [distance for distance in found if distance > 0]
    return [distance * len(positive) / sum(positive) if positive else 0.0 for distance in found]


def naive_cosines(vectors: np.ndarray) -> list[float]:
    found = []
    for middle in vectors:
        directions = [naive_unit((other - middle).tolist()) for other in vectors]
        for one in directions:
            found += [sum(a * b for a, b in zip(one, two, strict=True)) for two in directions]
    return found


def naive_rkd(student: np.ndarray, teacher: np.ndarray, full: np.ndarray) -> float:
    total = 0.0
    vectors = [maps.mean(axis=(2, 3)) for maps in naive_match(student, teacher)]
    for weight, measure in ((25, naive_distances), (50, naive_cosines)):
        pairs = list(zip(*(measure(rows) for rows in vectors), strict=True))
        total += weight * sum(naive_huber(*pair) for pair in pairs) / len(pairs)
    return total


def naive_vid(student: np.ndarray, teacher: np.ndarray, full: np.ndarray) -> float:
    student, teacher = naive_match(student, teacher)
    channels = student.shape[1]
    total = 0.0
    for b, c, y, x in np.ndindex(*student.shape):
        raw = -1 + 3 * c / (channels - 1) if channels > 1 else -1
        deviation = math.sqrt(math.log(1 + math.exp(raw)) + 1e-5)
        density = NormalDist(student[b, c, y, x], deviation).pdf(teacher[b, c, y, x])
        total -= math.log(density) + math.log(2 * math.pi) / 2
    return total / student.size


NAIVE = {
    "rkd": naive_rkd,
    "vid": naive_vid,
    "hint": naive_hint,
    "cosine": naive_cosine,
    "attention": naive_attention,
    "similarity": naive_similarity,
}


def test_losses_that_compare_channel_by_channel_have_adapters() -> None:
    assert ADAPTED_KINDS == ["hint", "cosine", "vid"]


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 4),
    channels=st.integers(1, 4),
    student_sides=SIDES,
    teacher_sides=SIDES,
    full_sides=SIDES,
)
def test_feature_loss_agrees_with_a_naive_computation(
    kind: str,
    seed: int,
    batch: int,
    channels: int,
    student_sides: tuple[int, int],
    teacher_sides: tuple[int, int],
    full_sides: tuple[int, int],
) -> None:
    student = maps(batch, channels, student_sides, seed)
    teacher = maps(batch, channels, teacher_sides, seed + 1)
    full = maps(batch, 3, full_sides, seed + 2)
    found = FEATURE_LOSSES[kind](student, reading(teacher, full))
    expected = NAIVE[kind](student.numpy(), teacher.numpy(), full.numpy())
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_feature_loss_has_the_gradient_of_its_value(kind: str) -> None:
    teacher = maps(3, 4, (2, 3), 1)
    for sides in ((2, 3), (4, 2), (1, 1), (5, 5)):
        student = maps(3, 4, sides, 2).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda features: FEATURE_LOSSES[kind](features, reading(teacher)), (student,)
        )


@pytest.mark.parametrize("kind", [kind for kind in FEATURE_LOSSES if kind != "vid"])
def test_feature_loss_is_zero_when_student_equals_teacher_and_only_then(kind: str) -> None:
    teacher = maps(4, 3, (4, 4), 3)
    assert FEATURE_LOSSES[kind](teacher, reading(teacher)).item() == pytest.approx(0, abs=1e-12)
    assert FEATURE_LOSSES[kind](maps(4, 3, (4, 4), 4), reading(teacher)).item() > 0.01


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_feature_loss_stays_when_the_batch_is_doubled(kind: str) -> None:
    student, teacher = maps(4, 3, (4, 4), 5), maps(4, 3, (4, 4), 6)
    once = FEATURE_LOSSES[kind](student, reading(teacher)).item()
    twice = FEATURE_LOSSES[kind](student.repeat(2, 1, 1, 1), reading(teacher.repeat(2, 1, 1, 1)))
    assert twice.item() == pytest.approx(once)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_feature_loss_does_not_depend_on_the_order_of_images(kind: str) -> None:
    student, teacher = maps(4, 3, (4, 4), 5), maps(4, 3, (4, 4), 6)
    rows = torch.tensor([2, 0, 3, 1])
    found = FEATURE_LOSSES[kind](student[rows], reading(teacher[rows])).item()
    assert found == pytest.approx(FEATURE_LOSSES[kind](student, reading(teacher)).item())


@pytest.mark.parametrize("kind", ["cosine", "attention", "similarity", "rkd"])
def test_all_but_the_predictions_of_features_ignore_the_scale_of_the_student(kind: str) -> None:
    student, teacher = maps(4, 3, (4, 4), 7), reading(maps(4, 3, (4, 4), 8))
    found = FEATURE_LOSSES[kind](7 * student, teacher).item()
    assert found == pytest.approx(FEATURE_LOSSES[kind](student, teacher).item())
    assert hint(7 * student, teacher).item() > 2 * hint(student, teacher).item()


def test_hint_of_the_mean_is_the_share_of_variance_that_is_unexplained() -> None:
    teacher = maps(50, 3, (4, 4), 9)
    positions = teacher.movedim(1, -1).flatten(0, -2)
    variance = positions.var(0, correction=0).sum().item()
    student = positions.mean(0)[None, :, None, None].expand_as(teacher)
    assert hint(student, reading(teacher, variance=variance)).item() == pytest.approx(1)


def test_cosine_of_opposite_maps_is_two() -> None:
    teacher = maps(4, 3, (2, 2), 10)
    assert cosine(-3 * teacher, reading(teacher)).item() == pytest.approx(2)


@pytest.mark.parametrize("kind", ["similarity", "rkd"])
def test_losses_of_relations_ignore_a_rotation_of_the_channels(kind: str) -> None:
    """So the teacher's projection changes nothing in them, if it keeps all directions."""
    student, teacher = maps(4, 3, (2, 2), 11), reading(maps(4, 5, (2, 2), 12))
    rotation, _ = torch.linalg.qr(maps(1, 1, (3, 3), 13)[0, 0])
    turned = torch.einsum("bchw,cd->bdhw", student, rotation)
    found = FEATURE_LOSSES[kind](turned, teacher).item()
    assert found == pytest.approx(FEATURE_LOSSES[kind](student, teacher).item())
    assert found > 0


def test_rkd_weighs_distances_and_angles_by_its_parameters_and_ignores_a_shift() -> None:
    student, teacher = maps(5, 3, (2, 2), 11), reading(maps(5, 4, (2, 2), 12))
    parts = [{"distance_weight": 25.0, "angle_weight": 0.0}, {"distance_weight": 0.0}]
    distance, angle = (
        feature_losses.load("rkd", given).loss(student, teacher).item() for given in parts
    )
    assert distance + angle == pytest.approx(rkd(student, teacher).item())
    assert min(distance, angle) > 0
    assert rkd(student + 7, teacher).item() == pytest.approx(distance + angle)
    with pytest.raises(ProtocolError, match="weights of rkd must lie in 0-1000, one above 0, got"):
        feature_losses.load("rkd", {"distance_weight": 0.0, "angle_weight": 0.0})


@pytest.mark.parametrize("batch", [2, 5])
def test_rkd_of_images_that_are_equal_but_for_rounding_is_that_of_equal_ones(batch: int) -> None:
    """Dividing by a distance that is rounding would give a gradient of the order of 1e6."""
    one = 3 + maps(1, 6, (3, 3), 1, torch.float32)
    noise = 1e-7 * maps(batch, 6, (3, 3), 2, torch.float32)
    student = (one + noise).requires_grad_()
    value = rkd(student, reading(maps(batch, 6, (3, 3), 3, torch.float32)))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert (gradient == 0).all()


def test_vid_is_least_where_the_variance_is_the_squared_error() -> None:
    student, teacher = maps(6, 4, (3, 3), 4), reading(maps(6, 4, (3, 3), 5))
    squares = (student - teacher.features).square().mean(dim=(0, 2, 3))
    raw = squares.expm1().log().requires_grad_()
    value = MEMBERS["vid"].loss(student, teacher, raw_variance=raw)
    (gradient,) = torch.autograd.grad(value, raw)
    assert gradient.abs().max() < 1e-4
    assert value.item() == pytest.approx((1 + squares.log().mean().item()) / 2, abs=1e-4)


def test_the_variances_of_vid_start_at_5_train_with_the_adapters_and_are_in_their_state() -> None:
    student, teacher = maps(3, 5, (4, 4), 31), reading(maps(3, 6, (4, 4), 32))
    taps = {"last1": 5, "last2": 5}, {"last1": 6, "last2": 4}
    adapters = Adapters.of("vid", *taps, seed=1).double()
    assert {f"trained.{tap}.raw_variance" for tap in taps[0]} <= {*adapters.state_dict()}
    first = adapters.trained["last1"].raw_variance
    assert (functional.softplus(first) + 1e-5).tolist() == pytest.approx([5.0] * 6)
    used = {"last1": student}, {"last1": teacher}
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.5)
    before = feature_loss(MEMBERS["vid"], *used, adapters)
    before.backward()
    assert (first.grad != 0).all()
    optimizer.step()
    assert feature_loss(MEMBERS["vid"], *used, adapters) < before
    for kind in ("none", "attention", "hint"):
        assert not Adapters.of(kind, *taps, seed=1).trained
        assert bool(Adapters.of(kind, *taps, seed=1).layers) == (kind == "hint")


def test_attention_of_single_positions_is_zero() -> None:
    assert attention(maps(4, 3, (1, 1), 14), reading(maps(4, 3, (4, 4), 15))).item() == 0


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
@pytest.mark.parametrize(
    ("student_scale", "teacher_scale"),
    [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1e-9, 1.0), (1e4, 1.0)],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_feature_loss_and_gradient_are_finite_for_extreme_maps(
    kind: str, student_scale: float, teacher_scale: float, batch: int
) -> None:
    student = student_scale * maps(batch, 4, (4, 4), 16, torch.float32)
    student.requires_grad_()
    teacher = teacher_scale * maps(batch, 4, (4, 4), 17, torch.float32)
    value = FEATURE_LOSSES[kind](student, reading(teacher))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if student_scale == 0 and kind not in ("hint", "vid"):
        assert (gradient == 0).all()


def test_one_image_of_zeros_does_not_blow_up_the_gradient() -> None:
    """All ReLUs of a narrow student are off: dividing by the length 0 would give 1e12."""
    student = maps(3, 4, (4, 4), 18, torch.float32)
    student[1] = 0
    student.requires_grad_()
    for kind, loss in FEATURE_LOSSES.items():
        value = loss(student, reading(maps(3, 4, (4, 4), 19, torch.float32)))
        (gradient,) = torch.autograd.grad(value, student)
        assert gradient.abs().max() < 10, kind


def test_attention_map_has_length_1_and_agrees_with_a_naive_computation() -> None:
    features = maps(3, 5, (4, 2), 20)
    found = attention_map(features)
    assert found.shape == (3, 4, 2)
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    np.testing.assert_allclose(found, naive_attention_map(features.numpy()), rtol=1e-12)


def test_attention_map_of_float16_is_computed_in_float32() -> None:
    """Squares of features above 255 leave the range of float16."""
    found = attention_map(1000 * maps(2, 3, (4, 4), 21).half())
    assert found.dtype == torch.float32
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1])


def test_attention_map_of_zeros_stays_zero() -> None:
    assert (attention_map(torch.zeros(2, 3, 4, 4)) == 0).all()


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_a_reading_in_float16_is_taken_to_the_dtype_of_the_student(kind: str) -> None:
    student, teacher = maps(3, 4, (4, 4), 22, torch.float32), maps(3, 4, (4, 4), 23, torch.float32)
    half = TapReading(
        features=teacher.half(), attention=attention_map(teacher).half(), variance=2.5
    )
    found = FEATURE_LOSSES[kind](student, half)
    assert found.dtype == torch.float32
    exact = FEATURE_LOSSES[kind](student, reading(teacher)).item()
    assert found.item() == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan])
def test_a_reading_without_variance_is_refused(variance: float) -> None:
    with pytest.raises(ProtocolError, match="variance of a tap must be above 0, got"):
        reading(maps(2, 3, (2, 2), 24), variance=variance)


def test_a_reading_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        reading(maps(2, 3, (2, 2), 24)).variance = 3.0  # type: ignore[misc]


def test_adapters_hold_one_layer_a_tap_and_project_to_the_channels_of_the_reading() -> None:
    adapters = Adapters({"last1": 6, "last2": 3}, {"last1": 4, "last2": 5}, seed=1)
    assert adapters("last2", torch.zeros(2, 3, 7, 7)).shape == (2, 5, 7, 7)
    shapes = {name: tuple(value.shape) for name, value in adapters.named_parameters()}
    assert shapes == {
        "layers.last1.weight": (4, 6, 1, 1),
        "layers.last1.bias": (4,),
        "layers.last2.weight": (5, 3, 1, 1),
        "layers.last2.bias": (5,),
    }


def test_adapters_depend_on_the_seed_alone() -> None:
    def weights(seed: int, *taps: str) -> Tensor:
        channels = dict.fromkeys(taps, 8)
        return Adapters(channels, channels, seed).layers["last1"].weight

    state = torch.get_rng_state()
    first = weights(1, "last1")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(weights(1, "last2", "last1"), first)
    assert not torch.equal(weights(2, "last1"), first)
    torch.set_rng_state(state)


def test_tensors_of_a_loss_start_from_a_seed_for_each_tap() -> None:
    def drawn(seed: int, *taps: str) -> dict[str, Tensor]:
        channels = dict.fromkeys(taps, 8)
        adapters = Adapters(
            channels, channels, seed, lambda count, draw: {"x": torch.rand(count, generator=draw)}
        )
        return {tap: adapters.trained[tap].x for tap in taps}

    both = drawn(1, "last2", "last1")
    assert torch.equal(both["last1"], drawn(1, "last1")["last1"])
    assert not torch.equal(both["last1"], both["last2"])
    assert not torch.equal(both["last1"], drawn(2, "last1")["last1"])


def test_taps_of_one_adapter_start_with_different_weights() -> None:
    layers = Adapters({"last1": 8, "last2": 8}, {"last1": 8, "last2": 8}, seed=1).layers
    assert not torch.equal(layers["last1"].weight, layers["last2"].weight)


def test_adapters_start_as_convolutions_do() -> None:
    ours = Adapters({"last1": 64}, {"last1": 64}, seed=1).layers["last1"]
    with torch.random.fork_rng():
        theirs = nn.Conv2d(64, 64, kernel_size=1)
    for name in ("weight", "bias"):
        mine, standard = getattr(ours, name), getattr(theirs, name)
        assert mine.abs().max() <= 1 / 8
        assert mine.std().item() == pytest.approx(standard.std().item(), rel=0.4)


def test_adapters_of_other_taps_are_refused() -> None:
    with pytest.raises(ProtocolError, match=r"same taps, got \['last1'\] and \['last2'\]"):
        Adapters({"last1": 3}, {"last2": 3}, seed=0)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_feature_loss_is_the_mean_over_the_taps(kind: str) -> None:
    students = {"last1": maps(3, 5, (2, 2), 25), "last2": maps(3, 4, (4, 4), 26)}
    readings = {"last2": reading(maps(3, 6, (4, 4), 27)), "last1": reading(maps(3, 7, (2, 2), 28))}
    channels = {"last1": 5, "last2": 4}, {"last1": 7, "last2": 6}
    adapters = Adapters.of(kind, *channels, seed=1).double()
    found = feature_loss(MEMBERS[kind], students, readings, adapters).item()
    parts = []
    for tap, student in students.items():
        adapted = adapters(tap, student) if kind in ADAPTED_KINDS else student
        trained = dict(adapters.trained[tap].named_parameters()) if kind == "vid" else {}
        parts.append(MEMBERS[kind].loss(adapted, readings[tap], **trained).item())
    assert found == pytest.approx(sum(parts) / 2)
    assert parts[0] != pytest.approx(parts[1])


@pytest.mark.parametrize("kind", ADAPTED_KINDS)
def test_pooling_before_the_adapter_changes_nothing(kind: str) -> None:
    student, teacher = maps(3, 5, (7, 9), 29), reading(maps(3, 6, (4, 4), 30))
    adapters = Adapters.of(kind, {"last1": 5}, {"last1": 6}, seed=1).double()
    found = feature_loss(MEMBERS[kind], {"last1": student}, {"last1": teacher}, adapters)
    trained = dict(adapters.trained["last1"].named_parameters()) if kind == "vid" else {}
    expected = MEMBERS[kind].loss(adapters("last1", student), teacher, **trained)
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", ADAPTED_KINDS)
def test_every_parameter_of_an_adapter_gets_a_gradient(kind: str) -> None:
    student, teacher = maps(3, 5, (4, 4), 31), reading(maps(3, 6, (4, 4), 32))
    adapters = Adapters.of(kind, {"last1": 5}, {"last1": 6}, seed=1).double()
    feature_loss(MEMBERS[kind], {"last1": student}, {"last1": teacher}, adapters).backward()
    assert all((parameter.grad != 0).any() for parameter in adapters.parameters())


def test_other_taps_than_those_read_are_refused() -> None:
    student, teacher = maps(3, 5, (4, 4), 33), reading(maps(3, 5, (4, 4), 34))
    with pytest.raises(ProtocolError, match="same taps"):
        feature_loss(MEMBERS["attention"], {"last1": student}, {"last2": teacher}, NO_ADAPTERS)


# (channels, side) at last1, last2, last3
CIFAR_SHAPES = [(64, 8), (32, 16), (16, 32)]
NARROW_SHAPES = [(8, 8), (4, 16), (2, 32)]
DIGITS_SHAPES = [(16, 2), (8, 4), (4, 8)]
TORCHVISION_SHAPES = [(256, 4), (128, 8), (64, 16)]
WIDE_SHAPES = [(512, 4), (256, 8), (128, 16)]


def random_stage(images: Tensor, channels: int, side: int, seed: int) -> Tensor:
    """A map as an untrained stage gives it: random filters, batch normalisation, ReLU."""
    weight = maps(channels, 3, (5, 5), seed, torch.float32)
    raw = functional.conv2d(functional.adaptive_avg_pool2d(images, side), weight, padding=2)
    return functional.relu(functional.batch_norm(raw, None, None, training=True))


def reduced(full: Tensor) -> TapReading:
    """A reading of a map, as the teacher cache makes it."""
    side = min(4, full.shape[-1])
    pooled = functional.adaptive_avg_pool2d(full, side)
    flat = pooled.movedim(1, -1).flatten(0, -2)
    _, values, directions = torch.linalg.svd(flat, full_matrices=False)
    rank = min(64, len(values))
    projected = torch.einsum("bchw,kc->bkhw", pooled, directions[:rank])
    features = projected / projected.square().mean().sqrt()
    variance = features.movedim(1, -1).flatten(0, -2).var(0, correction=0).sum().item()
    return TapReading(features=features.half(), attention=attention_map(full), variance=variance)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
@pytest.mark.parametrize(
    ("student_shapes", "teacher_shapes"),
    [
        (NARROW_SHAPES, CIFAR_SHAPES),
        (CIFAR_SHAPES, CIFAR_SHAPES),
        (CIFAR_SHAPES, WIDE_SHAPES),
        (TORCHVISION_SHAPES, WIDE_SHAPES),
        (DIGITS_SHAPES, DIGITS_SHAPES),
        (DIGITS_SHAPES, CIFAR_SHAPES),
    ],
)
def test_feature_loss_starts_within_a_hundredth_and_ten(
    kind: str, student_shapes: list[tuple[int, int]], teacher_shapes: list[tuple[int, int]]
) -> None:
    """So that one range of weights serves every kind."""
    images = functional.interpolate(maps(32, 3, (8, 8), 35, torch.float32), 32, mode="bilinear")
    taps = ("last1", "last2", "last3")
    students = {
        tap: random_stage(images, *shape, seed=36)
        for tap, shape in zip(taps, student_shapes, strict=True)
    }
    readings = {
        tap: reduced(random_stage(images, *shape, seed=37))
        for tap, shape in zip(taps, teacher_shapes, strict=True)
    }
    adapters = Adapters.of(
        kind,
        {tap: student.shape[1] for tap, student in students.items()},
        {tap: reading.features.shape[1] for tap, reading in readings.items()},
        seed=1,
    )
    for used in (taps[:1], taps[:2], taps):
        found = feature_loss(
            MEMBERS[kind],
            {tap: students[tap] for tap in used},
            {tap: readings[tap] for tap in used},
            adapters,
        )
        assert 0.01 < found.item() < 10


LAYOUTS = {  # what a module returns for a batch of 4, and how it is read
    "map": (Tap("layer4"), (4, 12, 8, 8)),
    "channels last": (Tap("features", "channels last"), (4, 5, 5, 12)),
    "tokens": (Tap("blocks", "tokens", 2), (4, 2 + 7 * 7, 12)),
    "sequence": (Tap("encoder", "sequence"), (4, 21, 12)),
    "sequence, channels first": (Tap("stage2", "sequence, channels first"), (4, 12, 9)),
    "vector": (Tap("fc1", "vector"), (4, 12)),
}


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("student_layout", LAYOUTS)
@pytest.mark.parametrize("teacher_layout", LAYOUTS)
def test_layouts_of_teacher_and_student_need_not_be_the_same(
    kind: str, student_layout: str, teacher_layout: str
) -> None:
    """A transformer teaches a CNN, and the other way round. A vector is a map of one position, the
    attention map of which is 1 whatever the model does: there that loss is 0, and nothing else.
    """
    (place, shape), (teacher_place, teacher_shape) = (
        LAYOUTS[student_layout],
        LAYOUTS[teacher_layout],
    )
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(shape, generator=generator).requires_grad_()
    full = teacher_place.as_map(torch.randn(teacher_shape, generator=generator))
    vectors = torch.linalg.qr(torch.randn(12, 6, generator=generator)).Q
    projection = Projection(vectors=vectors, scale=1.3, variance=3.0, energy=0.5)
    kept = reading(projection.reduce(full).half().float(), full.half().float(), variance=3.0)
    member = MEMBERS[kind]
    adapters = Adapters.of(kind, {"last1": 12}, {"last1": 6}, seed=0)
    value = feature_loss(member, {"last1": place.as_map(output)}, {"last1": kept}, adapters)
    (gradient,) = torch.autograd.grad(value, output)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if kind == "attention" and "vector" in (student_layout, teacher_layout):
        assert value == 0
        assert not gradient.any()
    else:
        assert 0.01 < value < 10
        assert gradient.any()
        assert not gradient[:, : place.prefix].any() or place.layout != "tokens"
