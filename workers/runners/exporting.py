"""The job that exports a student, and compares the exported files with it.

The comparisons run on the CPU and on validation images: the test split stays sealed.
"""

import copy
import importlib
import math
import runpy
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd import own_import
from kd.data.examples import Examples
from kd.data.inputs import Inputs, read_inputs
from kd.errors import ArtifactError
from kd.json_data import to_wire
from kd.models.build import Network, build, export_state
from kd.models.network import load_state
from kd.models.numerics import place
from kd.models.own import OUT_OF_MEMORY, own_settings
from kd.names import parse_model
from kd.own_files import load_kept, read_kept
from kd.training.evaluation import accuracy, batch_size, predict
from storage.files.artifacts import read_json, write_files, write_json
from storage.files.datasets import open_part
from storage.files.layout import ExportLayout
from storage.files.tensors import read_checked, write_tensors
from workers.events import Event, Result, ShouldStop
from workers.jobs import ExportJob, JobContext
from workers.runners.loading import dataset_info, placed, untrained_student
from workers.runners.standalone import needed, standalone_source

COMPARED = 64  # validation images on which files and student must agree
ONNX_BATCHES = (1, 7, 64)
ONNX_TOLERANCE = 1e-4  # of the largest logit: another runtime sums in another order
ROUNDING = 1e-3  # of the largest logit: batches of another size may be summed in another order
FLIPS = 0.005  # share of validation images that another device may classify differently


