"""Write `student.py`, the exported file that loads a student in plain PyTorch.

A network is written as the calls that build it, because the text of a PyTorch layer is the call
that makes it. In the catalogue, the blocks of the CIFAR family are included as source, of
torchvision's models only the changes are written, and other families are traced: their layers, and
the forward pass through them. A library's model is built by the library, and the user's own by the
copy of the user's file that the export contains. The export job runs the file and compares its
network with the student.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from textwrap import indent
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import fx, nn

from kd.data.inputs import Arrays, Inputs, read_inputs
from kd.errors import ArtifactError, one_line
from kd.models import libraries
from kd.models.build import Network
from kd.models.families.cifar import BasicBlock, PreActivationBlock, conv3x3
from kd.models.families.torchvision import MOBILENET_CIFAR_STAGES
from kd.models.network import logits_of, meta_twin, tied_names
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
    """From images with pixels in 0-{most} to logits: normalises as in training, to the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        scale = 1 / (255 * self.deviation)
        shift = self.mean / self.deviation
        return self.body({images} * scale[:, None, None] - shift[:, None, None]){logits}
'''
# For a student whose inputs are arrays.
PLAIN = '''\
class Student(nn.Module):
    """From arrays, as the data set has them, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, arrays: Tensor) -> Tensor:
        return self.body(arrays.clone()){logits}  # layers may write into their input
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
# For layers that read the version of a state dict, which the file lacks.
LOADING_VERSIONED = """\
    state = student.body.state_dict()
    state.update(load_file(path))
    student.body.load_state_dict(state)"""

# For a family of the catalogue that is neither CIFAR's nor torchvision's.
TRACED = '''
class Body(nn.Module):
    """The layers, and the forward pass through them as torch.fx traced it."""

    def __init__(self) -> None:
        super().__init__()
{layers}

{forward}

'''


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The parts of the file that depend on where a model comes from.

    `lines` are those of the function `body`, `blocks` the source of classes that it uses,
    `standard` an import of the standard library, `library` a package to import.
    """

    lines: list[str]
    needs: str = "PyTorch and safetensors"
    standard: str = ""
    library: str = ""
    blocks: str = ""


def standalone_source(network: Network, config: Mapping[str, Any]) -> str:
    """Return the source of a file that rebuilds `network` in plain PyTorch, beside its weights.

    `config` is the content of the export's `config.json`.
    """
    inputs, parts = read_inputs(config), _parts(network, config)
    packages = ["import torch", *([f"import {parts.library}"] if parts.library else [])]
    imports = [*([parts.standard] if parts.standard else []), "from pathlib import Path", ""]
    imports += [*sorted(packages), "from safetensors.torch import load_file"]
    imports += ["from torch import Tensor, nn"]
    student = NORMALISING if inputs.are_images else PLAIN
    most, images = (1, "255 * images") if inputs.kept == "uint8" else (255, "images")
    tied = tied_names(network.body.state_dict())
    return FILE.format(
        title=f"{network.name} for {config['classes']} classes, trained in a study with Retort.",
        needs=parts.needs,
        name="images" if inputs.are_images else "arrays",
        shape=_shape(inputs),
        imports="\n".join(imports),
        constants=_constants(inputs),
        student=student.format(logits=_selection(network), most=most, images=images),
        tied=TIED.format(tied=tied) if tied else "",
        loading=LOADING_TIED if tied else _loading(network.body),
        blocks=parts.blocks,
        body="\n".join(f"    {line}" for line in parts.lines),
    )


def _loading(body: nn.Module) -> str:
    """Return the lines that load the file: other ones for layers such as MNASNet's."""
    kinds = {type(module) for module in body.modules()}
    own = [kind for kind in kinds if not kind.__module__.startswith("torch.nn.")]
    plain = all(k._load_from_state_dict is nn.Module._load_from_state_dict for k in own)
    return LOADING if plain else LOADING_VERSIONED


def needed(name: str) -> list[str]:
    """Return the library that builds a model, with its version: another may build another model."""
    library = parse_model(name).library
    return [f"{library} {version(library)}"] if library else []


