"""Networks by name: stages, stems, initialisation, and the weights they start from."""

import copy
import re
import urllib.error
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from kd.errors import ArtifactError, DataError, ProtocolError
from kd.models.build import Network, build, export_state, tap_shapes
from kd.models.families.cifar import BasicBlock, PreActivationBlock
from kd.models.weights import fit_kernel, load_file
from kd.names import STEMS, catalogue, parse_model
from tests.support.small import ONE_OF_EACH, copied, floats, same_bits, square

OF_TORCHVISION = [name for name in ONE_OF_EACH if parse_model(name).pretrained]
# sides of the maps, deepest first: 32 pixels with the cifar stem, 224 with the imagenet stem
SIDES = {
    "resnet": {"cifar": [4, 8, 16, 32], "imagenet": [7, 14, 28, 56]},
    "wide_resnet": {"cifar": [4, 8, 16, 32], "imagenet": [7, 14, 28, 56]},
    "mobilenet": {"cifar": [4, 8, 16, 32, 32], "imagenet": [7, 14, 28, 56, 112]},
    "shufflenet": {"cifar": [4, 8, 16], "imagenet": [7, 14, 28]},
    "vgg": {"cifar": [2, 4, 8, 16, 32], "imagenet": [14, 28, 56, 112, 224]},
    "cifar family": {"cifar": [8, 16, 32], "imagenet": [56, 112, 224]},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torch.hub looks for weights, empty; downloads fail."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def make(
    name: str, *, stem: str = "cifar", seed: int = 0, classes: int = 10, channels: int = 3, **more
) -> Network:
    settings = {"classes": classes, "inputs": floats(channels, 32), "stem": stem, "seed": seed}
    return build(name, **{**settings, **more})


def shapes_of(name: str, *, stem: str = "cifar", **more) -> Network:
    with torch.device("meta"):
        return make(name, stem=stem, **more)


def images(size: int = 32, *, channels: int = 3, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, size, size, generator=generator)


def family(name: str) -> str:
    if catalogue()[name].family == "cifar":
        return "cifar family"
    return next(kind for kind in SIDES if name.startswith(kind))


def keep_imagenet_weights(hub: Path, name: str) -> dict[str, Tensor]:
    """Put a state dict where torchvision's ImageNet weights of `name` would be downloaded to."""
    torch.manual_seed(3)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.normal_()
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    torch.save(state, hub / url.rsplit("/", 1)[-1])
    return state


@pytest.mark.parametrize(
    ("name", "stem"),
    [*((name, "cifar") for name in catalogue()), *((name, "imagenet") for name in ONE_OF_EACH)],
)
def test_stages_halve_towards_the_deepest_tap(name: str, stem: str) -> None:
    inputs = square(3, 32 if stem == "cifar" else 224)
    network = shapes_of(name, stem=stem, inputs=inputs)
    shapes = tap_shapes(network)
    assert tuple(shapes) == network.taps == parse_model(name).taps
    assert [height for _, height, _ in shapes.values()] == SIDES[family(name)][stem]
    assert all(height == width for _, height, width in shapes.values())
    depths = [depth for depth, _, _ in shapes.values()]
    assert depths == sorted(depths, reverse=True)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_parameter_gets_a_gradient_and_logits_have_the_classes(
    name: str, stem: str, size: int
) -> None:
    network = shapes_of(name, stem=stem, classes=7, channels=1)
    logits = network(torch.empty(2, 1, size, size, device="meta"))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    missing = [key for key, value in network.named_parameters() if value.grad is None]
    assert missing == []


def test_parameters_match_the_distillation_literature() -> None:
    published = {
        "resnet20": 0.28,
        "resnet56": 0.86,
        "resnet8x4": 1.23,
        "resnet32x4": 7.43,
        "wrn-16-2": 0.70,
        "wrn-40-2": 2.26,
    }
    for name, millions in published.items():
        count = sum(value.numel() for value in shapes_of(name, classes=100).parameters())
        assert round(count / 1e6, 2) == millions, name


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_imagenet_models_have_the_parameters_and_names_of_torchvision(name: str) -> None:
    network = shapes_of(name, stem="imagenet", classes=1000)
    with torch.device("meta"):
        original = torchvision.models.get_model(name, weights=None).state_dict()
    own = network.state_dict()
    assert list(own) == [f"body.{key}" for key in original]
    assert all(own[f"body.{key}"].shape == value.shape for key, value in original.items())


