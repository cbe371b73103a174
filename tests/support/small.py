"""The smallest protocol, images, networks and teacher that a test can train with, in milliseconds.

Images are noise with random labels, so that nothing can be learned but by heart.
"""

from typing import Any

import torch
from torch import Tensor

from kd.data.examples import Examples
from kd.data.inputs import Arrays, Images, Inputs
from kd.losses.adapters import Adapters
from kd.models.build import Network, build, tap_shapes
from kd.protocol import Protocol
from kd.recipe import Recipe, Schedule
from kd.training.evaluation import predict
from kd.training.loop import Plan
from kd.training.state import TrainingState
from kd.training.teacher import LiveTeacher, fit_projections

CLASSES = 3
SIZE = 8  # pixels
TEACHER = "resnet8-w0.25"
STUDENT = "resnet8-w0.125"
TAPS = ("last1", "last2", "last3")
AUGMENT = "crop=1,flip,cutout=2"
LOGITS_KEPT = ("float32", "float16", "top2")  # values of --cache-logits
# a model of each kind of layers
ONE_OF_EACH = ("resnet8", "wrn-16-1", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "vgg11_bn")

PLAIN = Recipe(lr=0.05)
DISTILLED = Recipe(
    lr=0.05,
    soft_kind="kl",
    temperature=Schedule(shape="linear", initial=5.0, final=1.0),
    alpha=Schedule(shape="linear", initial=0.9, final=0.3),
)


def protocol(**changes: Any) -> Protocol:
    """A protocol on scikit-learn's digits, which need no download."""
    fields: dict[str, Any] = {
        "dataset": "digits",
        "image_size": SIZE,
        "train_size": 60,
        "augment": AUGMENT,
        "teachers": (TEACHER,),
        "teacher_epochs": 2,
        "students": (STUDENT,),
        "epochs": 2,
        "batch_size": 16,
    }
    return Protocol(**{**fields, **changes})


def square(
    channels: int = 1, size: int = SIZE, mean: float = 0.5, deviation: float = 0.29
) -> Images:
    """The description of square images whose channels all have this mean and deviation."""
    return Images(
        shape=(channels, size, size), mean=(mean,) * channels, deviation=(deviation,) * channels
    )


def floats(channels: int = 1, size: int = SIZE) -> Arrays:
    """The description of images that reach a model's layers as they are."""
    return Arrays(shape=(channels, size, size), kept="float32")


def noise(count: int, channels: int, size: int = SIZE, *, seed: int = 0, least: int = 0) -> Tensor:
    """Images uint8 [N, C, H, W] whose pixels lie in `least`-255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(least, 256, (count, channels, size, size), generator=generator).byte()


def made_up(inputs: Inputs, count: int, *, words: int = 20) -> Tensor:
    """A stored batch: pixels, numbers in 0-1, or whole numbers below `words`."""
    generator, shape = torch.Generator().manual_seed(0), (count, *inputs.shape)
    if inputs.dtype == torch.float32:
        return torch.rand(shape, generator=generator) * (255 if inputs.are_images else 1)
    most = 256 if inputs.are_images else words
    return torch.randint(most, shape, generator=generator).to(inputs.dtype)


def labelled(count: int = 24, *, channels: int = 1, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, SIZE, SIZE)
    return Examples(
        values=torch.randint(0, 256, shape, generator=generator).to(torch.uint8),
        labels=torch.randint(0, CLASSES, (count,), generator=generator),
        inputs=square(channels),
    )


def network(
    name: str = STUDENT, *, channels: int = 1, seed: int = 0, inputs: Inputs | None = None
) -> Network:
    inputs = inputs or square(channels)
    return build(name, classes=CLASSES, inputs=inputs, stem="cifar", seed=seed)


def teacher(data: Examples, validation: Examples) -> LiveTeacher:
    """An untrained teacher that tells images apart: fitted statistics, and a large last layer."""
    model = network(TEACHER, seed=11)
    with torch.no_grad():
        for _ in range(30):
            model(data.values)
        model.body.fc.weight.mul_(5)
        model.body.fc.bias.zero_()
    projections = fit_projections(model, data, TAPS)
    return LiveTeacher(model, projections, predict(model, validation))


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "warmup": 0.0,
        "augment": AUGMENT,
        "view_seed": 3,
        "views": (0, 1),
        "seed": 4,
    }
    return Plan(**{**fields, **changes})


def begin(
    recipe: Recipe,
    source: LiveTeacher | None,
    *,
    name: str = STUDENT,
    optimizer: str = "sgd",
    ema: float = 0.0,
) -> TrainingState:
    """The state before the first epoch: the same for every recipe, but for its adapters."""
    student = network(name)
    taps, shapes = recipe.feature_taps, tap_shapes(student)
    adapters = Adapters.of(
        recipe.feature_kind,
        {tap: shapes[tap][0] for tap in taps},
        {tap: source.projections[tap].vectors.shape[1] for tap in taps if source},
        seed=0,
    )
    return TrainingState.start(student, adapters, recipe, optimizer, ema)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
