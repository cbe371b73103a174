"""Sequences as taps: found in models, 0 where they are padded, and pooled along their length."""

import copy
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn import functional

from conductor.stages.own_files import keep_own, pin_functions
from kd.data.examples import Examples
from kd.data.inputs import Arrays, Inputs
from kd.errors import ProtocolError
from kd.losses import features
from kd.losses.adapters import Adapters, feature_loss
from kd.models.build import build
from kd.models.discovery import discover, tap_at
from kd.models.network import Network, export_state, run_on_meta, tap_shapes
from kd.models.numerics import training_forward
from kd.models.taps import Tap, masked
from kd.models.tryout import try_out
from kd.names import FEATURE_LOSSES
from kd.training.teacher import LiveTeacher, Projection, fit_projections, pooled_sides
from storage.files.layout import Layout
from tests.support.small import made_up, same_bits, square

WORDS = Arrays(shape=(12,), kept="int64")
CPU = torch.device("cpu")


def floats(*shape: int) -> Arrays:
    return Arrays(shape=shape, kept="float32")


class Encoder(nn.Module):
    """A transformer over what `embed` returns, with tokens of its own in front."""

    def __init__(self, embed: nn.Module, width: int = 8, front: int = 0) -> None:
        super().__init__()
        self.embed = embed
        self.front = nn.Parameter(torch.ones(front, width))
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.dense = nn.Linear(width, 6)
        self.classify = nn.Linear(6, 5)

    def forward(self, values: Tensor) -> Tensor:
        front = self.front.expand(len(values), -1, -1)
        tokens = self.blocks(torch.cat([front, self.embed(values)], 1))
        return self.classify(self.dense(tokens.mean(1)))


class MaskedEncoder(Encoder):
    def token_mask(self, values: Tensor) -> Tensor:
        return values > 0


class Turned(nn.Module):
    """Channels last, from `module` with the channels first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, values: Tensor) -> Tensor:
        return self.module(values).transpose(1, 2)


def embedding(width: int = 8) -> nn.Embedding:
    return nn.Embedding(30, width)


def conv(given: int, width: int, stride: int = 1) -> nn.Conv1d:
    return nn.Conv1d(given, width, 3, stride, 1)


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 5))


def found(body: nn.Module, inputs: Inputs) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return layout and shape of each tap's map in a pass, by path, the shallowest first."""
    network = Network("any", body, discover(body, inputs), inputs)
    values = made_up(inputs, 2)
    _, maps = network.eval().forward_taps(values, network.taps)
    return {
        place.path: (place.layout, tuple(maps[tap].shape[1:]))
        for tap, place in reversed(network.places.items())
    }


# Discovery.


def test_a_transformer_of_float_arrays_is_read_once_at_the_last_of_its_outermost_modules() -> None:
    body = Encoder(nn.Linear(10, 8))
    assert found(body, floats(12, 10)) == {"blocks": ("sequence", (8, 1, 12))}
    assert tap_at(body, "blocks.layers.0.linear1", floats(12, 10)).is_sequence


def test_a_transformer_of_whole_numbers_is_read_if_it_gives_a_mask() -> None:
    assert found(MaskedEncoder(embedding()), WORDS) == {"blocks": ("sequence", (8, 1, 12))}
    without = Encoder(embedding())
    assert discover(without, WORDS) == (Tap("dense", "vector"),)
    with pytest.raises(
        ProtocolError, match=r"blocks returns tokens, which may be padded: .*token_mask\(self, val"
    ) as refused:
        tap_at(without, "blocks", WORDS)
    assert "\n" not in str(refused.value)
    assert tap_at(without, "dense", WORDS) == Tap("dense", "vector")


def test_a_net_of_1_d_convolutions_is_read_at_each_of_its_lengths() -> None:
    body = nn.Sequential(
        *(conv(2, 8, 2), nn.ReLU(), conv(8, 12, 2), nn.BatchNorm1d(12), nn.ReLU(), head(12))
    )
    layout = "sequence, channels first"
    assert found(body, floats(2, 24)) == {"1": (layout, (8, 1, 12)), "4": (layout, (12, 1, 6))}


def test_a_norm_over_channels_and_positions_does_not_tell_where_the_channels_are() -> None:
    body = nn.Sequential(conv(2, 8, 2), nn.LayerNorm((8, 12)), nn.ReLU(), head(8))
    assert found(body, floats(2, 24)) == {"2": ("sequence, channels first", (8, 1, 12))}


