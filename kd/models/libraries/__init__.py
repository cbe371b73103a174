"""Libraries of models: `--teacher timm:resnet26t` takes any classifier of the library `timm`.

To add one is to add a file here, which offers what `Library` lists. The first line of its docstring
is its help. Unlike the families of the catalogue, a library's models are taken as they are: taps
are found by `kd.models.discovery`, and each model is tried out before a study trains it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from kd.names import LIBRARIES

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """The images that a library's own weights were trained on.

    `size` is their side; `mean` and `deviation` have a number for each of three channels, in units
    of 0-1 pixels.
    """

    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Library(Protocol):
    """What a library's file defines."""

    def names(self) -> list[str]:
        """Return the names of all models."""
        ...

    def make(self, name: str, classes: int, channels: int, size: int) -> "nn.Module":
        """Return a model for images [B, channels, size, size], initialised by torch's generator.

        Raises ProtocolError for an unknown model, or one that cannot have such images.
        """
        ...

    def pretrained(
        self, name: str, classes: int, channels: int, size: int
    ) -> "Mapping[str, Tensor]":
        """Return the library's own weights of the model that `make` returns with these arguments.

        Those of a head have the shape for the classes that they were trained for. Raises
        ProtocolError for a model without weights, DataError if these cannot be downloaded.
        """
        ...

    def pixels(self, name: str) -> Pixels:
        """Return the images that the library's weights of a model were trained on."""
        ...

    def call(self, name: str, classes: int, channels: int, size: int) -> list[str]:
        """Return lines of a Python function that returns what `make` does, for an export.

        They find the package imported by its name. The model need not have the same weights.
        """
        ...


def load(library: str) -> Library:
    """Return a library's member. Raises ProtocolError if the library is not installed."""
    return cast(Library, LIBRARIES.load(library))
