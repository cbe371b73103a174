"""What a step's input costs: rows of the view, gather, augmentations, normalise.

Against the step that it feeds, and against the usual way: a DataLoader over PIL images with
torchvision's transforms. One thread, as workers have it; the loader's processes come on top.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.utils.data import DataLoader

from kd.data.examples import Examples
from kd.losses.adapters import Adapters
from kd.losses.hard import hard
from kd.models.build import build
from kd.models.numerics import place
from kd.recipe import Recipe
from kd.training.state import TrainingState
from tests.benchmarks.harness import Figure, ratio
from tests.benchmarks.pictures import Pictures
from tests.benchmarks.training import CLASSES, CPU, random_images
from tests.support.small import floats

BATCH = 128
CHANNELS = 3
AUGMENT = "crop=4,flip"
OTHERS = (  # what stronger recipes use, and all that mixes
    "resized-crop,flip",
    "crop=4,flip,trivial,cutout=8",
    "crop=4,flip,jitter,erase",
    "crop=4,flip,mixup,cutmix",
    "resized-crop,flip,trivial,erase,mixup,cutmix",
)
EPOCH = 352  # batches; the images of CIFAR-10's training split, which no cache of a core holds
STEPS = 4  # training steps that are timed together


def figures(quick: bool) -> Iterator[Figure]:
    """Compare the input of an epoch with training steps, then with DataLoaders."""
    torch.set_num_threads(1)
    for size in (32, 16):
        data = random_images(BATCH * (2 if quick else EPOCH), CHANNELS, size)
        yield ratio(
            f"a step's input / the step, resnet8, {size}x{size}",
            partial(prepare, data),
            trainer("resnet8", data),
            scale=STEPS * BATCH / len(data),
            rounds=1 if quick else 9,
            goal=0.05,
            note=f"{STEPS} steps of {BATCH} images, 1 thread",
        )
    data = random_images(BATCH * (2 if quick else 80), CHANNELS, 32)
    for augment in OTHERS:
        yield ratio(
            f"a step's input with {augment} / the step, resnet8, 32x32",
            partial(prepare, data, augment),
            trainer("resnet8", data),
            scale=STEPS * BATCH / len(data),
            rounds=1 if quick else 9,
            goal=0.15,
            note=f"{STEPS} steps of {BATCH} images, 1 thread",
        )
    for processes in (0, 2):
        yield ratio(
            f"input by a DataLoader, {processes} processes / by Retort, 32x32",
            loader(data, processes),
            partial(prepare, data),
            rounds=1 if quick else 5,
            goal=10.0,
            at_least=True,
            note=f"{len(data):,} images in batches of {BATCH}, 1 thread",
        )


def prepare(data: Examples, augment: str = AUGMENT) -> None:
    """Make the input of an epoch, batch after batch, as `kd.training.loop` and a network do."""
    rows = data.view(0, 0, augment)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for images, _ in data.batches(order.split(BATCH), rows):
        data.inputs.normalise(images)


def trainer(name: str, data: Examples) -> Callable[[], None]:
    """Return an action that trains a network by STEPS steps on one batch, which is ready."""
    images = data.inputs.normalise(data.values[:BATCH])
    labels, inputs = data.labels[:BATCH], floats(CHANNELS, images.shape[-1])
    network = place(build(name, classes=CLASSES, inputs=inputs, stem="cifar", seed=0), CPU)
    optimizer = TrainingState.start(network, Adapters({}, {}, seed=0), Recipe(lr=1e-3)).optimizer

    def act() -> None:
        network.train()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            hard(network(images), labels, 0.0).backward()
            optimizer.step()

    return act


def loader(data: Examples, processes: int) -> Callable[[], None]:
    """Return an action that takes an epoch from a DataLoader, whose processes stay from then on."""
    batches = DataLoader(
        Pictures(data, AUGMENT),
        batch_size=BATCH,
        shuffle=True,
        num_workers=processes,
        persistent_workers=processes > 0,
    )

    def act() -> None:
        for _ in batches:
            pass

    return act
