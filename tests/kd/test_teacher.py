"""What the teacher says: reduced features that keep what the losses need, and a frozen network."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.data.examples import Examples
from kd.errors import ArtifactError
from kd.models.network import Network
from kd.models.taps import Tap, attention_map
from kd.training import teacher as module
from kd.training.teacher import LiveTeacher, Projection, fit_projections
from tests.support.small import TAPS, copied, labelled, network, same_bits, square, teacher


@pytest.fixture(scope="module")
def data() -> Examples:
    return labelled()


@pytest.fixture(scope="module")
def live(data: Examples) -> LiveTeacher:
    return teacher(data, labelled(12, seed=1))


@pytest.fixture(scope="module")
def maps(live: LiveTeacher, data: Examples) -> dict[str, Tensor]:
    """The teacher's maps of the images that its projections were fitted on."""
    return live.network.forward_taps(data.values, TAPS)[1]


def pooled(features: Tensor) -> Tensor:
    height, width = features.shape[-2:]
    return functional.adaptive_avg_pool2d(features, (min(4, height), min(4, width)))


def linear_teacher(weights: Tensor, shift: Tensor | None = None) -> Network:
    """A network with one tap: `weights` [C, inputs] on every pixel, and `shift` [C]."""
    channels, inputs = weights.shape
    layer = nn.Conv2d(inputs, channels, 1)
    with torch.no_grad():
        layer.weight.copy_(weights[:, :, None, None])
        layer.bias.copy_(torch.zeros(channels) if shift is None else shift)
    body = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return Network("linear", body, [Tap("0")], square(inputs))


def flat(features: Tensor) -> np.ndarray:
    """Return features [B, C, h, w] as rows [B h w, C] of float64."""
    return features.movedim(1, -1).flatten(0, -2).double().numpy()


@pytest.mark.parametrize("tap", TAPS)
def test_columns_are_orthonormal(live: LiveTeacher, tap: str) -> None:
    vectors = live.projections[tap].vectors
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(vectors.shape[1]))


@pytest.mark.parametrize("tap", TAPS)
def test_features_of_full_rank_can_be_had_back(
    live: LiveTeacher, maps: dict[str, Tensor], tap: str
) -> None:
    projection = live.projections[tap]
    reduced = projection.reduce(maps[tap]) * projection.scale
    back = torch.einsum("bkhw,ck->bchw", reduced, projection.vectors)
    torch.testing.assert_close(back, pooled(maps[tap]), rtol=1e-4, atol=1e-4)
    assert reduced.shape[-2:] == (min(4, maps[tap].shape[-2]), min(4, maps[tap].shape[-1]))


