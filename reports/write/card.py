"""The model card of an exported student: what it is, what it scored, how to use it, its limits."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.dataset_names import part_taken
from kd.model_rules import is_teacher
from kd.names import OPTIMIZERS, mixes, parse_model, parse_weights
from reports.draw.drawing import Table
from reports.draw.tables import provenance_table, recipe_rows
from reports.findings import Findings
from reports.read.data import ConfirmationRun, FinalistData
from reports.wording import (
    NONE,
    binary_size,
    counted,
    decimals,
    duration,
    figure,
    listed,
    milliseconds,
    model_name,
    percent,
    scaled,
    whole,
)
from reports.write.markdown import escaped, markdown_table

PLAIN_TORCH = """\
Without Retort, in this folder, with PyTorch{library} and safetensors:

```python
from student import load

student = load()
logits = student({name})
```

{also}On {examples}, its logits on a CPU \
equal those of the confirmed student bit for bit."""

WITH_RETORT = """\
With Retort{where}:

```python
import json
from pathlib import Path
from kd.data.inputs import read_inputs
from kd.models.build import build

config = json.loads(Path("config.json").read_text())
settings = {{name: config[name] for name in ("classes", "stem")}}
network = build(
    config["model"],
    **settings,
    inputs=read_inputs(config),
    weights="student.safetensors",
    seed=0,
).eval()
logits = network({fed})
```"""

WITH_ONNX = """\
With the ONNX runtime. The graph {includes}accepts batches of any size:

```python
import onnxruntime

session = onnxruntime.InferenceSession("student.onnx")
[logits] = session.run(["logits"], {{"{name}": {name}}})  # numpy arrays
```