def test_a_pool_to_a_fixed_size_is_no_tap() -> None:
    body = nn.Sequential(
        *(conv(2, 8), nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(3)),
        *(nn.Flatten(), nn.Linear(24, 5)),
    )
    assert list(found(body, floats(2, 24))) == ["0"]


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(8, 8), conv(8, 8, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.two(self.one(values))


def test_a_stage_that_keeps_its_channels_and_halves_its_length_is_no_block() -> None:
    body = nn.Sequential(conv(2, 8, 2), Stage(), head(8))
    layout = "sequence, channels first"
    expected = {"0": (layout, (8, 1, 12)), "1": (layout, (8, 1, 6))}
    assert found(body, floats(2, 24)) == expected
    body = nn.Sequential(Stage(), head(8))
    expected = {"0.one": (layout, (8, 1, 24)), "0": (layout, (8, 1, 12))}
    assert found(body, floats(8, 24)) == expected


def test_of_layers_with_one_shape_the_last_tells_where_the_channels_are() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.conv, self.relu = embedding(), nn.Conv1d(8, 12, 5), nn.ReLU()
            self.classify = nn.Linear(12, 5)

        def forward(self, values: Tensor) -> Tensor:
            maps = self.relu(self.conv(self.embed(values).transpose(1, 2)))
            return self.classify(maps.mean(2))  # [B, 12, 8], as the tokens

        def token_mask(self, values: Tensor) -> Tensor:
            return values > 0

    assert tap_at(Words(), "embed", WORDS).layout == "sequence"
    assert tap_at(Words(), "relu", WORDS).layout == "sequence, channels first"


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("front", [0, 1])
def test_rows_of_an_image_are_a_sequence_with_a_class_token_or_without(
    side: int, front: int
) -> None:
    body = Encoder(nn.Sequential(nn.Flatten(1, 2), nn.Linear(side, 8)), front=front)
    assert discover(body, square(1, side)) == (Tap("blocks", "sequence", front),)
    assert found(body, square(1, side)) == {"blocks": ("sequence", (8, 1, side))}


def test_two_tokens_of_an_image_are_one_position_and_a_class_token() -> None:
    body = Encoder(
        nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (1, 64)), nn.Linear(64, 8)), front=1
    )
    assert tap_at(body, "blocks", square(1, 8)) == Tap("blocks", "tokens", 1)
    body.front = nn.Parameter(torch.ones(2, 8))
    assert tap_at(body, "blocks", square(1, 8)).is_sequence


def test_patches_of_an_image_and_of_arrays_in_its_shape_are_a_grid() -> None:
    patches = Turned(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2)))
    body = Encoder(patches, front=2)
    for inputs in (square(3, 12), floats(3, 12, 12)):
        assert discover(body, inputs)[-1] == Tap("blocks", "tokens", 2)
        assert found(body, inputs)["blocks"] == ("tokens", (8, 3, 3))
    assert found(body, floats(3, 12, 24))["blocks"] == ("sequence", (8, 1, 20))


def test_patches_by_unfolding_are_no_features() -> None:
    patches = Turned(nn.Unfold(4, stride=4))
    body = Encoder(nn.Sequential(patches, nn.Linear(48, 8)), front=1)
    body.num_prefix_tokens = 1
    assert "sequence" not in {layout for layout, _ in found(body, square(3, 12)).values()}
    assert discover(body, square(3, 12))[-1] == Tap("blocks", "tokens", 1)


def test_a_map_with_flat_positions_is_no_sequence() -> None:
    for inputs, width in ((square(3, 8), 8), (floats(3, 8, 12), 12)):
        convolved = nn.Sequential(nn.Conv2d(3, 7, 3, 1, 1), nn.Flatten(2), nn.Flatten())
        body = nn.Sequential(convolved, nn.Linear(7 * 8 * width, 5))
        assert found(body, inputs) == {"0.0": ("map", (7, 8, width))}
    body = nn.Sequential(nn.Flatten(2), nn.Flatten(), nn.Linear(192, 6), nn.Linear(6, 5))
    assert found(body, square(3, 8)) == {"2": ("vector", (6, 1, 1))}


@pytest.mark.parametrize("front", [1, 8])
def test_tokens_beyond_the_length_of_the_input_are_left_out(front: int) -> None:
    body = Encoder(nn.Linear(10, 8), front=front)
    assert discover(body, floats(12, 10)) == (Tap("blocks", "sequence", front),)
    of_waves = Encoder(Turned(nn.Conv1d(2, 8, 1)), front=front)
    assert discover(of_waves, floats(2, 24)) == (Tap("blocks", "sequence", front),)


