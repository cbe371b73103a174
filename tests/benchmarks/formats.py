"""Layouts in memory, kernels of gradients, and batches of evaluation, by model.

They decided `channels_last` and `narrow` of the families' models (`kd.names.ModelFacts`), and
`kd.training.evaluation.BATCH_PIXELS`.
"""

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from kd.models.build import Network, build
from kd.models.numerics import place, training_backward
from kd.training.evaluation import batch_size
from tests.benchmarks.harness import Figure, ratio
from tests.support.small import floats, square

# model, stem, side of an image, channels, images of a step
CASES = (
    ("resnet8-w0.125", "cifar", 16, 1, 64),
    ("resnet8-w0.5", "cifar", 16, 1, 64),
    ("resnet20-w0.25", "cifar", 16, 1, 64),
    ("resnet20", "cifar", 16, 1, 64),
    ("resnet20", "cifar", 32, 3, 64),
    ("resnet8x4", "cifar", 32, 3, 32),
    ("resnet32x4", "cifar", 32, 3, 16),
    ("wrn-16-2", "cifar", 32, 3, 32),
    ("resnet18", "cifar", 32, 3, 16),
    ("resnet18", "imagenet", 32, 3, 64),
    ("resnet50", "cifar", 32, 3, 8),
    ("resnet50", "imagenet", 32, 3, 32),
    ("wrn-16-1-w0.5", "cifar", 32, 3, 32),
    ("mobilenet_v2", "cifar", 32, 3, 32),
    ("mobilenet_v2-w0.5", "cifar", 32, 3, 32),
    ("shufflenet_v2_x0_5", "cifar", 32, 3, 32),
    ("shufflenet_v2_x1_0", "cifar", 32, 3, 32),
    ("vgg11_bn", "cifar", 32, 3, 32),
)
# model, side of an image, channels, images of a step
FEW_CHANNELS = (
    ("resnet8-w0.125", 16, 1, 64),
    ("resnet8-w0.125", 32, 3, 64),
    ("resnet20-w0.125", 32, 3, 64),
    ("wrn-16-1-w0.125", 16, 1, 64),
    ("resnet8-w0.25", 16, 1, 64),
    ("resnet8-w0.5", 16, 1, 64),
)
# model, side of an image, channels, images
EVALUATED = (
    ("resnet8-w0.125", 16, 1, 2048),
    ("resnet20", 16, 1, 2048),
    ("resnet18", 16, 3, 1024),
    ("resnet20", 32, 3, 1024),
    ("resnet18", 32, 3, 512),
    ("resnet20", 64, 3, 256),
    ("resnet18", 64, 3, 128),
)
FACTOR = 4  # between batches that are compared
NARROWEST = "resnet8-w0.125"  # a model of the table of those of few channels


def figures(quick: bool) -> Iterator[Figure]:
    """Compare layouts, kernels, then batches, with one thread, as workers have it."""
    torch.set_num_threads(1)
    yield from layouts(quick)
    yield from kernels(quick)
    yield from batches(quick)


def layouts(quick: bool) -> Iterator[Figure]:
    """Compare a step and a forward pass of each model in both layouts."""
    for name, stem, size, channels, batch in CASES[:1] if quick else CASES:
        images, inputs = torch.randn(batch, channels, size, size), floats(channels, size)
        networks = [
            build(name, classes=10, inputs=inputs, stem=stem, seed=0).to(memory_format=layout)
            for layout in (torch.channels_last, torch.contiguous_format)
        ]
        where = f"{name}, {size}x{size}" + (", ImageNet stem" if stem == "imagenet" else "")
        for what, action in (("a step", step), ("a forward pass", forward)):
            last, usual = (action(network, images) for network in networks)
            yield ratio(
                f"{what} in channels last / in the usual layout, {where}",
                last,
                usual,
                rounds=1 if quick else 5,
            )


def kernels(quick: bool) -> Iterator[Figure]:
    """Compare a step that goes back with PyTorch's own kernels with one that does with oneDNN's."""
    for name, size, channels, batch in FEW_CHANNELS[:1] if quick else FEW_CHANNELS:
        images, inputs = torch.randn(batch, channels, size, size), floats(channels, size)
        network = build(name, classes=10, inputs=inputs, stem="cifar", seed=0)
        narrow = build(NARROWEST, classes=10, inputs=inputs, stem="cifar", seed=0)
        yield ratio(
            f"a step back without oneDNN / with it, {name}, {size}x{size}",
            step(network, images, training_backward(narrow, torch.device("cpu"))),
            step(network, images),
            rounds=1 if quick else 15,
        )


def batches(quick: bool) -> Iterator[Figure]:
    """Compare evaluation in batches of the size that is used with smaller and with larger ones."""
    for name, size, channels, count in EVALUATED[:1] if quick else EVALUATED:
        network = build(name, classes=10, inputs=floats(channels, size), stem="cifar", seed=0)
        place(network, torch.device("cpu"))
        images = torch.randn(count, channels, size, size)
        used = batch_size(square(channels, size), images.device)
        for other in (used // FACTOR, min(used * FACTOR, count)):
            yield ratio(
                f"evaluation of {used} images at once / of {other}, {name}, {size}x{size}",
                evaluation(network, images, used),
                evaluation(network, images, other),
                rounds=1 if quick else 3,
                note=f"{count:,} images",
            )


def evaluation(network: Network, images: torch.Tensor, batch: int) -> Callable[[], None]:
    """Return an action that passes all images through the network, `batch` at once."""

    def act() -> None:
        for chunk in images.split(batch):
            forward(network, chunk)()

    return act


def step(
    network: Network,
    images: torch.Tensor,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> Callable[[], None]:
    """Return an action that trains the network by one step."""
    labels = torch.zeros(len(images), dtype=torch.long)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)

    def act() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        backward(functional.cross_entropy(network(images), labels))
        optimizer.step()

    return act


def forward(network: Network, images: torch.Tensor) -> Callable[[], None]:
    """Return an action that asks the network as a teacher is asked."""

    @torch.inference_mode()
    def act() -> None:
        network.eval()
        network(images)

    return act
