"""Write `student.py`, the exported file that loads a student in plain PyTorch.

A network is written as the calls that build it, because the text of a PyTorch layer is the call
that makes it. Retort's own blocks are included as source; of torchvision's models only the changes
are written; the user's own model is built by the copy of the user's file that the export contains.
The export job runs the file and compares its network with the student.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from kd.data.inputs import Arrays, Inputs, read_inputs
from kd.models.build import Network
from kd.models.families.cifar import BasicBlock, PreActivationBlock, conv3x3
from kd.models.families.torchvision import MOBILENET_CIFAR_STAGES
from kd.models.network import tied_names
from kd.names import ModelName, parse_model
from kd.own_files import own_folder

BLOCKS = (BasicBlock, PreActivationBlock)

FILE = '''\
"""{title}

It needs {needs}, and nothing of Retort, which wrote it:

    from student import load

    student = load()
    logits = student({name})  # {name}: {shape}
"""

{imports}

{constants}{tied}
{blocks}
{student}

def body() -> nn.Module:
    """The layers, not trained yet."""
{body}


def load(path: Path = Path(__file__).with_name("student.safetensors")) -> Student:
    """The trained student, in eval mode, on the CPU."""
    student = Student()
{loading}
    return student.eval()
'''

# For a student whose inputs are images.
CONSTANTS = """\
MEAN = {mean}  # of each channel of the training images, in units of 0-1 pixels
DEVIATION = {deviation}
"""
NORMALISING = '''\
class Student(nn.Module):
    """From images with pixels in 0-1 to logits: normalises as in training, to the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        scale = 1 / (255 * self.deviation)
        shift = self.mean / self.deviation
        return self.body(255 * images * scale[:, None, None] - shift[:, None, None])
'''
# For a student whose inputs are arrays.
PLAIN = '''\
class Student(nn.Module):
    """From arrays, as the data set has them, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, arrays: Tensor) -> Tensor:
        return self.body(arrays.clone())  # layers may write into their input
'''

# For tied weights: the file stores a shared tensor once.
TIED = """\
# names of a tensor that the file holds under another name
TIED = {tied}
"""
LOADING = "    student.body.load_state_dict(load_file(path))"
LOADING_TIED = """\
    weights = load_file(path)
    student.body.load_state_dict(weights | {name: weights[of] for name, of in TIED.items()})"""


def standalone_source(network: Network, config: Mapping[str, Any]) -> str:
    """Return the source of a file that rebuilds `network` in plain PyTorch, beside its weights.

    `config` is the content of the export's `config.json`.
    """
    own, inputs = parse_model(network.name), read_inputs(config)
    blocks = [] if own.digest else _blocks(network.body)
    if own.digest:
        first, needs = ["import runpy"], f"PyTorch, safetensors and what {own.file} imports"
        lines = _own_lines(own, config)
    elif isinstance(network.body, nn.Sequential):
        first, needs = ["from collections import OrderedDict"], "PyTorch and safetensors"
        lines = _sequential_lines(network)
    else:
        first, needs = [], "PyTorch, torchvision and safetensors"
        lines = _torchvision_lines(network, config)
    imports = [*first, "from pathlib import Path", "", "import torch"]
    imports += [] if first else ["import torchvision"]
    imports += ["from safetensors.torch import load_file", "from torch import Tensor, nn"]
    tied = tied_names(network.body.state_dict())
    return FILE.format(
        title=f"{network.name} for {config['classes']} classes, trained in a study with Retort.",
        needs=needs,
        name="images" if inputs.are_images else "arrays",
        shape=_shape(inputs),
        imports="\n".join(imports),
        constants=_constants(inputs),
        student=NORMALISING if inputs.are_images else PLAIN,
        tied=TIED.format(tied=tied) if tied else "",
        loading=LOADING_TIED if tied else LOADING,
        blocks="".join(f"\n{inspect.getsource(block)}\n" for block in blocks),
        body="\n".join(f"    {line}" for line in lines),
    )


def _constants(inputs: Inputs) -> str:
    if isinstance(inputs, Arrays):
        return ""
    return CONSTANTS.format(mean=list(inputs.mean), deviation=list(inputs.deviation))


def _shape(inputs: Inputs) -> str:
    """Return the shape and type of the student's input, in words."""
    shape = f"[B, {', '.join(map(str, inputs.shape))}]"
    kind = inputs.kept if isinstance(inputs, Arrays) else "float32, pixels in 0-1"
    return f"{shape} {kind}"


def _blocks(body: nn.Module) -> list[Callable[..., nn.Module]]:
    """Return the blocks of a body of the CIFAR family; empty for other families."""
    kinds = {type(module) for module in body.modules() if isinstance(module, BLOCKS)}
    return [conv3x3, *kinds] if kinds else []


def _sequential_lines(network: Network) -> list[str]:
    """Build a body layer by layer."""
    layers = [f"    {name}={_call(child)}," for name, child in network.body.named_children()]
    return ["layers = OrderedDict(", *layers, ")", "return nn.Sequential(layers)"]


def _own_lines(own: ModelName, config: Mapping[str, Any]) -> list[str]:
    """Call the function in the copy of the user's file, imported by the copy of `own_import.py`."""
    folder, name = own_folder(own.file, own.digest), own.file.removesuffix(".py")
    return [
        "here = Path(__file__).parent",
        'import_folder = runpy.run_path(str(here / "own_import.py"))["import_folder"]',
        f'made_by = import_folder(here / "{folder}", "{name}")',
        f"return made_by.{own.function}(classes={config['classes']}, "
        f"channels={config['channels']})",
    ]


def _torchvision_lines(network: Network, config: Mapping[str, Any]) -> list[str]:
    """Build torchvision's model, and replace the layers that are not torchvision's."""
    model = parse_model(network.name)
    settings: dict[str, Any] = {"weights": None, "num_classes": config["classes"]}
    if model.base == "mobilenet_v2":
        settings["width_mult"] = model.width
        if config["stem"] == "cifar":  # strides decide which of its blocks have a shortcut
            settings["inverted_residual_setting"] = MOBILENET_CIFAR_STAGES
    with torch.device("meta"):
        original = torchvision.models.get_model(model.base, **settings)
    arguments = [f"{name}={value}" for name, value in settings.items()]
    return [
        "body = torchvision.models.get_model(",
        *(f"    {argument}," for argument in (f'"{model.base}"', *arguments)),
        ")",
        *(
            f'body.set_submodule("{name}", {_call(layer)})'
            for name, layer in _replaced(original, network.body)
        ),
        "return body",
    ]


def _replaced(original: nn.Module, body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, layer) for the smallest parts that differ from the original."""
    originals = dict(original.named_children())
    for name, child in body.named_children():
        known = originals[name]
        if type(known) is not type(child) or not [*child.children()]:
            if repr(known) != repr(child):
                yield name, child
        else:
            for path, layer in _replaced(known, child):
                yield f"{name}.{path}", layer


def _call(module: nn.Module) -> str:
    """Return the Python expression that builds an untrained copy of a module."""
    if isinstance(module, BLOCKS):
        inputs, outputs = module.conv1.in_channels, module.conv2.out_channels
        return f"{type(module).__name__}({inputs}, {outputs}, {module.conv1.stride[0]})"
    if isinstance(module, nn.Sequential):
        return f"nn.Sequential({', '.join(map(_call, module))})"
    return f"nn.{module}"