def test_as_many_tokens_as_one_of_two_lengths_of_the_input_are_all_read() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = embedding()

        def forward(self, values: Tensor) -> Tensor:
            return self.embed(values[:, 0])

    body = Encoder(First())
    body.token_mask = lambda values: values[:, 1] > 0
    inputs = Arrays(shape=(2, 8), kept="int64")
    assert found(body, inputs) == {"blocks": ("sequence", (8, 1, 8))}


def test_a_model_gives_the_number_of_its_tokens_without_a_position() -> None:
    body = Encoder(Turned(nn.Conv1d(2, 8, 4, 4)), front=2)
    shapes = {path: shape for path, (_, shape) in found(body, floats(2, 24)).items()}
    assert shapes == {"embed": (8, 1, 6), "blocks": (8, 1, 8)}
    body.num_prefix_tokens = 2
    assert discover(body, floats(2, 24)) == (Tap("blocks", "sequence", 2),)
    assert tap_at(body, "embed", floats(2, 24)) == Tap("embed", "sequence", 0)
    assert found(body, floats(2, 24)) == {"blocks": ("sequence", (8, 1, 6))}


def test_one_weight_for_each_position_is_no_feature() -> None:
    class Pooled(Encoder):
        def __init__(self) -> None:
            super().__init__(nn.Linear(10, 8))
            self.score = nn.Linear(8, 1)

        def forward(self, values: Tensor) -> Tensor:
            tokens = self.blocks(self.embed(values))
            return self.classify(self.dense((self.score(tokens).softmax(1) * tokens).sum(1)))

    assert [tap.path for tap in discover(Pooled(), floats(12, 10))] == ["blocks"]


def test_a_sequence_of_one_position_counts_only_if_there_is_nothing_else() -> None:
    body = nn.Sequential(conv(2, 6), nn.AvgPool1d(24), nn.Flatten(), nn.Linear(6, 5))
    assert list(found(body, floats(2, 24))) == ["0"]
    body = nn.Sequential(nn.Conv1d(2, 6, 24), nn.Flatten(), nn.Linear(6, 5))
    assert found(body, floats(2, 24)) == {"0": ("sequence, channels first", (6, 1, 1))}


def test_another_output_is_refused_with_all_layouts() -> None:
    body = nn.Sequential(nn.Unflatten(1, (3, 2, 2, 1)), nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(
        ProtocolError, match=r"0 returns \[3, 3, 2, 2, 1\]: a tap is a map .*, tok"
    ) as e:
        tap_at(body, "0", floats(12))
    assert "tokens [B, N, C] of a square grid or a sequence, a sequence [B, C, L] of" in str(
        e.value
    )


# Masks.

REAL = torch.arange(12) < torch.tensor([12, 5, 1, 8])[:, None]
TEXT = torch.randint(1, 20, (4, 12), generator=torch.Generator().manual_seed(0)) * REAL


def masked_network(front: int = 0) -> Network:
    torch.manual_seed(0)
    body = MaskedEncoder(embedding(), front=front)
    return Network("any", body, discover(body, WORDS), WORDS).eval()


def test_a_map_is_0_at_padding_and_unchanged_elsewhere() -> None:
    network = masked_network(front=1)
    logits, maps = network.forward_taps(TEXT, ("last1",))
    assert torch.equal(logits, network(TEXT))
    network.body.token_mask = lambda values: torch.ones_like(values, dtype=torch.bool)
    _, whole = network.forward_taps(TEXT, ("last1",))
    assert whole["last1"].shape == (4, 8, 1, 12)
    expected = torch.where(REAL[:, None, None], whole["last1"], 0.0)
    assert torch.equal(maps["last1"], expected)
    assert (whole["last1"] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_shorter_map_takes_the_share_of_real_tokens(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, True, True, False, False, False]])
    maps = torch.tensor([[[[8.0, 4.0, float("nan")]]]], dtype=dtype)
    assert torch.equal(masked(maps, mask, 0), torch.tensor([[[[8.0, 2.0, 0.0]]]], dtype=dtype))
    assert masked(maps.to("meta"), mask.to("meta"), 0).shape == maps.shape


