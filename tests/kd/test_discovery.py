"""Taps found in models of many kinds, and the models in which they are easily found wrong."""

import pytest
import torch
from torch import nn

from kd.data.inputs import Arrays, Images
from kd.errors import ProtocolError
from kd.models.discovery import discover, tap_at
from kd.models.network import Network
from kd.models.taps import Tap
from tests.support.small import made_up, square


def images(size: int = 32, channels: int = 3) -> Images:
    return square(channels, size)


def vectors(width: int = 6) -> Arrays:
    return Arrays(shape=(width,), kept="float32")


def conv(given: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(given, width, 3, stride, 1)


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def shapes(body: nn.Module, inputs: Images | Arrays) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tap's map in a training pass, by path; it must be kept unchanged."""
    network = Network("any", body, discover(body, inputs), inputs)
    torch.manual_seed(0)
    logits, maps = network.train().forward_taps(made_up(inputs, 2), network.taps)
    assert list(logits.shape) == [2, 5]
    return {network.places[tap].path: tuple(maps[tap].shape[1:]) for tap in reversed(network.taps)}


# model: paths of the taps, layout of the last, prefix
TIMM = {
    "resnet10t": (["act1", "layer1", "layer2", "layer3"], "map", 0),
    "mobilenetv3_small_050": (["bn1", "blocks.0", "blocks.1", "blocks.3"], "map", 0),
    "convnext_atto": (["stages.0", "stages.1", "stages.2"], "map", 0),
    "vit_tiny_patch16_224": (["norm"], "tokens", 1),
    "deit_tiny_distilled_patch16_224": (["norm"], "tokens", 2),
    "vit_small_patch14_reg4_dinov2": (["norm"], "tokens", 5),
    "vit_base_patch16_siglip_224": (["norm"], "tokens", 0),
    "swin_tiny_patch4_window7_224": (["layers.0", "layers.1", "layers.2"], "channels last", 0),
    "mobilevit_xxs": (["stages.0", "stages.1", "stages.2", "stages.3"], "map", 0),
    "coatnet_nano_rw_224": (["stem", "stages.0", "stages.1", "stages.2"], "map", 0),
    "nest_tiny": (["levels.0", "levels.1", "norm"], "channels last", 0),
}
SIZES = {"vit": 28, "swin": 28, "deit": 32, "nest": 64}


@pytest.mark.parametrize("name", TIMM)
def test_taps_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    size = next((size for start, size in SIZES.items() if name.startswith(start)), 32)
    size = 32 if "patch16" in name else size
    fixed = timm.models.get_pretrained_cfg(name).fixed_input_size
    with torch.device("meta"):
        body = timm.create_model(name, num_classes=5, **({"img_size": size} if fixed else {}))
    paths, layout, prefix = TIMM[name]
    taps = discover(body, images(size))
    assert [tap.path for tap in taps] == paths
    assert (taps[-1].layout, taps[-1].prefix) == (layout, prefix)


class Called(nn.Module):
    """A module whose forward pass is the function `run` of itself and its input."""

    def __init__(self, run, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.run(self, x)


def test_a_plain_sequence_is_read_at_the_last_of_each_size() -> None:
    body = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 8, 2), nn.ReLU(), head(8))
    assert shapes(body, images(8)) == {"1": (4, 8, 8), "3": (8, 4, 4)}


def test_dropout_is_not_a_tap_and_what_it_changes_in_place_neither() -> None:
    body = nn.Sequential(conv(3, 4), nn.ReLU(), nn.Dropout(), conv(4, 8, 2), head(8))
    assert list(shapes(body, images(8))) == ["1", "3"]
    body = nn.Sequential(conv(3, 4), nn.ReLU(), nn.Dropout(inplace=True), conv(4, 8, 2), head(8))
    assert list(shapes(body, images(8))) == ["0", "3"]
    with pytest.raises(ProtocolError, match="a later layer changes the output of 1 in place"):
        tap_at(body, "1", images(8))


def test_a_batch_norm_before_an_activation_in_place_is_passed_over() -> None:
    body = nn.Sequential(conv(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), head(4))
    assert list(shapes(body, images(8))) == ["2"]
    with pytest.raises(ProtocolError, match="a later layer changes the output of 1 in place"):
        tap_at(body, "1", images(8))


def test_a_module_that_runs_twice_is_passed_over_and_refused_by_name() -> None:
    body = Called(
        lambda self, x: self.head(self.twice(self.twice(self.stem(x)))),
        stem=conv(3, 4, 2), twice=nn.Sequential(conv(4, 4), nn.ReLU()), head=head(4),
    )  # fmt: skip
    assert list(shapes(body, images(8))) == ["stem"]
    with pytest.raises(ProtocolError, match="twice runs more than once in a forward pass"):
        tap_at(body, "twice", images(8))


def test_a_u_net_is_read_in_its_decoder() -> None:
    def run(self, x):
        fine = self.down(x)
        coarse = self.middle(fine)
        wide = nn.functional.interpolate(coarse, scale_factor=2)
        return self.head(self.up(torch.cat([fine, wide], 1)))

    parts = {"down": conv(3, 4), "middle": conv(4, 6, 2), "up": conv(10, 8), "head": head(8)}
    assert shapes(Called(run, **parts), images(8)) == {"middle": (6, 4, 4), "up": (8, 8, 8)}


