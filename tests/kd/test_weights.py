"""Weights that a network starts from: checkpoints of many forms, and a head for other classes."""

import argparse
import logging
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from kd.data.inputs import Images
from kd.errors import ArtifactError, DataError, ProtocolError
from kd.models import libraries, weight_files, weights
from kd.models.build import Network, build, export_state
from kd.models.weights import load_file
from kd.names import WeightsFile
from tests.support.small import same_bits, square

State = dict[str, Tensor]
HEAD = ["fc.weight", "fc.bias"]
TIMM = "timm:test_resnet"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Nothing that an earlier test has read is kept."""
    weight_files._read.cache_clear()
    weights._of_library.cache_clear()


def make(name: str = "resnet8-w0.25", *, classes: int = 10, size: int = 32, **more: Any) -> Network:
    settings = {"stem": "cifar", "seed": 2, **more}
    inputs = square(settings.pop("channels", 3), size)
    return build(name, classes=classes, inputs=inputs, **settings)


def logits(network: Network) -> Tensor:
    inputs = network.inputs
    assert isinstance(inputs, Images)
    generator = torch.Generator().manual_seed(5)
    values = torch.randint(0, 256, (2, *inputs.shape), generator=generator).to(torch.uint8)
    with torch.inference_mode():
        return network.eval()(values)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


# what `torch.save` writes of a state dict, and what the loader adds to the file's name
FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a state dict": (lambda state: state, ""),
    "of DDP": (lambda state: {"state_dict": prefixed("module.", state)}, " (state_dict)"),
    "of Lightning": (
        lambda state: {"epoch": 3, "state_dict": prefixed("model.", state)},
        " (state_dict)",
    ),
    "compiled and parallel": (
        lambda state: {"model": prefixed("module._orig_mod.", state), "optimizer": {}},
        " (model)",
    ),
    "averaged, by timm": (
        lambda state: {"state_dict": {}, "state_dict_ema": state},
        " (state_dict_ema)",
    ),
    "averaged, by torchvision": (
        lambda state: {
            "model": prefixed("body.", state),
            "model_ema": {"n_averaged": torch.tensor(4), **prefixed("module.", state)},
        },
        " (model_ema)",
    ),
    "with the arguments of its script": (  # as timm's and torchvision's write
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99))},
        " (model)",
    ),
    "nested": (lambda state: {"model": {"state_dict": state}}, " (model/state_dict)"),
    "of old PyTorch": (
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        "",
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_of_all_forms_give_the_logits_of_their_model(
    tmp_path: Path, form: str, suffix: str
) -> None:
    written, said = FORMS[form]
    network, path = make(seed=1), tmp_path / f"kept{suffix}"
    torch.save(written(export_state(network)), path)
    again = make(weights=str(path))
    assert torch.equal(logits(again), logits(network))
    assert not torch.equal(logits(make()), logits(network))
    assert re.fullmatch(rf"all \d+ tensors of {re.escape(str(path) + said)} loaded", again.loaded)


class Wrapped(nn.Module):
    """A model whose own names begin with what wrappers add."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


def test_names_that_begin_like_a_wrapper_are_the_model_s_own(tmp_path: Path) -> None:
    network = Network("own", Wrapped(), (), square(3, 2))
    path = tmp_path / "own.pt"
    torch.save(prefixed("module.", export_state(network)), path)
    load_file(again := Network("own", Wrapped(), (), square(3, 2)), path)
    assert same_bits(again.state_dict(), network.state_dict())


