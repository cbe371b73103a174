"""Memory formats: steps and forward passes in channels last against the usual layout, by model.

`kd.numerics.CHANNELS_LAST` is what these figures decided.
"""

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from kd.models import Network, build
from tests.benchmarks.harness import Figure, ratio

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


def figures(quick: bool) -> Iterator[Figure]:
    """Compare both layouts, with one thread, as workers have it."""
    torch.set_num_threads(1)
    for name, stem, size, channels, batch in CASES[:1] if quick else CASES:
        images = torch.randn(batch, channels, size, size)
        networks = [
            build(name, classes=10, channels=channels, stem=stem, seed=0).to(memory_format=layout)
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


def step(network: Network, images: torch.Tensor) -> Callable[[], None]:
    """Return an action that trains the network by one step."""
    labels = torch.zeros(len(images), dtype=torch.long)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)

    def act() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return act


def forward(network: Network, images: torch.Tensor) -> Callable[[], None]:
    """Return an action that asks the network as a teacher is asked."""

    @torch.inference_mode()
    def act() -> None:
        network.eval()
        network(images)

    return act