Its logits were compared with PyTorch's on validation examples: {differences}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported confirmation run of a finalist, and the results of its checks.

    `config` is the content of `config.json`; `own` are the user's files, by path; on `images`
    images the logits were equal bit for bit; `onnx_differences` are the largest differences of
    logits by batch size, empty without ONNX.
    """

    finalist: FinalistData
    run: ConfirmationRun
    config: Mapping[str, Any]
    own: Sequence[str]
    images: int
    onnx_differences: Mapping[str, float]


def model_card(findings: Findings, exported: Exported) -> str:
    """Return the card as Markdown; text from outside is escaped."""
    parts = [
        _introduction(findings, exported),
        "## Result",
        f"> {escaped(findings.verdict.text)}",
        markdown_table(_results(findings, exported)),
        _choice(findings, exported),
        "## Use",
        *_use(exported, findings.data.example),
        "## Training",
        _training(findings, exported),
        markdown_table(_table("recipe", recipe_rows(exported.finalist.recipe))),
        "## Cost",
        _cost(findings, exported),
        "## Limits",
        _limits(findings, exported),
        "## Provenance",
        markdown_table(_provenance(findings, exported)),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(findings: Findings, exported: Exported) -> str:
    protocol, config = findings.data.protocol, exported.config
    distilled = f"by distillation from {_taught_by(findings, exported)}"
    how = distilled if exported.finalist.distils else "without distillation"
    return (
        f"# {escaped(config['model'])} on {escaped(model_name(protocol.dataset))}\n\n"
        f"A classifier: {escaped(config['model'])} for {config['classes']} classes, for "
        f"{_inputs(config)}, trained "
        f"{escaped(how)}. It is the finalist `{exported.finalist.key}` "
        f"({escaped(exported.finalist.label)}) of the study `{findings.data.name}`."
    )


def _taught_by(findings: Findings, exported: Exported) -> str:
    """Name the teachers that have a share in the recipe."""
    shares = findings.data.shares(exported.finalist.recipe)
    pairs = zip(findings.data.teachers, shares, strict=True)
    return listed([model_name(teacher.model) for teacher, share in pairs if share])


def _are_images(config: Mapping[str, Any]) -> bool:
    return bool(config["inputs"]["type"] == "Images")


def _inputs(config: Mapping[str, Any]) -> str:
    """Say what the student classifies."""
    shape = config["inputs"]["shape"]
    if not _are_images(config):
        return f"arrays of {'x'.join(map(str, shape))} {config['inputs']['kept']}"
    pixels = "x".join(map(str, shape[1:]))
    return f"images of {pixels} pixels with {counted(shape[0], 'channel')}"


def _table(title: str, rows: list[list[str]]) -> Table:
    return Table(columns=[title, ""], rows=rows, words=2)


def _results(findings: Findings, exported: Exported) -> Table:
    data, standing = findings.data, findings.standing(exported.finalist)
    test = exported.run.record.test or {}
    measure, values = data.measure, exported.finalist.values
    mean = deviation = interval = None
    if standing:
        mean, deviation, interval = standing.value, standing.deviation, standing.interval
    between = f", 95 % interval {measure.interval(*interval, sign=False)}" if interval else ""
    accuracy = ["these weights, test accuracy", percent(test.get("accuracy"))]
    others = [] if data.protocol.metric == "accuracy" else [accuracy]
    rows = [
        [
            f"this recipe, test {measure.name}, {counted(len(values), 'seed')}",
            measure.with_symbol(measure.spread(mean, deviation)) + between,
        ],
        [f"these weights, test {measure.name}", measure.value(exported.run.value)],
        *others,
        ["these weights, test NLL (nats)", decimals(test.get("nll"))],
        ["these weights, test calibration error", percent(test.get("ece"))],
        ["these weights, agreement with the teacher", percent(exported.run.agreement)],
        [
            f"these weights, validation {measure.name}",
            measure.value(exported.run.record.objective(measure.worst)),
        ],
        [
            f"the teacher ({model_name(data.teacher.model)}), test {measure.name}",
            measure.value(data.teacher.value),
        ],
    ]
    return _table(f"{whole(data.test_images)} test {data.example}s", rows)


def _choice(findings: Findings, exported: Exported) -> str:
    data, metric = findings.data, findings.data.measure.name
    middle = "" if len(exported.finalist.tested) % 2 else ", the worse of the two in the middle"
    return (
        f"The interval is over seeds and test {data.example}s. These weights are of seed "
        f"{exported.run.replicate + 1} of {data.seeds}: the one whose *validation* {metric} is the "
        f"median{middle}. Choosing the best seed on the test {data.example}s would be a selection "
        "on the test split, and its result there would be too good. "
        f"The recipe's {metric} is the mean over seeds."
    )


def _use(exported: Exported, example: str) -> list[str]:
    config = exported.config
    shape = f"[B, {', '.join(map(str, config['inputs']['shape']))}]"
    model = parse_model(config["model"])
    library = ", torchvision" if model.facts.family == "torchvision" else ""
    library += "".join(f", {package}" for package in config.get("needs", ()))
    if model.digest:
        library = f", what {', '.join(f'`{file}`' for file in exported.own)} imports"
    pictures, kept = _are_images(config), config["inputs"].get("kept")
    name, are_bytes = "images" if pictures else "arrays", pictures and kept == "uint8"
    fed = f"Arrays are {kept} {shape}, as in the data set. "
    if pictures:
        form = "1: bytes divided by 255" if are_bytes else "255: those of 16 bits divided by 257"
        fed = f"Images are float32 {shape} with pixels in 0-{form}. "
    parts = [
        f"{fed}Logits are float32 [B, {config['classes']}]; class k is `class_names[k]` of "
        "`config.json`, which contains everything needed to build the model.",
        PLAIN_TORCH.format(
            library=library,
            name=name,
            also="`student.py` also normalises the images. " * pictures,
            examples=counted(exported.images, f"validation {example}"),
        ),
        WITH_RETORT.format(
            where=", whose images are bytes" * are_bytes,
            fed="255 * images" if are_bytes else name,
        ),
    ]
    if exported.onnx_differences:
        differences = ", ".join(
            f"at most {figure(difference, 2)} in a batch of {batch}"
            for batch, difference in exported.onnx_differences.items()
        )
        includes = "includes the normalisation and " * pictures
        parts.append(WITH_ONNX.format(includes=includes, name=name, differences=differences))
    return parts


def _training(findings: Findings, exported: Exported) -> str:
    protocol, record = findings.data.protocol, exported.run.record
    images, example = findings.data.images.get("train"), findings.data.example
    count = f"{counted(images, example)} of " if images else ""
    crops = " and received the same crops as the student" * (example == "image")
    several = sum(share > 0 for share in findings.data.shares(exported.finalist.recipe)) > 1
    what = ("Its teachers,", "were") if several else ("Its teacher,", "was")
    teacher = (
        f" {what[0]} {_taught_by(findings, exported)}, {what[1]} trained on the same "
        f"{example}s{crops}."
    ) * exported.finalist.distils
    mixed = ", whose labels are mixed by the same shares" * mixes(protocol.augment)
    clipped = f", gradients of at most the norm {protocol.clip:g}" if protocol.clip else ""
    weights = "those after the last epoch"
    if protocol.ema:
        weights = f"an exponential moving average over the steps, with a decay of {protocol.ema:g}"
    return escaped(
        f"{_start(protocol.student_weights)} on {count}the training split of "
        f"{model_name(protocol.dataset)}, "
        f"for {counted(record.horizon, 'epoch')} in batches of {protocol.batch_size}: "
        f"{OPTIMIZERS.describe(protocol.optimizer)}{clipped}, a learning rate that rises over "
        f"the first {percent(protocol.warmup, 0)} and falls to 0 along a cosine; "
        f"augmentation: {protocol.augment}{mixed}.{teacher} The weights are {weights}."
    )


def _start(weights: str) -> str:
    """Say which weights the student's training began with."""
    if weights == "none":
        return "From random weights"
    file = parse_weights(weights)
    return f"From the weights of {Path(file.path).name}" if file else "From the library's weights"