def test_a_head_beside_the_logits_is_no_tap() -> None:
    def run(self, x):
        first = self.first(x)
        beside = self.beside(first)
        return self.head(self.second(first)), beside

    beside = nn.Sequential(conv(4, 7), conv(7, 7, 4), head(7))
    parts = {"first": conv(3, 4), "second": conv(4, 8, 2), "head": head(8), "beside": beside}
    assert list(shapes(Called(run, **parts), images(8))) == ["first", "second"]


def test_squeeze_and_excitation_within_a_block_is_a_detour() -> None:
    squeeze = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1))
    block = Called(
        lambda self, x: x + self.project(
            nn.functional.interpolate(self.squeeze(self.expand(x)), scale_factor=4)
        ),
        expand=nn.Conv2d(4, 12, 1), squeeze=squeeze, project=nn.Conv2d(12, 4, 1),
    )  # fmt: skip
    assert list(shapes(nn.Sequential(conv(3, 4), block, head(4)), images(8))) == ["1"]


def test_shares_of_attention_are_no_maps() -> None:
    def run(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        shares = self.drop(self.shares(tokens @ tokens.transpose(1, 2))[:, None])
        return self.out(self.norm(shares[:, 0] @ tokens).mean(1))

    parts = {"patches": nn.Conv2d(3, 6, 4, 4), "shares": nn.Softmax(-1), "drop": nn.Dropout()}
    parts |= {"norm": nn.LayerNorm(6), "out": nn.Linear(6, 5)}
    assert shapes(Called(run, **parts), images(12)) == {"norm": (6, 3, 3)}


@pytest.mark.parametrize(("registers", "side"), [(0, 3), (1, 3), (4, 3), (7, 3), (2, 4)])
def test_the_grid_of_the_patches_tells_how_many_tokens_stand_before_it(registers, side) -> None:
    def run(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        before = self.before.weight[None].expand(len(x), -1, -1)
        return self.out(self.norm(torch.cat([before, tokens], 1)).mean(1))

    parts = {"patches": nn.Conv2d(3, 6, 4, 4), "before": nn.Embedding(registers, 6)}
    parts |= {"norm": nn.LayerNorm(6), "out": nn.Linear(6, 5)}
    body = Called(run, **parts)
    assert tap_at(body, "norm", images(4 * side)) == Tap("norm", "tokens", registers)
    assert shapes(body, images(4 * side)) == {"norm": (6, side, side)}


def test_a_map_with_flat_positions_is_not_taken_for_tokens() -> None:
    body = nn.Sequential(nn.Conv2d(3, 192, 2, 2), nn.Flatten(2), nn.Flatten(), nn.Linear(3072, 5))
    assert shapes(body, images(8)) == {"0": (192, 4, 4)}


def test_a_cube_has_the_layout_of_the_models_other_maps() -> None:
    first = nn.Sequential(conv(3, 8), conv(8, 4, 2), head(4))
    assert [tap.layout for tap in discover(first, images(8))] == ["map", "map"]
    last = Called(
        lambda self, x: self.out(self.two(self.one(x.permute(0, 2, 3, 1))[:, ::2, ::2])[:, 0, 0]),
        one=nn.Linear(3, 6), two=nn.Linear(6, 4), out=nn.Linear(4, 5),
    )  # fmt: skip
    assert [tap.layout for tap in discover(last, images(8))] == ["channels last", "channels last"]


def test_maps_of_arrays_that_are_no_squares_have_channels_first() -> None:
    arrays = Arrays(shape=(4, 4, 10), kept="float32")
    body = nn.Sequential(conv(4, 4), conv(4, 6, 2), head(6))
    assert shapes(body, arrays) == {"0": (4, 4, 10), "1": (6, 2, 5)}


def test_a_model_of_vectors_is_read_before_its_logits() -> None:
    body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5))
    assert shapes(body, vectors()) == {"3": (7, 1, 1)}


def test_words_have_a_vector_and_no_tokens() -> None:
    words = Arrays(shape=(9,), kept="int64")
    body = Called(
        lambda self, x: self.out(self.dense(self.embed(x).mean(1))),
        embed=nn.Embedding(30, 8), dense=nn.Linear(8, 6), out=nn.Linear(6, 5),
    )  # fmt: skip
    assert discover(body, words) == (Tap("dense", "vector"),)


def fails(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    raise SystemExit(3)


def counts(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return self.out(x) if float(x.detach().sum()) > 0 else self.out(x) + 1


@pytest.mark.parametrize("run", [fails, counts, lambda self, x: self.out(x)])
def test_a_model_without_taps_has_none_and_no_error(run) -> None:
    assert discover(Called(run, out=nn.Linear(6, 5)), vectors()) == ()


def test_the_random_state_and_the_model_are_left_alone() -> None:
    body = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), head(4)).requires_grad_(False)
    before, state = torch.get_rng_state(), {**body.state_dict()}
    discover(Called(lambda self, x: self.body(x) + torch.rand(1), body=body), images(8))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(body.state_dict()[name] is not None for name in state)
    assert not any(parameter.requires_grad for parameter in body.parameters())
    assert not any(module._forward_hooks for module in body.modules())


def test_a_wrong_path_gives_the_nearest() -> None:
    body = nn.Sequential(nn.ModuleDict({"stem": conv(3, 4)}))
    with pytest.raises(ProtocolError, match=r"unknown module '0\.sten'; did you mean 0\.stem\?"):
        tap_at(body, "0.sten", images(8))