def test_small_stem_replaces_the_seven_by_seven_kernel_and_the_pool() -> None:
    small, large = (shapes_of("resnet18", stem=stem).body for stem in ("cifar", "imagenet"))
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(small.maxpool, nn.Identity)


def test_small_stem_gives_vgg_one_linear_layer() -> None:
    body = shapes_of("vgg16_bn", classes=10).body
    assert isinstance(body.classifier, nn.Linear)
    assert body.classifier.weight.shape == (10, 512)


def test_the_cifar_family_has_one_stem() -> None:
    assert same_bits(export_state(make("resnet8")), export_state(make("resnet8", stem="imagenet")))


def test_a_basic_block_adds_a_normalised_shortcut_before_its_relu() -> None:
    block, given = BasicBlock(3, 5, 2).eval(), images(8)
    block.downsample[1].running_mean.fill_(0.5)
    shortcut = block.downsample[0](given) - 0.5
    inner = block.bn2(block.conv2(block.bn1(block.conv1(given)).relu()))
    torch.testing.assert_close(block(given), (inner + shortcut).relu(), rtol=1e-4, atol=1e-4)


def test_a_pre_activation_block_starts_its_shortcut_after_the_first_relu() -> None:
    block, given = PreActivationBlock(3, 5, 2).eval(), images(8)
    active = block.bn1(given).relu()
    inner = block.conv2(block.bn2(block.conv1(active)).relu())
    torch.testing.assert_close(block(given), inner + block.shortcut(active))


def test_no_model_has_dropout() -> None:
    for name in ("mobilenet_v2", "vgg11_bn"):
        drops = [
            part.p for part in shapes_of(name, stem="imagenet").modules() if hasattr(part, "p")
        ]
        assert set(drops) <= {0.0}, name


def test_width_scales_every_number_of_channels() -> None:
    full, slim = (shapes_of(name) for name in ("resnet20", "resnet20-w0.5"))
    for tap, (depth, height, width) in tap_shapes(full).items():
        assert tap_shapes(slim)[tap] == (depth / 2, height, width)
    assert slim.body.conv1.out_channels == 8
    slimmest = tap_shapes(shapes_of("wrn-16-1-w0.01"))
    assert {depth for depth, _, _ in slimmest.values()} == {1}
    assert tap_shapes(shapes_of("mobilenet_v2-w0.5"))["last1"] == (160, 4, 4)


def test_taps_leave_the_logits_as_they_are() -> None:
    for name in ("resnet8", "wrn-16-1-w0.5", "shufflenet_v2_x0_5"):
        network = make(name).eval()
        logits, outputs = network.forward_taps(images(), ("last2", "last1"))
        assert torch.equal(logits, network(images()))
        assert list(outputs) == ["last2", "last1"]
        expected = tap_shapes(network)
        assert all(outputs[tap].shape == (2, *expected[tap]) for tap in outputs)


def test_an_unknown_tap_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"resnet8 has no tap 'last4'; use --taps last1,last2"):
        make("resnet8").forward_taps(images(8), ("last4",))


def test_the_seed_decides_the_weights() -> None:
    for name in ("resnet8", "shufflenet_v2_x0_5"):
        first = export_state(make(name, seed=5))
        assert same_bits(first, export_state(make(name, seed=5)))
        other = export_state(make(name, seed=6))
        weights = [key for key in first if first[key].ndim > 1 or key == "fc.bias"]
        assert not any(torch.equal(first[key], other[key]) for key in weights)


def test_every_tensor_is_initialised() -> None:
    for name in ONE_OF_EACH:
        network = make(name)
        for key, value in network.body.named_buffers():
            fresh = 1.0 if key.endswith("running_var") else 0.0
            assert torch.all(value == fresh), key
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert torch.all(module.weight == 1)
                assert torch.all(module.bias == 0)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                if module.weight.numel() > 1000:
                    spread = module.weight.std().item() * (fan_out / 2) ** 0.5
                    assert spread == pytest.approx(1, abs=0.12)
                assert module.bias is None or torch.all(module.bias == 0)
            elif isinstance(module, nn.Linear):
                assert 0.9 < module.weight.abs().max() * module.in_features**0.5 <= 1.0001


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    for name in ("resnet8", "shufflenet_v2_x0_5", "mobilenet_v2"):
        make(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_compiles_without_a_graph_break() -> None:
    network = make("resnet8-w0.5").eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images(8)), network(images(8)))