def run_export(job: ExportJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Write `student.safetensors`, `student.py`, `config.json` and, on request, `student.onnx`.

    Raises ArtifactError if the student's file is damaged, or if the export differs from it.
    """
    network = _load_student(job)
    validation = open_part(job.layout.dataset(job.dataset), "validation")
    _check_accuracy(job, network, validation, device)
    folder = Path(job.folder)
    some = replace(validation.first(COMPARED), inputs=network.inputs)
    config = describe(job, network)
    standalone = write_student(folder, network, config, job.layout.own, some)
    differences = export_onnx(folder, network.name, standalone, some) if job.onnx else {}
    yield Result.of(images=len(some), onnx_differences=differences)


def write_student(
    folder: Path, network: Network, config: dict[str, Any], files: Path, some: Examples
) -> nn.Module:
    """Write a student (on the CPU, in eval mode), and return it loaded in plain PyTorch.

    `config` comes from `describe`, `files` is the folder of models of the user's own. Raises
    ArtifactError if the logits of the loaded student differ on the images `some`.
    """
    export = ExportLayout(folder)
    write_tensors(export.weights, export_state(network))
    write_json(export.config, config)
    # safetensors makes the file readable for its owner only; an export is for others too
    shutil.copymode(export.config, export.weights)
    model = parse_model(network.name)
    if model.digest:
        own = read_kept(files, model.file, model.digest)
        write_files(folder / own.folder, own.files)
        shutil.copyfile(own_import.__file__, folder / Path(own_import.__file__).name)
    source = standalone_source(network, config)
    export.source.write_text(source, encoding="utf-8")
    return _check_files(folder, network, replace(some, inputs=network.inputs))


def _load_student(job: ExportJob) -> Network:
    """Load a confirmed student, in eval mode, on the CPU."""
    network = untrained_student(job, 0, job.student)
    tensors, _ = read_checked(Path(job.weights))
    load_state(network, tensors, job.weights, network.name)
    return network.eval().requires_grad_(False)


def _check_accuracy(
    job: ExportJob, network: Network, validation: Examples, device: torch.device
) -> None:
    """Raise ArtifactError unless the student's accuracy is that of its run's record."""
    student = place(copy.deepcopy(network), device)  # another memory layout rounds differently
    logits = predict(student, placed(validation, device))
    score = accuracy(logits, validation.labels)
    allowed = max(1, math.floor(FLIPS * len(validation)))
    if abs(score - job.accuracy) * len(validation) > allowed + 0.5:
        raise ArtifactError(
            f"{job.weights} has a validation accuracy of {score:.4f}, but the record of its run "
            f"has {job.accuracy:.4f}: one of the two belongs to another run"
        )


def describe(job: JobContext, network: Network) -> dict[str, Any]:
    """Return the content of `config.json`: what is needed to build a student and feed it."""
    class_names, protocol = dataset_info(job)["classes"], job.protocol
    return description(network.name, class_names, network.inputs, protocol.stem, job.layout.own)


def description(
    name: str, class_names: Sequence[str], inputs: Inputs, stem: str, files: Path
) -> dict[str, Any]:
    """Return what `describe` does; `files` is the folder of models of the user's own.

    Of those, it has the `arguments` of the function, and of a library's the version in `needs`.
    """
    model, config = parse_model(name), dict[str, Any]()
    if model.digest:
        function = getattr(load_kept(files, model.file, model.digest), model.function)
        config["arguments"] = own_settings(function, len(class_names), inputs)
    return config | {
        "model": name,
        "stem": stem,
        "classes": len(class_names),
        "class_names": class_names,
        "channels": inputs.channels,
        "inputs": to_wire(inputs),
        "needs": needed(name),
    }


def _check_files(folder: Path, network: Network, some: Examples) -> nn.Module:
    """Load the files in both ways that the card describes; return the plain PyTorch student.

    Raises ArtifactError unless both give the student's logits bit for bit in the batches of
    `predict`, and within rounding in batches of other sizes, where kernels sum in another order.
    """
    export = ExportLayout(folder)
    config = read_json(export.config)
    wanted = predict(network, some)
    rebuilt = build(
        config["model"],
        classes=config["classes"],
        inputs=read_inputs(config),
        stem=config["stem"],
        weights=str(export.weights),
        seed=0,
        files=folder,
    )
    standalone: nn.Module = runpy.run_path(str(export.source))["load"]()
    pixels = some.inputs.exported(some.values)
    chunks = pixels.split(batch_size(some.inputs, pixels.device))
    loaded = {
        export.weights.name: predict(rebuilt, some),
        export.source.name: torch.cat([_logits(standalone, chunk) for chunk in chunks]),
    }
    for name, logits in loaded.items():
        if not torch.equal(logits, wanted):
            raise ArtifactError(f"{name} gives other logits than the student; nothing was exported")
    check_batching(standalone, pixels, wanted)
    return standalone


def check_batching(student: nn.Module, pixels: Tensor, wanted: Tensor) -> None:
    """Raise ArtifactError if logits depend on the batch size by more than rounding.

    `wanted` are the logits of `pixels` in the batches of the study; both are on the CPU.
    """
    allowed = ROUNDING * max(1.0, float(wanted.abs().max()))
    for size in (1, len(pixels)):
        logits = torch.cat([_logits(student, chunk) for chunk in pixels.split(size)])
        difference = float((logits - wanted).abs().max())
        if not difference <= allowed:
            raise ArtifactError(
                f"the logits in batches of {size} differ by {difference:.2g} from those of other "
                f"batches, more than the {allowed:.2g} of rounding: the logits of "
                "an image depend on the other images"
            )


@torch.inference_mode()
def _logits(student: nn.Module, pixels: Tensor) -> Tensor:
    """Return logits of images [B, C, H, W] float32 in 0-1."""
    logits: Tensor = student(pixels)
    return logits


def export_onnx(folder: Path, model: str, student: nn.Module, some: Examples) -> dict[str, float]:
    """Write the student as ONNX, normalisation included, for batches of any size.

    Returns the largest difference of logits by batch size, in the ONNX runtime. Raises
    ArtifactError, which names `model`, for a student that torch cannot write as ONNX, or that the
    runtime cannot run, and when a difference is larger than rounding explains.
    """
    values = some.inputs.exported(some.values)
    path, differences = ExportLayout(folder).onnx, {}
    name = "images" if some.inputs.are_images else "arrays"
    try:
        _write_onnx(path, student, name, values)
        run = _onnx_runner(path)
        found = {size: run(values[:size]) for size in ONNX_BATCHES}
    except OUT_OF_MEMORY:
        raise
    except Exception as error:  # of torch, of onnxscript, of the runtime, or of the model
        raise ArtifactError(
            f"{model} cannot be exported as ONNX with torch {torch.__version__} "
            f"({_first_cause(error)}); without --format onnx it is exported as safetensors"
        ) from error
    for size, logits in found.items():
        wanted = _logits(student, values[:size])
        differences[str(size)] = float((logits - wanted).abs().max())
        allowed = ONNX_TOLERANCE * max(1.0, float(wanted.abs().max()))
        if not differences[str(size)] <= allowed:
            raise ArtifactError(
                f"student.onnx differs from the student by {differences[str(size)]:.2g} on a batch "
                f"of {size}, more than the {allowed:.2g} of rounding; nothing was exported"
            )
    return differences


def _first_cause(error: BaseException) -> str:
    """Return the first line of the exception that led to `error`: torch's own lines are many."""
    while error.__cause__ is not None:
        error = error.__cause__
    text, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text}".removesuffix(": ")


@torch.no_grad()
def _write_onnx(path: Path, student: nn.Module, name: str, values: Tensor) -> None:
    """Write the graph of a student, whose input is called `name`; `values` are examples of it."""
    torch.onnx.export(
        student,
        (values[:2],),
        path,
        input_names=[name],
        output_names=["logits"],
        dynamic_shapes={name: {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function from images to logits that uses the ONNX runtime on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [name] = [node.name for node in session.get_inputs()]

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {name: pixels.numpy()})[0])

    return run
