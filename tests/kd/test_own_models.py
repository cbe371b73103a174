"""Models of the user's own: named by their content, tried out, kept, and refused in one line."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from conductor.command_line.cli import main
from conductor.stages.own_files import keep_own, pin_functions
from kd.errors import ArtifactError, ProtocolError
from kd.json_data import to_wire
from kd.models.build import Network, build, check_exists, export_state, tap_shapes
from kd.models.tryout import try_out, try_shapes
from kd.names import ModelName, parse_model
from kd.own_files import read_own
from kd.protocol import Protocol
from storage.files.layout import Layout
from tests.support.small import noise, protocol, square
from tests.support.tiny import (
    FLAGS,
    assert_one_line,
    changed,
    hasten,
    interrupt,
    leave_kernels_out,
    succeed,
    without_openings,
)
from workers.events import Result
from workers.execute import execute
from workers.jobs import ModelsJob, PrepareJob
from workers.runners.model_test import Tryout
from workers.runners.standalone import standalone_source

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
STUDY = Path(__file__).parents[2] / "study.py"
CPU = torch.device("cpu")


def keep(folder: Path, source: str, function: str = "small") -> str:
    """Keep a file as a study does; return the model's name in a protocol."""
    (folder / "mine.py").write_text(HEAD + source)
    pinned, files = pin_functions({"teachers": (f"{folder}/mine.py:{function}",)})
    keep_own(Layout(folder), files)
    name: str = pinned["teachers"][0]
    return name


def attempt(folder: Path, source: str) -> None:
    attempt_named(folder, keep(folder, source))


def attempt_named(folder: Path, name: str) -> None:
    make, files = partial(built, folder, name), Layout(folder).own
    try_out(name, make, noise(2, 1), classes=3, files=files)


def built(folder: Path, name: str, seed: int = 0) -> Network:
    return build(
        name, classes=3, inputs=square(), stem="cifar", seed=seed, files=Layout(folder).own
    )


def test_a_name_has_the_digest_of_its_file(tmp_path):
    name = keep(tmp_path, GOOD)
    digest = read_own(tmp_path / "mine.py").digest
    assert name == f"mine.py:small@{digest}"
    model = parse_model(name)
    assert (model.function, model.file, model.digest) == ("small", "mine.py", digest)
    assert (Layout(tmp_path).own / f"mine-{digest}" / "mine.py").read_text() == HEAD + GOOD
    assert parse_model("resnet8") == ModelName("resnet8")
    assert keep(tmp_path, GOOD + "\n") != name


def test_names_of_the_catalogue_and_names_with_a_digest_stay():
    given = {"teachers": ("resnet20",), "students": ["resnet8", "x.py:y@0123456789ab"], "epochs": 3}
    pinned, files = pin_functions(given)
    assert pinned == {**given, "students": tuple(given["students"])}
    assert files == []


@pytest.mark.parametrize("name", ["mine.py", "mine.py:small", "a-b.py:f@0123456789ab", "x.py:f@0"])
def test_a_name_that_is_not_whole_is_refused(name):
    with pytest.raises(ProtocolError, match=r"^a model of your own must be FILE\.py:FUNCTION"):
        protocol(teachers=(name,))


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(ProtocolError, match=r"/gone\.py cannot be read: No such file"):
        pin_functions({"students": ("gone.py:small",)})


def test_a_sequence_is_read_at_the_last_of_each_map_size(tmp_path):
    network = built(tmp_path, keep(tmp_path, GOOD)).eval()
    images = torch.randint(256, (2, 1, 8, 8)).to(torch.uint8)
    logits, outputs = network.forward_taps(images, ("last1", "last2", "last3"))
    normalised = network.inputs.normalise(images)
    assert torch.equal(logits, network.body(normalised))
    shapes = {"last1": (6, 2, 2), "last2": (6, 4, 4), "last3": (4, 8, 8)}
    assert tap_shapes(network) == shapes
    assert torch.equal(outputs["last2"], network.body[:3](normalised))


