"""Model families: each file is one, and offers what `Family` lists.

To add one is to add a file here: `--teacher`, `--student`, their help and the proposals for a
misspelt name find it. The first line of its docstring is what the help shows.
"""

from typing import TYPE_CHECKING, Any, Protocol, cast

from kd.names import FAMILIES, ModelName

if TYPE_CHECKING:
    from torch import Tensor, nn

Built = tuple["nn.Module", tuple[str, ...]]  # a model, and the module paths of its taps


class Family(Protocol):
    """What a family's file defines.

    `MODELS` maps each model's name to the fields of its `kd.names.ModelFacts`, except `family`. It
    is read without importing the file, and so must be a literal. So must `RANGES`, where a file has
    it: for the beginning of a model's name and an optimizer, its ranges (low, high, default) of
    `lr` and `weight_decay`, where the literature differs from the optimizer's file.
    """

    MODELS: dict[str, dict[str, Any]]

    def build(self, model: ModelName, classes: int, channels: int, stem: str) -> Built:
        """Return a model, and the module paths of its taps, shallowest first.

        It takes images [B, channels, H, W] float and returns logits [B, classes]. A tap's module
        runs once in a forward pass and returns a map [B, C, h, w] that nothing changes in place
        later. Called under `torch.device("meta")`: `kd.models.build.initialise` fills the tensors.
        """
        ...

    def pretrained(self, name: str) -> "dict[str, Tensor]":
        """Return the ImageNet weights of a model that has them, or raise DataError."""
        ...


def load(model: ModelName) -> Family:
    """Return the family of a model of the catalogue."""
    return cast(Family, FAMILIES.load(model.facts.family))