def test_a_copy_has_its_own_modules() -> None:
    network = make("resnet8-w0.5").eval()
    twin = copy.deepcopy(network).double()
    expected = twin(images(8).double())
    nn.init.zeros_(network.body.fc.weight)
    assert expected.dtype == torch.float64
    assert torch.equal(twin(images(8).double()), expected)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_channels_last_changes_no_logit(name: str) -> None:
    network = make(name).eval()
    with torch.no_grad():
        expected = network(images())
        network.to(memory_format=torch.channels_last)
        there = network(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(there, expected, rtol=1e-3, atol=1e-4)


def test_tap_shapes_touches_neither_weights_nor_mode() -> None:
    network = make("resnet8")
    before = copied(network.state_dict())
    tap_shapes(network)
    assert network.training
    assert same_bits(network.state_dict(), before)


def test_images_that_do_not_fit_are_refused_in_one_line() -> None:
    with pytest.raises(ProtocolError, match="images of 3x16x16 do not fit vgg11_bn") as caught:
        tap_shapes(shapes_of("vgg11_bn", inputs=square(3, 16)))
    assert "\n" not in str(caught.value)
    network = shapes_of("resnet8")
    network.inputs = square(1, 32)
    with pytest.raises(ProtocolError, match="images of 1x32x32 do not fit resnet8"):
        tap_shapes(network)


def test_an_error_without_a_message_is_refused_in_one_line_too() -> None:
    def fail(*call: object) -> None:
        raise RuntimeError

    network = shapes_of("resnet8")
    network.body.fc.register_forward_hook(fail)
    with pytest.raises(ProtocolError, match=r"do not fit resnet8; .* \(RuntimeError\)$"):
        tap_shapes(network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet21"}, "unknown model 'resnet21'; did you mean resnet"),
        ({"name": "resnet18-w0.5"}, "resnet18 has no width factor"),
        ({"stem": "large"}, "unknown stem 'large'"),
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"weights": "theirs.onnx"}, "weights must be none, pretrained or a"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        make(**{"name": "resnet8", **change})


@pytest.mark.parametrize("prefix", ["", "body."])
def test_a_file_of_the_same_model_is_loaded(tmp_path: Path, prefix: str) -> None:
    network = make("resnet8", seed=1)
    state = {prefix + key: value for key, value in export_state(network).items()}
    safetensors.torch.save_file(state, tmp_path / "kept.safetensors")
    again = make("resnet8", seed=2, weights=str(tmp_path / "kept.safetensors"))
    assert same_bits(again.state_dict(), network.state_dict())


def test_a_file_of_a_model_with_a_child_named_body_is_loaded(tmp_path: Path) -> None:
    """In its own names, as an export has them, and in those of the whole network."""
    body = nn.Sequential(OrderedDict(body=nn.Linear(2, 2), fc=nn.Linear(2, 3)))
    network = Network("x", body, [], floats())
    for state in (export_state(network), network.state_dict()):
        safetensors.torch.save_file(state, tmp_path / "kept.safetensors")
        again = copy.deepcopy(network)
        nn.init.zeros_(again.body.body.weight)
        load_file(again, tmp_path / "kept.safetensors")
        assert same_bits(again.state_dict(), network.state_dict())


def test_export_has_the_names_of_the_library_and_can_be_saved_from_any_layout() -> None:
    network = make("resnet18").to(memory_format=torch.channels_last)
    state = export_state(network)
    assert {"conv1.weight", "layer4.1.bn2.running_var", "fc.bias"} <= set(state)
    assert same_bits(safetensors.torch.load(safetensors.torch.save(state)), state)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("fc.bias"), "has no fc.bias, which resnet8 needs"),
        (lambda state: state.update(extra=torch.ones(1)), "has extra, which resnet8 lacks"),
        (
            lambda state: state.update({"fc.weight": torch.ones(5, 64)}),
            r"has fc.weight of shape \(5, 64\), resnet8 needs \(10, 64\)",
        ),
    ],
)
def test_a_file_of_another_model_names_the_first_offender(tmp_path: Path, spoil, message) -> None:
    state = export_state(make("resnet8"))
    spoil(state)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ArtifactError, match=message) as caught:
        make("resnet8", weights=str(path))
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    with pytest.raises(ArtifactError, match=r"broken.safetensors cannot be read as safetensors"):
        make("resnet8", weights=str(path))
    path.write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match=r"broken.safetensors cannot be read as safetensors"):
        make("resnet8", weights=str(path))