def test_leading_directions_of_a_map_of_low_rank_are_found() -> None:
    """100 channels that lie in a space of 3: three directions hold all there is."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(100, 3, generator=generator)).Q
    model = linear_teacher(basis @ torch.diag(torch.tensor([5.0, 2.0, 1.0])))
    projection = fit_projections(model, labelled(40, channels=3), ["last1"])["last1"]
    assert projection.vectors.shape == (100, 64)
    assert projection.energy == pytest.approx(1)
    found = projection.vectors[:, :3]
    torch.testing.assert_close(found @ found.T, basis @ basis.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_vectors_and_energy_are_those_of_the_uncentred_singular_values(
    monkeypatch, live: LiveTeacher, data: Examples, maps: dict[str, Tensor], rank: int
) -> None:
    monkeypatch.setattr(module, "MAX_RANK", rank)
    projection = fit_projections(live.network, data, ["last1"])["last1"]
    _, values, right = np.linalg.svd(flat(pooled(maps["last1"])), full_matrices=False)
    held = (values[:rank] ** 2).sum() / (values**2).sum()
    assert projection.energy == pytest.approx(held)
    assert projection.energy <= 1
    alike = np.abs((right[:rank] * projection.vectors.T.double().numpy()).sum(1))
    np.testing.assert_allclose(alike, 1, atol=1e-4)
    rows = flat(projection.reduce(maps["last1"]))
    assert (rows**2).mean() == pytest.approx(held, rel=1e-4)
    assert rows.var(axis=0).sum() == pytest.approx(projection.variance, rel=1e-4)


def test_the_mean_is_kept_so_that_gram_matrices_are() -> None:
    """Centring would change them: these features lie far from 0."""
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    model = linear_teacher(weights, shift=torch.full((6,), 20.0))
    images = labelled(20, channels=3)
    projection = fit_projections(model, images, ["last1"])["last1"]
    _, maps = model.forward_taps(images.values, ["last1"])
    whole = pooled(maps["last1"]).flatten(1)
    reduced = projection.reduce(maps["last1"]).flatten(1) * projection.scale
    torch.testing.assert_close(reduced @ reduced.T, whole @ whole.T, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("tap", TAPS)
def test_gram_matrices_of_reduced_features_are_those_of_the_teacher_up_to_scale(
    live: LiveTeacher, maps: dict[str, Tensor], tap: str
) -> None:
    projection = live.projections[tap]
    whole, reduced = pooled(maps[tap]).flatten(1), projection.reduce(maps[tap]).flatten(1)
    scaled = reduced @ reduced.T * projection.scale**2
    torch.testing.assert_close(scaled, whole @ whole.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tap", TAPS)
def test_reduced_features_have_a_mean_square_of_one_and_the_stated_variance(
    live: LiveTeacher, maps: dict[str, Tensor], tap: str
) -> None:
    projection = live.projections[tap]
    rows = flat(projection.reduce(maps[tap]))
    assert (rows**2).mean() == pytest.approx(1, rel=1e-4)  # all energy is kept here
    assert rows.var(axis=0).sum() == pytest.approx(projection.variance, rel=1e-4)


def test_projections_do_not_depend_on_where_images_are_split(
    monkeypatch, live: LiveTeacher, data: Examples
) -> None:
    monkeypatch.setattr(module, "batch_size", lambda inputs, device: 7)
    again = fit_projections(live.network, data, TAPS)
    for tap in TAPS:
        torch.testing.assert_close(again[tap].vectors, live.projections[tap].vectors)
        assert again[tap].variance == pytest.approx(live.projections[tap].variance, rel=1e-4)


def test_a_large_set_is_fitted_on_images_spread_over_it(monkeypatch) -> None:
    monkeypatch.setattr(module, "FIT_IMAGES", 10)
    data, seen = labelled(24), []
    model = network()
    model.body.conv1.register_forward_hook(lambda layer, given, output: seen.append(given[0]))
    fit_projections(model, data, ["last1"])
    assert torch.equal(torch.cat(seen), data.inputs.normalise(data.values)[::3])


def test_each_direction_has_its_largest_entry_positive(live: LiveTeacher) -> None:
    for projection in live.projections.values():
        vectors = projection.vectors
        assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()


def test_a_tap_that_is_equal_for_every_image_is_refused(data: Examples) -> None:
    model = linear_teacher(torch.zeros(4, 1), shift=torch.ones(4))
    with pytest.raises(
        ArtifactError, match="the teacher's output at last1 is the same for all images"
    ):
        fit_projections(model, data, ["last1"])


def test_a_projection_moves_to_a_device_whole(live: LiveTeacher) -> None:
    projection = live.projections["last2"]
    moved = projection.to(torch.device("meta"))
    assert moved.vectors.device.type == "meta"
    figures = ("scale", "variance", "energy")
    assert [getattr(moved, name) for name in figures] == [
        getattr(projection, name) for name in figures
    ]


def test_a_reading_is_logits_reduced_features_and_attention(
    live: LiveTeacher, data: Examples, maps: dict[str, Tensor]
) -> None:
    images = data.values
    reading = live.read(0, torch.arange(24), images, ["last3", "last1"])
    assert torch.equal(reading.logits, live.network(images))
    assert list(reading.taps) == ["last3", "last1"]
    for tap, kept in reading.taps.items():
        projection = live.projections[tap]
        assert kept.variance == projection.variance
        for found, exact in (
            (kept.features, projection.reduce(maps[tap])),
            (kept.attention, attention_map(maps[tap])),
        ):
            assert torch.equal(found, exact.half().float())  # what a shard holds
            assert found.dtype == torch.float32


def test_reading_without_taps_gives_logits_alone(live: LiveTeacher, data: Examples) -> None:
    assert live.read(0, torch.arange(24), data.values, ()).taps == {}


def test_the_teacher_stays_frozen_whatever_its_caller_does(data: Examples) -> None:
    live = teacher(data, labelled(12, seed=1))
    images, before = data.values, copied(live.network.state_dict())
    first = live.read(0, torch.arange(24), images, TAPS)
    live.network.train()
    second = live.read(0, torch.arange(24), images, TAPS)
    assert torch.equal(first.logits, second.logits)
    assert not any(layer.training for layer in live.network.modules())
    assert same_bits(live.network.state_dict(), before)
    assert not any(parameter.requires_grad for parameter in live.network.parameters())


def test_a_reading_carries_no_gradient_back(live: LiveTeacher, data: Examples) -> None:
    images = data.values.float().requires_grad_()
    assert live.network(images).requires_grad
    reading = live.read(0, torch.arange(24), images, TAPS)
    read = [reading.logits]
    for kept in reading.taps.values():
        read += [kept.features, kept.attention]
    assert not any(tensor.requires_grad for tensor in read)


def test_the_scale_divides_and_vectors_project() -> None:
    projection = Projection(
        vectors=torch.tensor([[1.0], [0.0]]), scale=4.0, variance=1.0, energy=1.0
    )
    features = torch.stack([torch.full((8, 8), 8.0), torch.full((8, 8), 3.0)])[None]
    assert torch.equal(projection.reduce(features), torch.full((1, 1, 4, 4), 2.0))