UNFIT: dict[str, tuple[Callable[[State], Any], str]] = {
    "a missing tensor": (
        lambda state: without(state, "conv1.weight"),
        "has no conv1.weight, which resnet8-w0.25 needs",
    ),
    "half a head": (lambda state: without(state, "fc.bias"), "has no fc.bias, which resnet8-w0.25"),
    "an extra tensor": (
        lambda state: {**state, "neck.weight": torch.ones(1)},
        "has neck.weight, which resnet8-w0.25 lacks",
    ),
    "a head of other inputs": (
        lambda state: {**state, "fc.weight": torch.ones(7, 9), "fc.bias": torch.ones(7)},
        "has fc.weight of shape (7, 9), resnet8-w0.25 needs (10, 16)",
    ),
    "not finite": (
        lambda state: {**state, "fc.bias": torch.full((10,), torch.inf)},
        "has fc.bias that is not of finite torch.float32",
    ),
    "another dtype": (
        lambda state: {**state, "fc.bias": torch.ones(10, dtype=torch.int64)},
        "has fc.bias that is not of finite torch.float32",
    ),
    "no tensor": (lambda state: {**state, "fc.bias": [1.0]}, "has fc.bias, which is no dense"),
    "no state dict": (
        lambda state: {"optimizer": {"lr": 1}, "epoch": 3},
        "has no state dict, but a dict with the keys optimizer, epoch; it must be one, or have it",
    ),
    "a pickled model": (lambda state: make(), "has pickled objects beside tensors, which Retort"),
    "an object beside it": (
        lambda state: {"args": types.SimpleNamespace(lr=1), "model": state},
        "two lines of Python, and give that file: whole = torch.load(",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_one_line(tmp_path: Path, case: str) -> None:
    written, expected = UNFIT[case]
    path = tmp_path / "unfit.pth"
    torch.save(written(export_state(make())), path)
    with pytest.raises(ArtifactError, match=f"^{re.escape(str(path))} ") as raised:
        make(weights=str(path))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ArtifactError, match="pickled objects"):
        make(weights=str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"broken{suffix} cannot be read as ") as raised:
        make(weights=str(path))
    assert "\n" not in str(raised.value)


def saved(path: Path, state: State) -> str:
    safetensors.torch.save_file(state, path)
    return str(path)


def test_a_head_for_other_classes_keeps_its_initial_weights(tmp_path: Path) -> None:
    given = export_state(make(classes=7, seed=1))
    path = saved(tmp_path / "seven.safetensors", given)
    network = make(weights=path)
    own, fresh = export_state(network), export_state(make())
    assert same_bits({k: own[k] for k in HEAD}, {k: fresh[k] for k in HEAD})
    assert same_bits(without(own, *HEAD), without(given, *HEAD))
    total = len(own)
    assert network.loaded == (
        f"{total - 2} of {total} tensors of {path} loaded, fc.weight and fc.bias are new "
        "(10 classes instead of 7)"
    )
    headless = saved(tmp_path / "none.safetensors", without(given, *HEAD))
    assert make(weights=headless).loaded.endswith("fc.weight and fc.bias are new (it has no head)")


def test_without_training_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "seven.safetensors", export_state(make(classes=7)))
    with pytest.raises(ArtifactError) as raised:
        make(weights=path, new_head=False)
    assert str(raised.value) == (
        f"{path}: its head does not fit, and without training epochs it would stay random: "
        "fc.weight and fc.bias are new (10 classes instead of 7); use --teacher-epochs 1 or more, "
        "or weights for 10 classes"
    )
    fitting = saved(tmp_path / "ten.safetensors", export_state(make(seed=1)))
    assert make(weights=fitting, new_head=False).loaded.startswith("all ")


class Heads(nn.Module):
    """Two heads, of which one convolves, behind a hidden layer with as many outputs as classes."""

    def __init__(self, classes: int, hidden: int = 5) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(3, hidden, 1)
        self.aux = nn.Conv2d(hidden, classes, 1)
        self.norm = nn.BatchNorm2d(hidden)
        self.top = nn.Linear(hidden, classes, bias=False)


def heads(classes: int, hidden: int = 5) -> Network:
    return Network("heads", Heads(classes, hidden), (), square())


def test_heads_are_found_by_their_shapes(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "nine.safetensors", export_state(heads(9))))
    loaded = load_file(heads(5), path, classes=5)
    assert loaded.new == ("aux.weight", "aux.bias", "top.weight")
    assert (loaded.given, loaded.count, loaded.total) == (9, 7, 10)
    wider = Path(saved(tmp_path / "wide.safetensors", export_state(heads(5, hidden=6))))
    with pytest.raises(ArtifactError, match=r"has mixed\.weight of shape \(6, 3, 1, 1\)"):
        load_file(heads(5), wider, classes=5)
    lacking = without(export_state(heads(9)), "mixed.weight", "mixed.bias")
    with pytest.raises(ArtifactError, match=r"has no mixed\.weight, which heads needs"):
        load_file(heads(5), Path(saved(tmp_path / "x.safetensors", lacking)), classes=5)
    bare = without(export_state(heads(9)), "mixed.weight", "mixed.bias", "top.weight")
    with pytest.raises(ArtifactError, match=r"has no mixed\.weight, which heads needs"):
        load_file(heads(5), Path(saved(tmp_path / "y.safetensors", bare)), classes=5)