def _parts(network: Network, config: Mapping[str, Any]) -> _Parts:
    model = parse_model(network.name)
    if model.digest:
        needs = f"PyTorch, safetensors and what {model.file} imports"
        return _Parts(lines=_own_lines(model, config), needs=needs, standard="import runpy")
    if model.library:
        needs = f"PyTorch, {', '.join(needed(network.name))} and safetensors"
        shape = (config["classes"], config["channels"], config["inputs"]["shape"][-1])
        lines = libraries.load(model.library).call(model.base, *shape)
        return _Parts(lines=lines, needs=needs, library=model.library)
    if model.facts.family == "torchvision":
        needs, lines = "PyTorch, torchvision and safetensors", _torchvision_lines(network, config)
        return _Parts(lines=lines, needs=needs, library="torchvision")
    if model.facts.family == "cifar":
        standard, lines = "from collections import OrderedDict", _sequential_lines(network)
        return _Parts(lines=lines, standard=standard, blocks=_blocks(network.body))
    return _traced(network)


@torch.no_grad()
def _selection(network: Network) -> str:
    """Return the text behind a call of the body that takes its logits, as `logits_of` does."""
    twin, inputs = meta_twin(network).eval(), network.inputs
    stored = torch.zeros(1, *inputs.shape, dtype=inputs.dtype, device="meta")
    output = twin.body(inputs.normalise(stored))
    logits = logits_of(output)
    float32 = "" if logits.dtype == torch.float32 else ".float()"
    if isinstance(output, Mapping):
        return f'["logits"]{float32}'
    named = hasattr(output, "logits")
    listed = "[0]" if isinstance(output, tuple | list) else ""
    return f"{'.logits' if named else listed}{float32}"


def _constants(inputs: Inputs) -> str:
    if isinstance(inputs, Arrays):
        return ""
    return CONSTANTS.format(mean=list(inputs.mean), deviation=list(inputs.deviation))


def _shape(inputs: Inputs) -> str:
    """Return the shape and type of the student's input, in words."""
    return f"[B, {', '.join(map(str, inputs.shape))}] {inputs.exported_kind}"


def _blocks(body: nn.Module) -> str:
    """Return the source of the blocks of a body of the CIFAR family."""
    kinds = {type(module) for module in body.modules() if isinstance(module, BLOCKS)}
    return "".join(f"\n{inspect.getsource(source)}\n" for source in (conv3x3, *kinds))


def _sequential_lines(network: Network) -> list[str]:
    """Build a body layer by layer."""
    layers = [f"    {name}={_call(child)}," for name, child in network.body.named_children()]
    return ["layers = OrderedDict(", *layers, ")", "return nn.Sequential(layers)"]


def _own_lines(own: ModelName, config: Mapping[str, Any]) -> list[str]:
    """Call the function in the copy of the user's file, imported by the copy of `own_import.py`."""
    folder, name = own_folder(own.file, own.digest), own.file.removesuffix(".py")
    settings = config.get("arguments") or {key: config[key] for key in ("classes", "channels")}
    arguments = ", ".join(f"{key}={value}" for key, value in settings.items())
    return [
        "here = Path(__file__).parent",
        'import_folder = runpy.run_path(str(here / "own_import.py"))["import_folder"]',
        f'made_by = import_folder(here / "{folder}", "{name}")',
        f"return made_by.{own.function}({arguments})",
    ]


def _traced(network: Network) -> _Parts:
    """Write the forward pass of any body that torch.fx can trace, and its layers.

    Raises ArtifactError if it cannot.
    """
    tracer = fx.Tracer()
    try:
        code = tracer.trace(network.body).python_code("self")
    except Exception as error:  # as many kinds as models have ways to depend on values
        raise ArtifactError(
            f"{network.name} cannot be written in plain PyTorch: torch.fx cannot trace it "
            f"({one_line(error)})"
        ) from error
    forward = re.sub(r";  [\w= ]+ = None$", "", code.src.strip(), flags=re.MULTILINE)
    added = {name: _traced_call(child, tracer) for name, child in network.body.named_children()}
    layers = "\n".join(f'self.add_module("{name}", {call})' for name, call in added.items())
    modules = [value for value in code.globals.values() if isinstance(value, ModuleType)]
    used = [module.__name__ for module in modules if f"{module.__name__}." in forward]
    standard = "\n".join(f"import {name}" for name in used if name != "torch")
    text = TRACED.format(layers=indent(layers, 8 * " "), forward=indent(forward, 4 * " "))
    return _Parts(lines=["return Body()"], blocks=text, standard=standard)


def _traced_call(module: nn.Module, tracer: fx.Tracer) -> str:
    """Return the expression that builds a layer, or a container of what is inside of a module."""
    if tracer.is_leaf_module(module, ""):
        return _call(module)
    inside = (f'"{n}": {_traced_call(child, tracer)}' for n, child in module.named_children())
    return f"nn.ModuleDict({{{', '.join(inside)}}})"


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