def test_a_map_without_the_tokens_of_the_prefix_loses_them_in_its_mask_too() -> None:
    mask = torch.tensor([[True, True, True, False, False, False]])
    maps = torch.arange(1.0, 6.0)[None, None, None]
    assert masked(maps, mask, 1).flatten().tolist() == [1, 2, 0, 0, 0]


def test_a_tapped_layer_has_no_hook_while_the_model_makes_its_mask() -> None:
    """The model may call the layer for it."""
    network = masked_network(front=1)
    layer, hooks = network.body.get_submodule(network.places["last1"].path), []
    mask = network.body.token_mask
    network.body.token_mask = lambda values: hooks.append(len(layer._forward_hooks)) or mask(values)
    network.forward_taps(TEXT, ("last1",))
    assert hooks == [0]


def test_the_mask_is_made_from_what_the_layers_receive_before_they_do() -> None:
    class Clearing(MaskedEncoder):
        def forward(self, values: Tensor) -> Tensor:
            return super().forward(values.zero_())

    body = Clearing(embedding())
    network = Network("any", body, [Tap("blocks", "sequence")], WORDS)
    stored = TEXT.clone()
    _, maps = network.forward_taps(stored, ("last1",))
    assert torch.equal((maps["last1"] != 0).all(1)[:, 0], REAL)
    assert torch.equal(stored, TEXT)


def test_masks_leave_vectors_grids_and_images_alone() -> None:
    def never(values: Tensor) -> Tensor:
        raise AssertionError("asked for its mask")

    body = masked_network().body
    body.token_mask = never
    for tap in (Tap("dense", "vector"), Tap("embed")):
        Network("any", body, [tap], WORDS).forward_taps(TEXT, ("last1",))
    rows = Encoder(nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 8)))
    rows.token_mask = never
    of_images = Network("any", rows, [Tap("blocks", "sequence")], square(1))
    of_images.forward_taps(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ("last1",))


def test_copies_files_and_shapes_of_a_model_with_a_mask_are_as_without() -> None:
    network = masked_network()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(network)))  # noqa: S301
    expected = network.forward_taps(TEXT, ("last1",))
    for found_again, known in zip(twin.forward_taps(TEXT, ("last1",)), expected, strict=True):
        assert torch.equal(found_again, known) if isinstance(known, Tensor) else same_bits(
            found_again, known
        )  # fmt: skip
    plain = Network("any", Encoder(embedding()), [], WORDS)
    assert export_state(network).keys() == export_state(plain).keys()
    _, shapes = run_on_meta(network)
    assert shapes["last1"].device.type == "meta"
    assert tap_shapes(network) == {"last1": (8, 1, 12)}


def test_a_compiled_step_has_no_mask_in_its_graph() -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounter()
    network = masked_network()
    compiled = torch.compile(network.traced, backend=graphs, dynamic=False)
    for values in (TEXT, TEXT.flip(0)):
        logits, maps = network.forward_taps(values, ("last1",), compiled)
        expected, known = network.forward_taps(values, ("last1",))
        assert torch.equal(logits, expected)
        assert same_bits(maps, known)
    assert graphs.frame_count == 1


def test_padding_is_0_in_bfloat16_too() -> None:
    network = masked_network().train()
    _, maps = training_forward(network, CPU, "bfloat16", False)(TEXT, ("last1",))
    assert maps["last1"].dtype == torch.float32
    assert torch.equal((maps["last1"] != 0).all(1)[:, 0], REAL)


OWN = """
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.classify = nn.Linear(8, classes)

    def forward(self, values):
        return self.classify(self.embed(values).mean(1))

    def token_mask(self, values):
        return MASK


def reader(classes, channels):
    return Reader(classes)
"""


def attempt(folder: Path, mask: str) -> None:
    (folder / "mine.py").write_text(OWN.replace("MASK", mask))
    pinned, files = pin_functions({"students": (f"{folder}/mine.py:reader",)})
    keep_own(Layout(folder), files)
    [name], own = pinned["students"], Layout(folder).own
    make = partial(build, name, classes=3, inputs=WORDS, stem="cifar", seed=0, files=own)
    try_out(name, make, made_up(WORDS, 2), classes=3, files=own)