def test_weights_follow_from_the_seed_and_the_global_state_is_left_alone(tmp_path):
    name = keep(tmp_path, GOOD)
    before = torch.get_rng_state()
    left, right, other = (export_state(built(tmp_path, name, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert not torch.equal(left["stem.weight"], other["stem.weight"])


def test_a_good_model_is_taken(tmp_path):
    attempt(tmp_path, GOOD)


HEADS = "nn.Sequential(nn.Linear(24, classes), Layer())"
STAGE = "nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), Layer())"


def layer(answer: str, more: str = "", *, stage: bool = False) -> str:
    """A model of which a child has this `forward`, in lines 7 and 8 of its file."""
    forward = f"    def forward(self, x):\n        {answer}\n"
    model = GOOD.replace("nn.Conv2d(4, 6, 3, 2, 1)", STAGE) if stage else (
        GOOD.replace("nn.Linear(24, classes)", HEADS)
    )  # fmt: skip
    return f"class Layer(nn.Module):\n{forward}\n    {more}\n\n\n{model}"


BAD = {
    "nothing": ("", r"^unknown function of mine\.py 'small'; known: "),
    "misspelt": ("def smal(classes, channels):\n    return 1\n", r"did you mean smal\?$"),
    "syntax": ("def small(:\n", r"/mine\.py does not import: SyntaxError: .*\(mine\.py, line 6\)$"),
    "import": ("import gone_for_good\n", r"^mine\.py does not import: ModuleNotFoundError: No mod"),
    "failing": (
        "def small(classes, channels):\n    raise ValueError('no\\nroom')\n",
        r"^mine\.py:small fails: ValueError: no room \(mine\.py, line 7, in small\); correct ",
    ),
    "arguments": ("def small(classes):\n    return 1\n", r"small must take classes and channels: "),
    "no arguments": ("def small():\n    return 1\n", r"^mine\.py:small must take classes and chan"),
    "softmax": (
        GOOD.replace("24, classes)", "24, classes), softmax=nn.Softmax(1)"),
        r"^mine\.py:small must return logits, got probabilities; remove the Softmax \(min",
    ),
    "log softmax": (
        GOOD.replace("24, classes)", "24, classes), softmax=nn.LogSoftmax(1)"),
        r" must return logits, got probabilities; remove the LogSoftmax \(mine\.py, line ",
    ),
    "module": (
        "def small(classes, channels):\n    return [nn.Linear(2, 2)]\n",
        r"^mine\.py:small must return an nn\.Module, got list \(mine\.py, line 6, in smal",
    ),
    "logits": (GOOD.replace("24, classes", "24, 7"), r"return logits \[B, 3\], got \[2, 7\] for"),
    "images": (
        GOOD.replace("(6, 2, 2)", "(6, 9, 9)"),
        r"^mine\.py:small does not accept images of 1x8x8, 2 at once: ",
    ),
    "lazy": (
        GOOD.replace("nn.Conv2d(4, 6,", "nn.LazyConv2d(6,"),
        r"small has the lazy layer stage1, LazyConv2d, whose shape .*; use Conv2d with its number ",
    ),
    "lazy deep": (
        GOOD.replace("nn.Linear(24, classes)", "nn.Sequential(nn.LazyLinear(classes))"),
        r"has the lazy layer classify\.0, LazyLinear, whose .*\(mine\.py, line 6, in small\)$",
    ),
    "extra state": (
        layer("return x", "def get_extra_state(self):\n        return {'epoch': 1}"),
        r"small has classify\.1\._extra_state, a dict, in its state dict; use only tensors \(",
    ),
    "a dict": (
        layer("return {'scores': x, 'aux': x}"),
        r"^mine\.py:small must return logits, a tuple or list whose first entry they are, or an "
        r"object or dict with logits; got dict with the keys scores, aux "
        r"\(mine\.py, line 13, in small\)$",
    ),
    "changed in place in training alone": (
        "TAPS = ('stage1',)\n\n\n"
        + layer("return x.add_(1) if self.training else x", stage=True).replace(
            "3, 2, 1), Layer())", "3, 2, 1), nn.ReLU()), change=Layer()"
        ),
        r"^mine\.py:small changes the output of stage1 in place in a later layer; remove its "
        r"inplace=True, or name another module in TAPS \(mine\.py, line 16, in small\)$",
    ),
    "other random numbers": (
        "import random\n\n\n" + layer("return x * random.random() if self.training else x"),
        r"^mine\.py:small draws random numbers from Python's random or NumPy; draw them from torch",
    ),
    "raising": (
        layer("return {}['absent']"),
        r"small does not accept images of 1x8x8, 2 at once: KeyError: 'absent' "
        r"\(mine\.py, line 8, in forward\); correct it there, and run the same command again$",
    ),
    "raising in evaluation": (
        layer("return x if self.training else self.absent"),
        r"AttributeError: 'Layer' object has no attribute 'absent' \(mine\.py, line 8, in forw",
    ),
    "leaving": (layer("raise SystemExit(3)"), r"SystemExit: 3 \(mine\.py, line 8, in forward\); c"),
    "leaving at once": ("raise SystemExit(3)\n", r"import: SystemExit: 3 \(mine\.py, line 6, in <"),
    "from a helper": (
        "def helper(x):\n    return x.absent\n\n\n" + layer("return helper(x)"),
        r"AttributeError: .* \(mine\.py, line 7, in helper\); correct it there",
    ),
    "no copy on shapes alone": (
        layer("return x + float(x.detach().sum())"),
        r"small does not run on the device meta.*\(mine\.py, line 8, in forward\); correct it",
    ),
    "dropout in evaluation": (
        layer("return nn.functional.dropout(x, training=not self.training)"),
        r"draws random numbers in evaluation, as dropout does; ",
    ),
    "own numbers": (
        "count = iter(range(9))\n\n\n" + GOOD.replace(
            "    relu =", "    torch.manual_seed(next(count))\n    relu ="
        ),
        r"^mine\.py:small gets different weights from the same seed; ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path, what):
    source, said = BAD[what]
    for _ in range(2):  # what a worker has met before is refused again
        with pytest.raises(ProtocolError, match=said) as refused:
            attempt(tmp_path, source)
        assert "\n" not in str(refused.value)


TAKEN = {
    "a dict": layer("return {'logits': x, 'aux': x}"),
    "a dataclass": "from dataclasses import dataclass\n\n\n@dataclass\nclass Output:\n"
    "    logits: torch.Tensor\n\n\n" + layer("return Output(x)"),
    "a tuple": layer("return x, x"),
    "dropout": GOOD.replace("nn.MaxPool2d(2)", "nn.MaxPool2d(2), d=nn.Dropout()"),
    "a stage changed in place": GOOD.replace(
        "3, 2, 1),", "3, 2, 1), stage3=nn.BatchNorm2d(6), act=nn.ReLU(inplace=True),"
    ),
    "no stage": GOOD.replace("stage", "part"),
    "stochastic depth": layer("return x * (torch.rand(len(x), 1) > 0.1) if self.training else x"),
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_was_refused_once_is_taken(tmp_path, what):
    attempt(tmp_path, TAKEN[what])


def test_a_library_is_refused_by_its_name_and_with_the_nearest():
    with pytest.raises(ProtocolError, match=r"^unknown model of torchvision 'resnet19'; did you "):
        check_exists(parse_model("torchvision:resnet19"), Path())
    make = partial(build, "torchvision:alexnet", classes=3, inputs=square(3), stem="cifar", seed=0)
    with pytest.raises(
        ProtocolError, match=r"^torchvision:alexnet does not accept images .*; use"
    ) as e:
        try_shapes("torchvision:alexnet", make, classes=3, files=Path())
    assert "\n" not in str(e.value)


def test_a_library_that_is_not_installed_is_refused_with_the_command_that_does_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "kd.models.libraries.timm", raising=False)
    with pytest.raises(ProtocolError, match=r"^a model of timm needs the package: pip install "):
        check_exists(parse_model("timm:resnet26t"), Path())


def test_a_copy_that_has_changed_or_is_gone_is_refused(tmp_path):
    name = keep(tmp_path, GOOD + "\n\nFIRST = 1\n")
    [copy] = Layout(tmp_path).own.glob("*/mine.py")
    copy.write_text(HEAD)
    with pytest.raises(ArtifactError, match=r"has changed; delete it, and pass mine\.py again w"):
        built(tmp_path, name)
    copy.unlink()
    with pytest.raises(ArtifactError, match=r"cannot be read: No such file or directory; pass mi"):
        built(tmp_path, name)


def test_a_function_may_come_from_a_module_beside_the_file(tmp_path):
    (tmp_path / "blocks.py").write_text(HEAD + GOOD)
    name = keep(tmp_path, "from blocks import small\n\nrelu = torch.relu\n")
    assert [*built(tmp_path, name).body._modules][:2] == ["stem", "relu"]
    (tmp_path / "blocks.py").write_text(HEAD + GOOD.replace("24, classes", "24, 7"))
    again = keep(tmp_path, "from blocks import small\n\nrelu = torch.relu\n")
    with pytest.raises(
        ProtocolError, match=r"got \[2, 7\] for B = 2 and 3 classes \(blocks\.py, line 6, "
    ):
        attempt_named(tmp_path, again)
    with pytest.raises(ProtocolError, match=r"^unknown function of mine\.py 'relu'; known: small$"):
        built(tmp_path, again.replace("small", "relu"))


def test_imagenet_weights_for_a_model_of_the_user_are_refused(tmp_path):
    name = keep(tmp_path, GOOD.replace("small", "resnet50"), "resnet50")
    with pytest.raises(ProtocolError, match=r"no ImageNet weights for mine\.py:resnet50@"):
        protocol(teachers=(name,), teacher_weights=("pretrained",))


def test_a_protocol_is_another_when_the_file_is(tmp_path):
    one, other = (
        protocol(students=(keep(tmp_path, source),)) for source in (GOOD, GOOD + "\n# changed\n")
    )
    assert one.hash != other.hash
    assert Protocol.from_json(one.to_json()) == one


def test_the_exported_source_calls_the_function_of_the_copy(tmp_path):
    network = built(tmp_path, keep(tmp_path, GOOD))
    config = {"classes": 3, "channels": 1, "inputs": to_wire(square()), "stem": "cifar"}
    source = standalone_source(network, config)
    model = parse_model(network.name)
    assert f'import_folder(here / "mine-{model.digest}", "mine")' in source
    assert "return made_by.small(classes=3, channels=1)" in source
    assert f"It needs PyTorch, safetensors and what {model.file} imports, and noth" in source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (GOOD.replace("6, 2, 2", "6, 9, 9"), "mine.py:small does not accept images of 3x8x8"),
        ("import gone_for_good\n", "mine.py does not import: ModuleNotFoundError"),
    ],
)
def test_a_model_is_tried_out_before_data_are_read(tmp_path, monkeypatch, capsys, source, said):
    hasten(monkeypatch)
    (tmp_path / "mine.py").write_text(HEAD + source)
    root = tmp_path / "runs"
    teacher = ["--teacher", f"{tmp_path}/mine.py:small"]
    code = main([*changed(FLAGS.split(), teacher), "--root", str(root)])
    refused = capsys.readouterr().err
    assert_one_line(code, refused)
    assert said in refused
    assert not (root / "cache" / "data").exists()


def test_a_study_continues_with_its_copy_and_refuses_a_changed_file(tmp_path, monkeypatch, capsys):
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
    assert (
        "mine.py, or a file that it imports, has changed since study digits was begun; restore "
        in said
    )
    mine.unlink()
    assert main(tiny) == 0


# What a study will do with a model, done before anything is trained.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A root with the data set."""
    root = tmp_path_factory.mktemp("prepared")
    *_, last = execute(PrepareJob(protocol=protocol(), root=str(root)), CPU, lambda: False)
    assert isinstance(last, Result), last
    return root


def tried(
    root: Path, source: str, *, teacher: bool = False, epochs: int = 1, compiled: bool = False
) -> dict[str, Any]:
    """Return the last event of the job that tries a model out, as teacher or as student."""
    name = keep(root, source)
    models = {"teachers": (name,)} if teacher else {"students": (name,)}
    [manifest] = (root / "cache" / "data").glob("*/manifest.json")
    given = protocol(**models, taps=("last1",), teacher_epochs=epochs, compile=compiled)
    job = ModelsJob(protocol=given, root=str(root), dataset=manifest.parent.name)
    with pytest.MonkeyPatch.context() as patch:
        leave_kernels_out(patch)
        *_, last = execute(job, CPU, lambda: False)
    return last


MODEL = """\
class Ends(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        return x + self.words(self.out(x).argmax(1)) + self.out(x) @ self.words.weight


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        memory = torch.ones(12)
        self.left, self.right = (nn.Parameter(part) for part in memory.split(6))
        self.register_buffer("mask", memory.clone()[2:8])
        self.register_buffer("twin", self.mask)
        self.register_buffer("part", self.mask[2:4])

    def forward(self, x):
        return x * self.left + self.right * self.mask


def small(classes, channels):
    one, two = nn.Linear(6, 6), nn.Linear(6, 6)
    norm, other = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    {tie}
    stage = OrderedDict(stage1=nn.Conv2d(channels, 6, 3), pool=nn.AdaptiveAvgPool2d(1))
    layers = OrderedDict({layers})
    classify = nn.Linear(6, classes)
    return nn.Sequential(OrderedDict(**stage, flatten=nn.Flatten(), **layers, classify=classify))
"""
TIED = {
    "a module under two names": ("pass", "one=one, act=nn.ReLU(), two=nn.Sequential(one)"),
    "a parameter of two modules": ("two.weight = one.weight", "one=one, act=nn.ReLU(), two=two"),
    "a buffer of two modules": ("norm.running_var = other.running_var", "norm=norm, other=other"),
    "embeddings": ("pass", "ends=Ends()"),
    "views of one memory": ("pass", "views=Views()"),
    "two parameters over one memory": (
        "two.weight = nn.Parameter(one.weight.data)",
        "a=one, b=two",
    ),
    "not contiguous": ("one.weight = nn.Parameter(torch.randn(6, 6).T)", "one=one"),
}


@pytest.mark.parametrize("what", TIED)
def test_a_model_whose_tensors_share_memory_passes_all_that_a_study_does(prepared, what):
    tie, layers = TIED[what]
    for teacher in (False, True):
        last = tried(prepared, MODEL.format(tie=tie, layers=layers), teacher=teacher)
        assert last == Result.of()


@pytest.mark.parametrize("teacher", [False, True])
def test_a_model_that_does_not_compile_is_refused_before_anything_is_trained(
    prepared, monkeypatch, teacher
):
    def fails(function: Any, **options: Any) -> Any:
        assert options["fullgraph"] is False
        raise RuntimeError("an unsupported operation")

    monkeypatch.setattr("torch.compile", fails)
    assert tried(prepared, GOOD, teacher=teacher) == Result.of()
    assert tried(prepared, GOOD, teacher=True, epochs=0, compiled=True) == Result.of()
    last = tried(prepared, GOOD, teacher=teacher, compiled=True)
    said = "mine.py:small cannot be compiled; use --no-compile: RuntimeError: an unsupported "
    assert last.reason.startswith(said)
    assert "\n" not in last.reason


def buffer(answer: str, value: str) -> str:
    """A model of which a layer has the buffer `kept`."""
    lines = ("def __init__(self):", "super().__init__()", f"self.register_buffer('kept', {value})")
    return layer(answer, "\n        ".join(lines))


MODE = "from torch.utils._python_dispatch import _get_current_dispatch_mode"
LATER = {
    "what depends on the other images": (
        layer("return x - x.mean(0) + self.training"),
        r"cannot be kept and evaluated: the logits in batches of 1 differ by .*\(mine\.py, line",
    ),
    "a number that the state lacks": (
        layer(
            "self.seen += self.training; return x * (1 + self.seen)", "seen = 0"
        ),
        r"small has state that its state dict lacks .*: resumed after an epoch, ",
    ),
    "a buffer that does not persist": (
        buffer("self.kept += 1; return x * self.kept", "torch.ones(()), persistent=False"),
        r"small has state that its state dict lacks ",
    ),
    "what files do not hold": (
        buffer("return x", "torch.ones(3, dtype=torch.bfloat16)"),
        r"small cannot be trained: TypeError: .*BFloat16 \(mine\.py, line 15, in small\); correct",
    ),
    "what is frozen": (
        GOOD.replace("Sequential(layers)", "Sequential(layers).requires_grad_(False)"),
        r"small has no parameter that is trained: all are frozen \(mine\.py, line 6, in small\)$",
    ),
    "a gradient": (
        "class Back(torch.autograd.Function):\n    @staticmethod\n    def forward(context, x):\n"
        "        return x.clone()\n\n    @staticmethod\n    def backward(context, gradient):\n"
        "        return gradient.absent\n\n\n" + layer("return Back.apply(x)"),
        r"cannot be trained: AttributeError: .* \(mine\.py, line 13, in backward\); correct it",
    ),
    "a batch of the study": (
        layer("assert len(x) < 9, 'too many'; return x"),
        r"does not take a batch of the study: AssertionError: too many \(mine\.py, line 8, in for",
    ),
    "the count of its operations": (
        layer(
            "assert not (x.is_meta and _get_current_dispatch_mode()), 'counted'; return x"
        ).replace("class", f"{MODE}\n\n\nclass", 1),
        r"small cannot be measured: AssertionError: counted \(mine\.py, line 11, in forward\); ",
    ),
    "its own place, which in an export is another": (
        GOOD.replace("    relu =", '    assert "cache" in __file__, __file__\n    relu ='),
        r"small fails: AssertionError: .*/export/mine-\w+/mine\.py \(mine\.py, line 7, in small\)",
    ),
    "a layer changed in place": (
        layer("y = x.sigmoid(); y += 1; return y"),
        r"small cannot be trained: RuntimeError: .* by an inplace operation.*\(mine\.py, line 13, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LATER)
def test_what_would_fail_later_is_refused_when_a_model_is_tried_out(prepared, what):
    source, said = LATER[what]
    last = tried(prepared, source)
    assert last.kind == "ProtocolError", last
    assert re.search(said, last.reason), last.reason
    assert "\n" not in last.reason


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_scripted_layer_is_refused_in_one_line_of_the_user_s_file(prepared):
    scripted = GOOD.replace("nn.Linear(24, classes)", "torch.jit.script(nn.Linear(24, classes))")
    last = tried(prepared, scripted)
    assert last.kind == "ProtocolError", last
    assert "(mine.py, line" in last.reason
    assert "\n" not in last.reason


def test_a_teacher_that_is_not_trained_may_be_frozen(prepared):
    frozen, _ = LATER["what is frozen"]
    assert tried(prepared, frozen, teacher=True, epochs=0) == Result.of()
    assert "has no parameter that is trained" in tried(prepared, frozen, teacher=True).reason


PARTS = GOOD.replace(
    "    return nn.Sequential(layers)\n",
    "    layers['stage1'].requires_grad_(False)\n"
    "    layers['stage2'].auxiliary = nn.Linear(6, classes)\n"
    "    layers['stage2'].auxiliary.tied = layers['classify']\n"
    "    return nn.Sequential(layers)\n",
)


def own_flags(folder: Path) -> str:
    """The flags of a study whose student is the model in `folder`."""
    student = f"--taps last1,last2 --student {folder}/mine.py:small"
    return FLAGS.replace("--student resnet8-w0.25", student)


def test_a_killed_study_of_a_student_with_frozen_unused_and_tied_parts_ends_as_an_unbroken_one(
    tmp_path, monkeypatch, capsys
):
    hasten(monkeypatch)
    (tmp_path / "mine.py").write_text(HEAD + PARTS)
    flags = own_flags(tmp_path)
    monkeypatch.setattr("tests.support.tiny.FLAGS", flags)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    succeed(whole, capsys)
    interrupt(killed, capsys, monkeypatch)
    assert list(killed.glob("digits/trials/*/*/checkpoint.safetensors"))
    code = main([*flags.split(), "--root", str(killed)])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    assert "starts again" not in said.out
    assert without_openings(killed) == without_openings(whole)
    assert main(["export", "--root", str(killed), "--workers", "inline"]) == 0


@pytest.mark.parametrize("workers", ["inline", "1"])
def test_a_model_that_returns_no_logits_costs_one_line_and_nothing_is_trained(tmp_path, workers):
    (tmp_path / "mine.py").write_text(HEAD + layer("return {'scores': x}"))
    flags = own_flags(tmp_path)
    flags = flags.replace("--workers inline", f"--workers {workers} --root {tmp_path / 'runs'}")
    command = [sys.executable, str(STUDY), *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert_one_line(done.returncode, done.stderr)
    assert "got dict with the keys scores (mine.py, line " in done.stderr
    left = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not [path for path in left if {"teachers", "logs", "digits"} & {*path.parts}], left


def test_a_model_that_fails_in_the_study_ends_it_with_the_line_where_it_did(
    tmp_path, monkeypatch, capsys
):
    hasten(monkeypatch)
    marker, run = tmp_path / "marker", Tryout.run
    fails = f"assert not (self.training and Path({str(marker)!r}).exists()), 'too late'"
    source = layer(f"{fails}; return x")
    (tmp_path / "mine.py").write_text(
        HEAD.replace("import torch", "from pathlib import Path") + source
    )

    def run_and_mark(self: Tryout, **given: bool) -> None:
        run(self, **given)
        marker.touch()

    monkeypatch.setattr(Tryout, "run", run_and_mark)
    flags = own_flags(tmp_path)
    code = main([*flags.split(), "--root", str(tmp_path / "runs")])
    said = capsys.readouterr().err
    assert_one_line(code, said)
    assert said == (
        "study.py: AssertionError: too late (mine.py, line 8, in forward); correct it there, and "
        "start again with another --name\n"
    )
