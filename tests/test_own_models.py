"""Models of the user's own: named by their content, tried out, kept, and refused in one line."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from conductor.cli import main
from conductor.own_models import keep_models, pin_models
from kd.catalogue import ModelName, parse_model
from kd.errors import ArtifactError, ProtocolError
from kd.models import build, export_state, tap_shapes
from kd.own_models import try_out
from kd.protocol import Protocol
from storage.layout import Layout
from tests.small import protocol
from tests.tiny import FLAGS, assert_one_line, changed, hasten
from workers.standalone import standalone_source

HEAD = "from collections import OrderedDict\nimport torch\nfrom torch import nn\n\n\n"
GOOD = """\
def small(classes, channels):
    relu = nn.ReLU()
    layers = OrderedDict(
        stem=nn.Conv2d(channels, 4, 3, padding=1),
        relu=relu,
        stage1=nn.Conv2d(4, 6, 3, 2, 1),
        pool=nn.MaxPool2d(2),
        stage2=nn.LayerNorm((6, 2, 2)),
        again=relu,
        flatten=nn.Flatten(),
        classify=nn.Linear(24, classes),
    )
    return nn.Sequential(layers)
"""
SHAPE = {"classes": 3, "channels": 1}


def keep(folder: Path, source: str, function: str = "small") -> str:
    """Keep a file as a study does; return the model's name in a protocol."""
    (folder / "mine.py").write_text(HEAD + source)
    pinned, contents = pin_models({"teacher": f"{folder}/mine.py:{function}"})
    keep_models(Layout(folder), contents)
    name: str = pinned["teacher"]
    return name


def attempt(folder: Path, source: str, taps: tuple[str, ...] = ("last1",)) -> None:
    name = keep(folder, source)
    try_out(name, **SHAPE, image_size=8, taps=taps, files=Layout(folder).models)


def built(folder: Path, name: str, seed: int = 0) -> nn.Module:
    return build(name, **SHAPE, stem="cifar", seed=seed, files=Layout(folder).models)


def test_a_name_has_the_digest_of_its_file(tmp_path):
    name = keep(tmp_path, GOOD)
    digest = hashlib.sha256((HEAD + GOOD).encode()).hexdigest()[:12]
    assert name == f"mine.py:small@{digest}"
    model = parse_model(name)
    assert (model.function, model.file) == ("small", f"mine-{digest}.py")
    assert parse_model("resnet8") == ModelName("resnet8")
    assert keep(tmp_path, GOOD + "\n") != name


def test_names_of_the_catalogue_and_names_with_a_digest_stay():
    given = {"teacher": "resnet20", "students": ["resnet8", "x.py:y@0123456789ab"], "epochs": 3}
    pinned, contents = pin_models(given)
    assert pinned == {**given, "students": tuple(given["students"])}
    assert contents == {}


@pytest.mark.parametrize("name", ["mine.py", "mine.py:small", "a-b.py:f@0123456789ab", "x.py:f@0"])
def test_a_name_that_is_not_whole_is_refused(name):
    with pytest.raises(
        ProtocolError, match=r"^a model of one's own is named by its file and a fun"
    ):
        protocol(teacher=name)


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(ProtocolError, match=r"^the model gone\.py:small cannot be read: No such"):
        pin_models({"students": ("gone.py:small",)})


def test_a_model_is_its_own_sequence_read_at_its_stages(tmp_path):
    network = built(tmp_path, keep(tmp_path, GOOD)).eval()
    images = torch.rand(2, 1, 8, 8)
    logits, outputs = network.forward_taps(images, ("last1", "last2"))
    assert torch.equal(logits, network.body(images))
    assert tap_shapes(network, 1, 8) == {"last1": (6, 2, 2), "last2": (6, 4, 4)}
    assert torch.equal(outputs["last2"], network.body[:3](images))