def test_imagenet_weights_arrive_but_for_the_head(hub: Path) -> None:
    given = keep_imagenet_weights(hub, "shufflenet_v2_x0_5")
    network = make("shufflenet_v2_x0_5", weights="pretrained", seed=4)
    fresh, own = export_state(make("shufflenet_v2_x0_5", seed=4)), export_state(network)
    heads = {"fc.weight", "fc.bias"}
    assert same_bits({key: own[key] for key in heads}, {key: fresh[key] for key in heads})
    assert same_bits(
        {key: own[key] for key in own if key not in heads},
        {key: given[key] for key in given if key not in heads},
    )


def test_imagenet_head_is_kept_for_the_classes_of_imagenet(hub: Path) -> None:
    given = keep_imagenet_weights(hub, "shufflenet_v2_x0_5")
    settings = {"stem": "imagenet", "classes": 1000, "weights": "pretrained"}
    assert same_bits(export_state(make("shufflenet_v2_x0_5", **settings)), given)


def test_imagenet_weights_of_old_files_need_no_batch_counters(hub: Path) -> None:
    given = keep_imagenet_weights(hub, "shufflenet_v2_x0_5")
    old = {key: value for key, value in given.items() if not key.endswith("num_batches_tracked")}
    (file,) = hub.iterdir()
    torch.save(old, file)
    own = export_state(make("shufflenet_v2_x0_5", weights="pretrained"))
    assert torch.equal(own["conv5.1.running_mean"], given["conv5.1.running_mean"])


def test_imagenet_kernel_is_carried_to_the_small_stem_and_to_grayscale(hub: Path) -> None:
    given = keep_imagenet_weights(hub, "resnet18")["conv1.weight"]
    own = make("resnet18", weights="pretrained", channels=1).body.conv1.weight
    assert own.shape == (64, 1, 3, 3)
    torch.testing.assert_close(own.sum((1, 2, 3)), given.sum((1, 2, 3)))


def test_vgg_of_the_small_stem_takes_the_features_of_imagenet_alone(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor = make("vgg11_bn", stem="cifar", seed=9).body.features.state_dict()
    state = {f"features.{key}": value for key, value in donor.items()}
    state["classifier.0.weight"] = torch.ones(1)  # the true one has 102 M numbers
    url = torchvision.models.get_model_weights("vgg11_bn").IMAGENET1K_V1.url
    torch.save(state, hub / url.rsplit("/", 1)[-1])
    body = make("vgg11_bn", weights="pretrained").body
    assert same_bits(body.features.state_dict(), donor)


def test_a_fitted_kernel_sees_what_the_large_one_sees_of_an_enlarged_image() -> None:
    kernel = images(7, batch=4).double()
    patch = images(3, batch=1).double()
    finest = patch.repeat_interleave(7, 2).repeat_interleave(7, 3)  # enlarged by 7, then down by 3
    enlarged = nn.functional.avg_pool2d(finest, 3)
    small = fit_kernel(kernel, channels=3, size=3)
    torch.testing.assert_close((small * patch).sum((1, 2, 3)), (kernel * enlarged).sum((1, 2, 3)))


def test_a_fitted_kernel_answers_gray_as_it_answered_equal_channels() -> None:
    kernel, gray = images(3, batch=4), images(3, batch=1, channels=1)
    expected = (kernel * gray.expand(-1, 3, -1, -1)).sum((1, 2, 3))
    for channels in (1, 2, 4):
        fitted = fit_kernel(kernel, channels=channels, size=3)
        answer = (fitted * gray.expand(-1, channels, -1, -1)).sum((1, 2, 3))
        torch.testing.assert_close(answer, expected)


def test_a_kernel_that_fits_is_left_as_it_is() -> None:
    kernel = images(7)
    assert torch.equal(fit_kernel(kernel, channels=3, size=7), kernel)


def test_a_failed_download_states_which_file_goes_where(hub: Path) -> None:
    expected = f"put resnet18-f37072fd.pth into {hub}, or take --teacher-weights none"
    with pytest.raises(DataError, match=re.escape(expected)) as caught:
        make("resnet18", weights="pretrained")
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_download_is_named(hub: Path) -> None:
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    with pytest.raises(DataError, match=r"resnet18-f37072fd.pth is damaged .*; delete it"):
        make("resnet18", weights="pretrained")


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2", "mobilenet_v2-w0.5"])
def test_models_without_imagenet_weights_say_so(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"there are no ImageNet weights for {name}; use"):
        make(name, weights="pretrained")