def test_a_model_with_a_mask_is_taken(tmp_path: Path) -> None:
    attempt(tmp_path, "values > 0")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("(values > 0).float()", r"True at real tokens; got torch\.float32 \[2, 12\] for B = 2"),
        ("values[:, 1:] > 0", r"got torch\.bool \[2, 11\] for B = 2"),
        ("(values > 0).any(0)", r"got torch\.bool \[12\] for B = 2"),
        ("(values > 0)[:1]", r"got torch\.bool \[1, 12\] for B = 2"),
        ("None", "got NoneType for B = 2"),
    ],
)
def test_another_mask_is_refused_in_one_line(tmp_path: Path, mask: str, said: str) -> None:
    begins = r"^mine\.py:reader must return torch\.bool \[B, 12\] from token_mask, .*"
    with pytest.raises(ProtocolError, match=rf"{begins}{said} \(mine\.py, line 19, in ") as refused:
        attempt(tmp_path, mask)
    assert "\n" not in str(refused.value)


def test_a_mask_that_fails_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"absent' \(mine\.py, line 16, in token_mask\); corr"):
        attempt(tmp_path, "values.absent")


# The teacher cache, and the losses.


def test_a_sequence_is_pooled_along_its_length_to_16_positions() -> None:
    projection = Projection(vectors=torch.eye(3), scale=1.0, variance=1.0, energy=1.0)
    for length, kept in ((40, 16), (16, 16), (10, 10), (1, 1)):
        maps = torch.randn(2, 3, 1, length)
        reduced = projection.reduce(maps)
        assert reduced.shape[2:] == pooled_sides(1, length) == (1, kept)
        torch.testing.assert_close(
            reduced[:, :, 0], functional.adaptive_avg_pool1d(maps[:, :, 0], kept)
        )
    assert pooled_sides(2, 40) == (2, 4)
    assert pooled_sides(40, 1) == (4, 1)


class Marking(nn.Module):
    """Tokens, to which `mark` is added where they are padding."""

    def __init__(self, width: int, mark: float) -> None:
        super().__init__()
        self.embed, self.mark = embedding(width), mark

    def forward(self, values: Tensor) -> Tensor:
        return self.embed(values).masked_fill((values == 0)[:, :, None], self.mark)


class Marked(nn.Module):
    def __init__(self, width: int, mark: float) -> None:
        super().__init__()
        self.tokens, self.classify = Marking(width, mark), nn.Linear(width, 5)

    def forward(self, values: Tensor) -> Tensor:
        return self.classify((self.tokens(values) * (values > 0)[:, :, None]).mean(1))

    def token_mask(self, values: Tensor) -> Tensor:
        return values > 0


def loss_of(kind: str, text: Tensor, mark: float, student_mark: float) -> tuple[Tensor, Tensor]:
    """Return a feature loss, and the gradient that it has at the student's embedding."""
    networks = []
    for width, padding in ((9, mark), (6, student_mark)):
        torch.manual_seed(width)
        networks.append(Network("any", Marked(width, padding), [Tap("tokens", "sequence")], WORDS))
    teacher, student = networks
    data = Examples(values=text, labels=torch.zeros(len(text), dtype=torch.long), inputs=WORDS)
    live = LiveTeacher(teacher, fit_projections(teacher, data, ["last1"]), torch.zeros(0))
    reading = live.read(0, torch.arange(len(text)), text, ["last1"]).taps
    adapters = Adapters.of(kind, {"last1": 6}, {"last1": 9}, seed=0)
    _, maps = student.forward_taps(text, ["last1"])
    value = feature_loss(features.load(kind), maps, reading, adapters)
    weight = student.body.tokens.embed.weight
    return value.detach(), torch.autograd.grad(value, weight)[0]


@pytest.mark.parametrize("kind", FEATURE_LOSSES.names)
def test_what_a_model_returns_at_padding_has_no_influence_on_a_loss(kind: str) -> None:
    value, gradient = loss_of(kind, TEXT, 0.0, 0.0)
    assert value.isfinite()
    assert gradient.any()
    for marks in ((3.0, 0.0), (0.0, 3.0), (float("nan"), float("inf"))):
        again, same_gradient = loss_of(kind, TEXT, *marks)
        assert torch.equal(again, value)
        assert torch.equal(same_gradient, gradient)


@pytest.mark.parametrize("kind", FEATURE_LOSSES.names)
def test_a_row_that_is_all_padding_has_finite_losses_and_gradients(kind: str) -> None:
    text = TEXT.clone()
    text[1] = 0
    value, gradient = loss_of(kind, text, 1.0, 1.0)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()
    nothing, gradient = loss_of(kind, torch.cat([text[1:2], TEXT[:1]]), 1.0, 1.0)
    assert nothing.isfinite()
    assert gradient.isfinite().all()