def test_a_file_is_read_once_while_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "kept.safetensors", export_state(make(seed=1)))
    reads = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda each: reads.append(each) or read(each))
    first = make(weights=path)
    with torch.no_grad():
        first.body.fc.weight.zero_()  # trained: the next one starts from the file all the same
    assert make(weights=path).body.fc.weight.any()
    assert len(reads) == 1
    saved(Path(path), export_state(make(seed=3, classes=7)))
    assert "new" in make(weights=path).loaded
    assert len(reads) == 2


def test_a_file_that_a_study_is_bound_to_must_not_change(tmp_path: Path) -> None:
    path = saved(tmp_path / "kept.safetensors", export_state(make(seed=1)))
    with pytest.raises(ArtifactError, match="has changed since the study was begun: its SHA-256"):
        load_file(make(), WeightsFile(path, "0" * 12))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torch.hub looks for weights, empty; downloads fail."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def keep_torchvision(hub: Path, name: str) -> State:
    """Put a state dict where torchvision's weights of a model would be downloaded to."""
    torch.manual_seed(3)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    torch.save(state, hub / url.rsplit("/", 1)[-1])
    return state


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_s_weights_arrive_but_for_the_head(hub: Path, channels: int) -> None:
    given = keep_torchvision(hub, "squeezenet1_1")
    name = "torchvision:squeezenet1_1"
    network = make(name, weights="pretrained", channels=channels, size=64)
    own, fresh = export_state(network), export_state(make(name, channels=channels, size=64))
    changed = {"features.0.weight"} if channels == 1 else set()
    new = {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(own[k], given[k]) for k in own if k not in changed | new)
    assert all(torch.equal(own[k], fresh[k]) for k in new)
    torch.testing.assert_close(own["features.0.weight"].sum(1), given["features.0.weight"].sum(1))
    assert network.loaded == (
        "50 of 52 tensors of torchvision's weights of squeezenet1_1 loaded, classifier.1.weight "
        "and classifier.1.bias are new (10 classes instead of 1000)"
    )
    with pytest.raises(ArtifactError, match="10 classes instead of 1000"):
        make(name, weights="pretrained", channels=channels, size=64, new_head=False)


def test_weights_of_torchvision_that_cannot_be_downloaded_are_one_line(hub: Path) -> None:
    expected = f"put squeezenet1_1-b8a52dc0.pth into {hub}, or take"
    with pytest.raises(DataError, match=re.escape(expected)) as raised:
        make("torchvision:squeezenet1_1", weights="pretrained", size=64)
    assert "\n" not in str(raised.value)


def keep_timm(path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> State:
    """Have timm read the weights of its smallest ResNet from a file."""
    torch.manual_seed(4)
    state = timm.create_model("test_resnet", **settings).state_dict()
    torch.save(state, path)
    create = timm.create_model
    overlay = {"file": str(path)}
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda *args, **kwargs: create(*args, **kwargs, pretrained_cfg_overlay=overlay),
    )
    return state


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_s_weights_arrive_but_for_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    given = keep_timm(tmp_path / "timm.pth", monkeypatch)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    network = make(TIMM, weights="pretrained", channels=channels)
    assert torch.equal(torch.get_rng_state(), before)
    own, fresh = export_state(network), export_state(make(TIMM, channels=channels))
    assert all(torch.equal(own[k], fresh[k]) for k in HEAD)
    assert all(torch.equal(own[k], given[k]) for k in own if k not in (*HEAD, "conv1.0.weight"))
    assert network.loaded.endswith(
        " tensors of timm's weights of test_resnet loaded, fc.weight and fc.bias are new "
        "(10 classes instead of 1000)"
    )
    whole = make(TIMM, weights="pretrained", channels=channels, classes=1000, new_head=False)
    assert torch.equal(whole.body.fc.weight, given["fc.weight"])


def test_weights_of_timm_that_cannot_be_downloaded_are_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = logging.getLogger("huggingface_hub.utils._http")

    def refuse(*args: object, **kwargs: object) -> None:
        hub.warning("Retrying in 1s [Retry 1/5].")  # as it does for each of its attempts
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(DataError, match=r"^cannot load timm's weights of test_resnet ") as raised:
        make(TIMM, weights="pretrained")
    assert "of huggingface.co/timm/test_resnet" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert caplog.messages == []
    hub.warning("outside")
    assert caplog.messages == ["outside"]


def test_models_without_weights_say_so() -> None:
    name = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(ProtocolError, match=f"^timm has no weights for {name}; use none"):
        libraries.load("timm").pretrained(name, 10, 3, 64)