def test_weights_follow_from_the_seed_and_the_global_state_is_left_alone(tmp_path):
    name = keep(tmp_path, GOOD)
    before = torch.get_rng_state()
    left, right, other = (export_state(built(tmp_path, name, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert not torch.equal(left["stem.weight"], other["stem.weight"])


def test_a_good_model_is_taken(tmp_path):
    attempt(tmp_path, GOOD, taps=("last1", "last2"))


BAD = {
    "nothing": ("", r"^unknown function of mine\.py 'small'; known: "),
    "misspelt": ("def smal(classes, channels):\n    return 1\n", r"did you mean smal\?$"),
    "syntax": ("def small(:\n", r"^mine\.py does not import: SyntaxError: "),
    "import": ("import gone_for_good\n", r"^mine\.py does not import: ModuleNotFoundError: No mod"),
    "failing": (
        "def small(classes, channels):\n    raise ValueError('no\\nroom')\n",
        r"^mine\.py:small fails in line 7: ValueError: no room$",
    ),
    "arguments": ("def small(classes):\n    return 1\n", r"small must take classes and channels: "),
    "no arguments": ("def small():\n    return 1\n", r"^mine\.py:small must take classes and chan"),
    "softmax": (
        GOOD.replace("24, classes)", "24, classes), softmax=nn.Softmax(1)"),
        r"^mine\.py:small returns probabilities; leave the Softmax out, logits are asked for$",
    ),
    "log softmax": (
        GOOD.replace("24, classes)", "24, classes), softmax=nn.LogSoftmax(1)"),
        r"^mine\.py:small returns probabilities; leave the LogSoftmax out, logits are asked for$",
    ),
    "module": (
        "def small(classes, channels):\n    return nn.Linear(2, 2)\n",
        r"^mine\.py:small must return an nn\.Sequential, got Linear$",
    ),
    "stages": (GOOD.replace("stage", "part"), r"stage1, stage2, …, got stem, relu, part1, pool"),
    "dropout": (GOOD.replace("nn.MaxPool2d(2)", "nn.MaxPool2d(2), d=nn.Dropout()"), "as dropout d"),
    "logits": (GOOD.replace("24, classes", "24, 7"), r"return logits \[B, 3\], got \[2, 7\] for"),
    "images": (GOOD.replace("(6, 2, 2)", "(6, 9, 9)"), r"^mine\.py:small does not take images \["),
    "flat": (
        GOOD.replace("again=relu", "stage3=nn.Flatten()"),
        r"tap last1 must be a map \[B, C, h, w\], got \[2, 24\]$",
    ),
    "own numbers": (
        "count = iter(range(9))\n\n\n" + GOOD.replace(
            "    relu =", "    torch.manual_seed(next(count))\n    relu ="
        ),
        r"^mine\.py:small makes other weights from the same seed; ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, what):
    source, said = BAD[what]
    for _ in range(2):  # what a worker has met before is refused again
        with pytest.raises(ProtocolError, match=said) as refused:
            attempt(tmp_path, source)
        assert "\n" not in str(refused.value)


def test_a_tap_that_a_model_has_not_is_refused(tmp_path):
    with pytest.raises(ProtocolError, match=r"has no tap 'last3'; take --taps last1,last2$"):
        attempt(tmp_path, GOOD, taps=("last1", "last3"))


def test_a_copy_that_has_changed_or_is_gone_is_refused(tmp_path):
    name = keep(tmp_path, GOOD + "\n\nFIRST = 1\n")
    copy = Layout(tmp_path).models / parse_model(name).file
    copy.write_text(HEAD)
    with pytest.raises(ArtifactError, match=r"has changed; delete it, and name mine\.py:small aga"):
        built(tmp_path, name)
    copy.unlink()
    with pytest.raises(
        ArtifactError, match=r"cannot be read \(No such file or directory\); name m"
    ):
        built(tmp_path, name)


def test_imagenet_weights_for_a_model_of_ones_own_are_refused(tmp_path):
    name = keep(tmp_path, GOOD.replace("small", "resnet50"), "resnet50")
    with pytest.raises(ProtocolError, match=r"^no ImageNet weights exist for mine\.py:resnet50@"):
        protocol(teacher=name, teacher_weights="imagenet")


def test_a_protocol_is_another_when_the_file_is(tmp_path):
    one, other = (
        protocol(students=(keep(tmp_path, source),)) for source in (GOOD, GOOD + "\n# changed\n")
    )
    assert one.hash != other.hash
    assert Protocol.from_json(one.to_json()) == one


def test_the_exported_source_calls_the_function_of_the_copy(tmp_path):
    network = built(tmp_path, keep(tmp_path, GOOD))
    config = {**SHAPE, "image_size": 8, "mean": [0.5], "deviation": [0.3], "stem": "cifar"}
    source = standalone_source(network, config)
    model = parse_model(network.name)
    assert f'with_name("{model.file}")' in source
    assert 'made_by["small"](classes=3, channels=1)' in source
    assert f"It needs PyTorch, safetensors and what {model.file} imports, and noth" in source


def test_a_model_is_tried_out_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    hasten(monkeypatch)
    (tmp_path / "mine.py").write_text(HEAD + GOOD)
    root = tmp_path / "runs"
    teacher = ["--teacher", f"{tmp_path}/mine.py:small"]
    given = [*changed(FLAGS.split(), teacher), "--root", str(root)]
    code = main(given)
    said = capsys.readouterr().err
    assert_one_line(code, said)
    assert "has no tap 'last3'; take --taps last1,last2" in said
    assert not (root / "cache" / "teachers").exists()


def test_a_study_goes_on_with_its_copy_and_refuses_a_changed_file(tmp_path, monkeypatch, capsys):
    hasten(monkeypatch)
    mine = tmp_path / "mine.py"
    mine.write_text(HEAD + GOOD)
    flags = FLAGS.replace("--student resnet8-w0.25 ", "")
    tiny = f"{flags} --root {tmp_path / 'runs'} --arms plain --taps last1,last2".split()
    named = ["--student", f"{mine}:small"]
    assert main(changed(tiny, [*named, "--trials", "1"])) == 0
    mine.write_text(HEAD + GOOD + "\n# another\n")
    capsys.readouterr()
    code = main([*tiny, *named])
    said = capsys.readouterr().err
    assert_one_line(code, said)
    assert "the file mine.py has changed since study digits was begun; bring it back" in said
    mine.unlink()
    assert main(tiny) == 0