def _cost(findings: Findings, exported: Exported) -> str:
    costs, model = findings.data.costs, exported.config["model"]
    measured = costs.models if costs else {}
    students = (cost for name, cost in measured.items() if not is_teacher(name))
    cost = next((cost for cost in students if cost.model == model), None)
    if cost is None or costs is None:
        return "The study did not measure the cost of this model."
    rows = [
        ["parameters", whole(cost.parameters)],
        [f"multiply-accumulates per {findings.data.example}", scaled(cost.macs)],
        ["file", binary_size(cost.bytes)],
    ]
    rows += [
        [
            f"latency of a batch of {one.batch_size}, ms",
            f"{milliseconds(one.median_ms)}, 95th percentile {milliseconds(one.p95_ms)}",
        ]
        for one in cost.latency
    ]
    where = f"On {costs.device}, with {counted(costs.threads, 'thread')}, in PyTorch."
    return f"{markdown_table(_table('cost', rows))}\n\n{escaped(where)}"


def _limits(findings: Findings, exported: Exported) -> str:
    protocol = findings.data.protocol
    what = part_taken(protocol.dataset, protocol.fit)
    size = (
        f"It expects {what} resized to {protocol.image_size} pixels as in training: bilinear and "
        "antialiased, as in Pillow."
    )
    pictures, needs = _are_images(exported.config), exported.config.get("needs", ())
    limits = [
        f"It was tested on examples of {model_name(protocol.dataset)} alone. With other "
        f"{'light, ' * pictures}sensors or classes, its accuracy is unknown. It always predicts "
        "one of its classes.",
        *([size] if pictures else []),
        *(
            f"Its layers are code of {package}: another version may build another model, and the "
            "licence of that package applies to them."
            for package in needs
        ),
        *findings.caveats,
    ]
    return "\n".join(f"- {escaped(limit)}" for limit in limits)


def _provenance(findings: Findings, exported: Exported) -> Table:
    finalist, record = exported.finalist.finalist, exported.run.record
    rows = [
        ["finalist", f"{finalist.name}, trial {finalist.trial} of {finalist.arm}"],
        ["seed of these weights", f"{record.seed} (replicate {exported.run.replicate})"],
        ["time of its training", duration(record.seconds)],
        *provenance_table(findings.data).rows,
        ["command", shlex.join(findings.data.settings.command) or NONE],
    ]
    return _table("what", [list(row) for row in rows])
